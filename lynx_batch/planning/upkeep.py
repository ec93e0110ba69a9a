"""When to end a group although no worker failed: it is stuck, it leaks memory, or its node is going away."""

from collections.abc import Sequence
from itertools import pairwise

UNFORESEEN_S = 900.0
"""Allowance beyond the multiple of the predicted time: for compiling a new shape, a collective operation that times out, and retries
while a store is unavailable."""

UNPREDICTED_CLIP_S = 6 * 3600.0
"""The deadline of a clip on a device whose speed is unknown."""

WARM_UP_CLIPS = 3
RISING_CLIPS = 5
LEAK_GIB = 16.0
"""A rank leaks if it grew by more than this since its third clip and after each of the last five. Caches stop growing sooner."""

SAVE_S = 10.0
"""Estimated time to ask a group for the state of its clip and to write that, some tens of MB, to a store."""


def deadline_s(predicted_s: float | None, *, factor: float) -> float:
    """How long a group with a clip may take without an answer; `predicted_s` is None on a device without figures."""
    return UNPREDICTED_CLIP_S if predicted_s is None else factor * predicted_s + UNFORESEEN_S


def has_leak(memory_gib: Sequence[float], *, num_ranks: int) -> bool:
    """Whether the memory of a group rises clip after clip. `memory_gib`: the sum over its ranks, after each clip."""
    if len(memory_gib) < WARM_UP_CLIPS + RISING_CLIPS:
        return False
    if memory_gib[-1] - memory_gib[WARM_UP_CLIPS - 1] <= LEAK_GIB * num_ranks:
        return False
    return all(before < after for before, after in pairwise(memory_gib[-RISING_CLIPS - 1 :]))


def is_time_to_save(now_s: float, gone_at_s: float, *, step_s: float) -> bool:
    """Whether a clip on a node that is gone at `gone_at_s` must be paused now. It is saved after its current step."""
    return now_s >= gone_at_s - SAVE_S - 2 * step_s
