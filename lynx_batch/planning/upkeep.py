"""When a group had better end though none of its workers failed: it is stuck, it leaks, or its node is taken away."""

from collections.abc import Sequence
from itertools import pairwise

UNFORESEEN_S = 900.0
"""What a clip may take beyond its share of the predicted time: compiling a new shape, a rank that waits for another until
the collective times out, a store that is waited for."""

UNPREDICTED_CLIP_S = 6 * 3600.0
"""The deadline of a clip on a device without figures."""

WARM_UP_CLIPS = 3
RISING_CLIPS = 5
LEAK_GIB = 16.0
"""A rank that grew by more since its third clip, and with each of the last five, leaks; caches and new shapes end sooner."""

SAVE_S = 10.0
"""An estimate of what it takes to ask a group for its clip's state and to write that, some tens of MB, to a store."""


def deadline_s(predicted_s: float | None, *, factor: float) -> float:
    """For how long a group with a clip may say nothing; `predicted_s` is None on a device without figures."""
    return UNPREDICTED_CLIP_S if predicted_s is None else factor * predicted_s + UNFORESEEN_S


def has_leak(memory_gib: Sequence[float], *, num_ranks: int) -> bool:
    """Whether a group's memory, all ranks together after each of its clips, rises clip after clip."""
    since_warm = memory_gib[WARM_UP_CLIPS - 1 :]
    if len(since_warm) <= RISING_CLIPS or since_warm[-1] - since_warm[0] <= LEAK_GIB * num_ranks:
        return False
    return all(before < after for before, after in pairwise(since_warm[-RISING_CLIPS - 1 :]))


def is_time_to_save(now_s: float, drained_s: float, *, step_s: float) -> bool:
    """Whether a clip on a node that is gone at `drained_s` must pause now: it does so after the step that it is at."""
    return now_s >= drained_s - SAVE_S - 2 * step_s
