"""A store's outage in mid-run is waited out, for the work of GPUs is at stake; so are, for moments, a full store and lapsed credentials."""

from collections.abc import Callable
from typing import TypeVar

import structlog
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_before_delay, wait_exponential_jitter

from lynx_batch.errors import StoreUnavailable, StoreUnready

log = structlog.get_logger()

LONGEST_S = 300.0
"""Less than ranks wait for each other, so that waiting for a store breaks no group."""

UNREADY_S = 20.0
"""Others may make room meanwhile, or renew what credentials are read from; more than that only a person can do."""

MAX_PAUSE_S = 20.0

T = TypeVar("T")


def retry_while_unavailable(operation: Callable[[], T], *, longest_s: float = LONGEST_S) -> T:
    """What `operation` gives, tried again with growing pauses while its store cannot be reached, or is not ready.

    `operation` must do no harm when it is done twice.

    Raises:
        StoreUnavailable: If the store stays away for longer than `longest_s`.
        StoreUnready: If the store stays full, or the credentials unfit, for UNREADY_S.
        StoreRefused: At once, if the store refuses.
    """
    away, unready = stop_before_delay(longest_s), stop_before_delay(min(longest_s, UNREADY_S))
    retrying = Retrying(
        retry=retry_if_exception_type((StoreUnavailable, StoreUnready)),
        wait=wait_exponential_jitter(multiplier=0.5, max=MAX_PAUSE_S),
        stop=lambda state: (unready if isinstance(_error(state), StoreUnready) else away)(state),
        before_sleep=_tell,
        reraise=True,
    )
    return retrying(operation)


def _tell(state: RetryCallState) -> None:
    waited_s = round(state.seconds_since_start or 0.0, 1)
    log.warning("store_awaited", waited_s=waited_s, error=str(_error(state)))


def _error(state: RetryCallState) -> BaseException | None:
    assert state.outcome is not None
    return state.outcome.exception()
