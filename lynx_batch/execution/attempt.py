"""One attempt at a clip: when its stages ran, and what its errors come to."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import structlog
import torch

from lynx_batch.errors import STORE_FAULTS, LynxError, Permanent, PhotoUnreachable, UnfitState, UnreadableRecord
from lynx_batch.execution.tasks import Failed
from lynx_batch.ledger.trace import Span
from lynx_batch.planning.schedule import Fault
from lynx_model.errors import OutOfMemory

log = structlog.get_logger()

MAX_ERROR_LENGTH = 1000

T = TypeVar("T")


class Stopwatch:
    """The stages of one attempt, in the order of their ends."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start_s, started = time.time(), time.perf_counter()
        try:
            yield
        finally:
            self.note(name, start_s, time.perf_counter() - started)

    def note(self, name: str, start_s: float, seconds: float) -> None:
        self.spans.append(Span(stage=name, start_s=start_s, seconds=seconds))


def attempted(do: Callable[[], T], stopwatch: Stopwatch, *, unknown: Fault = Fault.CLIP) -> T | Failed:
    """What `do` gives, or what it failed with. The one place where a library's error becomes an outcome of the clip.

    `unknown`: whose fault an error is that says nothing about it.
    """
    try:
        return do()
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        return _failed(OutOfMemory(str(error)), stopwatch, Fault.MEMORY)
    except torch.AcceleratorError as error:  # nothing works on the device any more, in this process
        log.exception("device_broke")
        return replace(_failed(error, stopwatch, Fault.UNCLEAR), breaks_group=True)
    except LynxError as error:
        return _failed(error, stopwatch, _fault(error))
    except Exception as error:
        log.exception("attempt_broke")
        return _failed(error, stopwatch, unknown)


def _failed(error: Exception, stopwatch: Stopwatch, fault: Fault) -> Failed:
    return Failed(
        error_type=type(error).__name__,
        error=(str(error) or repr(error))[:MAX_ERROR_LENGTH],
        fault=fault,
        spans=tuple(stopwatch.spans),
    )


def _fault(error: LynxError) -> Fault:
    if isinstance(error, (*STORE_FAULTS, UnfitState)):
        return Fault.MACHINE
    if isinstance(error, UnreadableRecord):  # a damaged commit says nothing about the row
        return Fault.CLIP
    if isinstance(error, (Permanent, PhotoUnreachable)):  # other groups would wait for the photo as long
        return Fault.INPUT
    return Fault.MEMORY if isinstance(error, OutOfMemory) else Fault.CLIP
