"""Times calls with the device's own clock."""

import time
from collections.abc import Callable

import torch

CALLS_IN_A_ROW = 20


def time_ms(call: Callable[[], object], device: torch.device) -> float:
    """The time of one call, from its first kernel to its last."""
    if device.type != "cuda":
        started_s = time.perf_counter()
        call()
        return (time.perf_counter() - started_s) * 1000
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    torch.cuda.synchronize(device)
    return float(start.elapsed_time(end))


def time_sustained_ms(call: Callable[[], object], device: torch.device) -> float:
    """The average time of several calls in a row, so that the GPU is as warm as in a forward."""

    def repeated() -> None:
        for _ in range(CALLS_IN_A_ROW):
            call()

    return time_ms(repeated, device) / CALLS_IN_A_ROW
