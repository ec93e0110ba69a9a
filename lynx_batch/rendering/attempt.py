"""One attempt at a clip: its task, when its stages ran, and how its errors are classified."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import structlog
import torch

from lynx_batch.errors import STORE_FAULTS, Fault, LynxError, Permanent, PhotoUnreachable, UnfitState, UnreadableRecord
from lynx_batch.rendering.tasks import Failed, RenderTask
from lynx_batch.stages import Span, Stage
from lynx_batch.telemetry import bound
from lynx_model.errors import OutOfMemory

log = structlog.get_logger()

MAX_ERROR_LENGTH = 1000

T = TypeVar("T")


class Attempt:
    """One attempt at a clip. `spans` says when each stage ran, in the order in which they ended."""

    def __init__(self, task: RenderTask) -> None:
        self.task = task
        self.spans: list[Span] = []

    @property
    def seconds(self) -> dict[Stage, float]:
        """How long each stage took so far; the times of a repeated stage are added up."""
        seconds: defaultdict[Stage, float] = defaultdict(float)
        for span in self.spans:
            seconds[span.stage] += span.seconds
        return dict(seconds)

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        start_s, started = time.time(), time.perf_counter()
        try:
            yield
        finally:
            self.note(stage, start_s, time.perf_counter() - started)

    def note(self, stage: Stage, start_s: float, seconds: float) -> None:
        self.spans.append(Span(stage=stage, start_s=start_s, seconds=seconds))

    def carry_out(self, step: Callable[[], T], *, unknown: Fault = Fault.CLIP) -> T | Failed:
        """The result of `step`, or its failure. This is the only place where a library's error becomes an outcome of the clip.

        `unknown` is the fault of errors whose type does not determine it.
        """
        with bound(clip_id=self.task.clip.clip_id, attempt=self.task.attempt):
            return self._carry_out(step, unknown)

    def _carry_out(self, step: Callable[[], T], unknown: Fault) -> T | Failed:
        try:
            return step()
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            return self._failed(OutOfMemory(str(error)), Fault.MEMORY)
        except torch.AcceleratorError as error:  # this process cannot use the device any more
            log.exception("device_broke")
            return replace(self._failed(error, Fault.UNCLEAR), breaks_group=True)
        except LynxError as error:
            return self._failed(error, _fault(error))
        except Exception as error:
            log.exception("attempt_broke")
            return self._failed(error, unknown)

    def _failed(self, error: Exception, fault: Fault) -> Failed:
        return Failed(
            error_type=type(error).__name__,
            error=(str(error) or repr(error))[:MAX_ERROR_LENGTH],
            fault=fault,
            spans=tuple(self.spans),
        )


def _fault(error: LynxError) -> Fault:
    if isinstance(error, (*STORE_FAULTS, UnfitState)):
        return Fault.MACHINE
    if isinstance(error, UnreadableRecord):  # the commit is damaged, not the row
        return Fault.CLIP
    if isinstance(error, (Permanent, PhotoUnreachable)):  # another group would wait just as long for the photo
        return Fault.INPUT
    return Fault.MEMORY if isinstance(error, OutOfMemory) else Fault.CLIP
