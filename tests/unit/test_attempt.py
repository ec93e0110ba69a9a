"""Whose fault the errors of an attempt are."""

import pytest
import torch

from lynx_batch.errors import (
    Fault,
    ImplausibleResult,
    PhotoChanged,
    PhotoRefused,
    StoreRefused,
    StoreUnavailable,
    StoreUnready,
    UnreadableRecord,
)
from lynx_batch.rendering.attempt import Attempt
from lynx_batch.rendering.tasks import Failed, RenderTask
from lynx_batch.stages import Stage
from lynx_model.errors import OutOfMemory
from tests.builders import clip

TASK = RenderTask(clip=clip("a"), attempt="r-1")


def failure(error: Exception, unknown: Fault = Fault.CLIP) -> Failed:
    def fail() -> None:
        raise error

    failed = Attempt(TASK).carry_out(fail, unknown=unknown)
    assert isinstance(failed, Failed)
    return failed


@pytest.mark.parametrize("unknown", [Fault.CLIP, Fault.MACHINE])
@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (PhotoChanged("a"), Fault.INPUT),
        (OutOfMemory("a"), Fault.MEMORY),
        (torch.OutOfMemoryError("a"), Fault.MEMORY),
        (StoreUnavailable("a"), Fault.MACHINE),
        (StoreRefused("a"), Fault.MACHINE),
        (StoreUnready("a"), Fault.MACHINE),
        (PhotoRefused("a"), Fault.INPUT),
        (ImplausibleResult("a"), Fault.CLIP),
        (UnreadableRecord("a"), Fault.CLIP),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_type_determines_the_fault(error: Exception, fault: Fault, unknown: Fault) -> None:
    assert failure(error, unknown).fault is fault


def test_any_other_error_is_given_the_fault_of_its_step() -> None:
    reset = RuntimeError("Connection closed by peer")
    assert failure(reset).fault is Fault.CLIP
    assert failure(reset, unknown=Fault.MACHINE).fault is Fault.MACHINE


def test_a_lost_device_breaks_the_group_and_the_cause_is_unclear() -> None:
    lost = failure(torch.AcceleratorError("CUDA error: an illegal memory access was encountered"))
    assert (lost.fault, lost.breaks_group) == (Fault.UNCLEAR, True)
    assert not failure(RuntimeError("a")).breaks_group


def test_the_times_of_a_repeated_stage_add_up() -> None:
    attempt = Attempt(TASK)
    attempt.note(Stage.SUBJECT, 10.0, 1.0)
    attempt.note(Stage.DENOISE, 11.0, 4.0)
    attempt.note(Stage.SUBJECT, 15.0, 0.5)
    assert attempt.seconds == {Stage.SUBJECT: 1.5, Stage.DENOISE: 4.0}
    assert [span.stage for span in attempt.spans] == [Stage.SUBJECT, Stage.DENOISE, Stage.SUBJECT]
