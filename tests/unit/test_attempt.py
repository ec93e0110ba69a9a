"""Whose fault the errors of an attempt are."""

import pytest
import torch

from lynx_batch.errors import (
    ImplausibleResult,
    PhotoChanged,
    PhotoRefused,
    StoreRefused,
    StoreUnavailable,
    StoreUnready,
    UnreadableRecord,
)
from lynx_batch.execution.attempt import Stopwatch, attempted
from lynx_batch.execution.tasks import Failed
from lynx_batch.planning.schedule import Fault
from lynx_model.errors import OutOfMemory


def failure(error: Exception, unknown: Fault = Fault.CLIP) -> Failed:
    def fail() -> None:
        raise error

    failed = attempted(fail, Stopwatch(), unknown=unknown)
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
def test_an_error_that_says_whose_fault_it_is_is_believed(error: Exception, fault: Fault, unknown: Fault) -> None:
    assert failure(error, unknown).fault is fault


def test_any_other_error_is_the_fault_of_whom_the_moment_suggests() -> None:
    reset = RuntimeError("Connection closed by peer")
    assert failure(reset).fault is Fault.CLIP
    assert failure(reset, unknown=Fault.MACHINE).fault is Fault.MACHINE


def test_a_lost_device_breaks_the_group_through_the_machine_or_the_clip() -> None:
    lost = failure(torch.AcceleratorError("CUDA error: an illegal memory access was encountered"))
    assert (lost.fault, lost.breaks_group) == (Fault.UNCLEAR, True)
    assert not failure(RuntimeError("a")).breaks_group
