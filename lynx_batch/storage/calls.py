"""Retries of a call to a store, and its final error in our own words."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from lynx_batch.errors import StoreRefused, StoreUnavailable
from lynx_batch.redaction import redact, scrub
from lynx_batch.storage.uris import is_local, scheme_of
from lynx_batch.store_errors import Operation, explain, kind_of
from lynx_batch.store_traffic import count_error, count_retry

T = TypeVar("T")


def retry(operation: Operation, uri: str, call: Callable[[], T], *, max_tries: int) -> T:
    """The result of `call`, which is repeated after short pauses while its store is unavailable."""
    return Retrying(
        retry=retry_if_exception(lambda error: kind_of(error, scheme_of(uri), operation) is StoreUnavailable),
        stop=stop_after_attempt(max_tries),
        wait=wait_exponential_jitter(multiplier=0.2, max=2),
        before_sleep=_count_retry,
        reraise=True,
    )(call)


def _count_retry(state: RetryCallState) -> None:
    count_retry(StoreUnavailable.__name__, wait_s=state.upcoming_sleep)


@contextmanager
def explained(
    operation: Operation, uri: str, find_reason: Callable[[Exception], Exception] = lambda error: error
) -> Iterator[None]:
    """Turns an error of a client library into one of ours. The original is dropped: its text may hold a signed URL."""
    try:
        yield
    except Exception as error:
        ours = explain(find_reason(error), redact(uri), scheme_of(uri), operation)
        if ours is None:
            raise
        if isinstance(ours, (StoreRefused, StoreUnavailable)):
            count_error(type(ours).__name__)
        raise (ours if is_local(uri) else type(ours)(scrub(str(ours), uri))) from None
