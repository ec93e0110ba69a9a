"""Waits out a store's outage in mid-run, so that rendered work is not lost; briefly also a full store or expired credentials."""

from collections.abc import Callable
from typing import TypeVar

import structlog
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_before_delay, wait_exponential_jitter

from lynx_batch.errors import StoreUnavailable, StoreUnready
from lynx_batch.store_traffic import count_wait

log = structlog.get_logger()

LONGEST_S = 300.0
"""Shorter than the time that ranks wait for each other, so that waiting for a store breaks no group."""

UNREADY_S = 20.0
"""Long enough for another process to free space or to renew the credentials; anything else needs a person."""

MAX_PAUSE_S = 20.0

T = TypeVar("T")


def retry_while_unavailable(operation: Callable[[], T], *, longest_s: float = LONGEST_S) -> T:
    """The result of `operation`, which is retried with growing pauses while its store is unavailable or not ready.

    `operation` must be idempotent.

    Raises:
        StoreUnavailable: If the store stays unavailable for longer than `longest_s`.
        StoreUnready: If the store stays full, or the credentials invalid, for UNREADY_S.
        StoreRefused: Immediately, if the store refuses.
    """
    unavailable, unready = stop_before_delay(longest_s), stop_before_delay(min(longest_s, UNREADY_S))
    retrying = Retrying(
        retry=retry_if_exception_type((StoreUnavailable, StoreUnready)),
        wait=wait_exponential_jitter(multiplier=0.5, max=MAX_PAUSE_S),
        stop=lambda state: (unready if isinstance(_error(state), StoreUnready) else unavailable)(state),
        before_sleep=_note_pause,
        reraise=True,
    )
    return retrying(operation)


def _note_pause(state: RetryCallState) -> None:
    count_wait(state.upcoming_sleep)
    waited_s = round(state.seconds_since_start or 0.0, 1)
    log.warning("waiting_for_store", waited_s=waited_s, error=str(_error(state)))


def _error(state: RetryCallState) -> BaseException | None:
    assert state.outcome is not None
    return state.outcome.exception()
