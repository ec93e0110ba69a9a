"""Counts what this process asks of its stores: errors, seconds spent waiting before retries, bytes uploaded."""

from collections import Counter
from dataclasses import dataclass, field
from threading import Lock


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Totals since the process started. `errors` are counted by the name of the error, such as StoreUnavailable."""

    errors: Counter[str] = field(default_factory=Counter)
    wait_s: float = 0.0
    uploaded_bytes: int = 0

    def since(self, earlier: "Traffic") -> "Traffic":
        """What was added to the `earlier` totals."""
        return Traffic(
            errors=self.errors - earlier.errors,
            wait_s=self.wait_s - earlier.wait_s,
            uploaded_bytes=self.uploaded_bytes - earlier.uploaded_bytes,
        )


class _Meter:
    """Adds up what all threads of the process report."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._errors: Counter[str] = Counter()
        self._wait_s, self._uploaded_bytes = 0.0, 0

    def add(self, *, error: str | None = None, wait_s: float = 0.0, uploaded_bytes: int = 0) -> None:
        with self._lock:
            if error is not None:
                self._errors[error] += 1
            self._wait_s += wait_s
            self._uploaded_bytes += uploaded_bytes

    def read(self) -> Traffic:
        with self._lock:
            return Traffic(errors=self._errors.copy(), wait_s=self._wait_s, uploaded_bytes=self._uploaded_bytes)


_METER = _Meter()


def count_error(error: str) -> None:
    """A call to a store failed for good."""
    _METER.add(error=error)


def count_retry(error: str, *, wait_s: float) -> None:
    """A call to a store failed, and is repeated after `wait_s`."""
    _METER.add(error=error, wait_s=wait_s)


def count_wait(wait_s: float) -> None:
    """Work waits because its store is unavailable. The failed call was counted before."""
    _METER.add(wait_s=wait_s)


def count_upload(num_bytes: int) -> None:
    _METER.add(uploaded_bytes=num_bytes)


def read_traffic() -> Traffic:
    """The totals of this process so far."""
    return _METER.read()
