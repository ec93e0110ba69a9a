"""A store's outage in mid-run is waited out: the work of GPUs is at stake."""

from collections.abc import Callable
from typing import TypeVar

import structlog
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_before_delay, wait_exponential_jitter

from lynx_batch.errors import StoreUnavailable

log = structlog.get_logger()

LONGEST_S = 300.0
"""Less than ranks wait for each other, so that waiting for a store breaks no group."""

MAX_PAUSE_S = 20.0

T = TypeVar("T")


def outlast(operation: Callable[[], T], *, longest_s: float = LONGEST_S) -> T:
    """What `operation` gives, tried again with growing pauses while its store cannot be reached.

    `operation` must do no harm when it is done twice.

    Raises:
        StoreUnavailable: If the store stays away for longer than `longest_s`.
    """
    retrying = Retrying(
        retry=retry_if_exception_type(StoreUnavailable),
        wait=wait_exponential_jitter(multiplier=0.5, max=MAX_PAUSE_S),
        stop=stop_before_delay(longest_s),
        before_sleep=_tell,
        reraise=True,
    )
    return retrying(operation)


def _tell(state: RetryCallState) -> None:
    assert state.outcome is not None
    waited_s = round(state.seconds_since_start or 0.0, 1)
    log.warning("store_awaited", waited_s=waited_s, error=str(state.outcome.exception()))
