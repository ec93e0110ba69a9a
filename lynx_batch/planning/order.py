"""The order in which waiting clips are taken.

Clips are sorted by priority, then by group size (widest first), then by cost class (longest first). Within one class a group stays
with clips of one shape and subject, sorted by prompt, so that compiled graphs, faces and texts are reused.
"""

import hashlib
import heapq
import math
from bisect import insort
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from lynx_batch.clip import ClipSpec
from lynx_batch.planning.cost import Work

CLASS_RATIO = 1.25
"""Predicted times within one cost class differ by less than this factor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedClip:
    """A clip with its work, the smallest group size that may render it, the predicted seconds of a try at that size, and the number of
    tries to expect.
    """

    clip: ClipSpec
    work: Work
    group_size: int
    seconds: float
    num_tries: float = 1.0

    @property
    def gpu_s(self) -> float:
        return self.group_size * self.seconds


class Level(NamedTuple):
    """How urgent a clip is; the smallest value comes first."""

    minus_priority: int
    minus_group_size: int
    minus_cost_class: int

    @property
    def group_size(self) -> int:
        return -self.minus_group_size


class Batch(NamedTuple):
    """Clips that are best rendered by one group, one after another."""

    level: Level
    shape: tuple[int, int, int]
    subject: str


_Entry = tuple[str, str | int, str]
"""What decides the order within a batch, prompt and row, and the ClipId."""


def level_of(planned: PlannedClip) -> Level:
    return _level(planned.clip.request.priority, planned.group_size, planned.seconds)


@lru_cache(maxsize=10_000)
def _level(priority: int, group_size: int, seconds: float) -> Level:
    return Level(-priority, -group_size, -math.floor(math.log(seconds, CLASS_RATIO)))


class _Waiting:
    """The waiting clips of a batch. They are sorted once, when the first one is taken, which is faster than a heap."""

    def __init__(self) -> None:
        self._entries: list[_Entry] = []
        self._num_taken, self._is_sorted = 0, False

    def add(self, entry: _Entry) -> None:
        if self._is_sorted:
            insort(self._entries, entry, lo=self._num_taken)
        else:
            self._entries.append(entry)

    def take(self) -> str:
        """Removes the first clip and returns its id."""
        if not self._is_sorted:
            self._entries.sort()
            self._is_sorted = True
        self._num_taken += 1
        return self._entries[self._num_taken - 1][2]

    @property
    def is_empty(self) -> bool:
        return self._num_taken == len(self._entries)


class ClipQueue:
    """The waiting clips, from which several groups take the next one.

    Where subjects and prompts decide the order, each `salt` gives a different one, so that two queues rarely pick the same clip.
    """

    def __init__(self, salt: str = "") -> None:
        self._salt = salt
        self._clips: dict[Batch, _Waiting] = {}
        self._free: dict[Level, list[Batch]] = {}
        self._owned: dict[str, Batch] = {}
        self._num_clips: Counter[Level] = Counter()
        self._num_by_size: Counter[int] = Counter()
        self._levels: dict[int, list[Level]] = {}
        self._first_levels: dict[int, Level | None] = {}

    def add(self, planned: PlannedClip) -> None:
        clip, params, level = planned.clip, planned.clip.params, level_of(planned)
        subject = "".join(portrait.sha256 for portrait in clip.person)
        batch = Batch(level, (params.width, params.height, params.num_frames), self._salted(subject))
        waiting = self._clips.get(batch)
        if waiting is None:
            waiting = self._clips[batch] = _Waiting()
            heapq.heappush(self._free.setdefault(level, []), batch)
        row = self._salted(f"{clip.request.row:012}") if self._salt else clip.request.row
        waiting.add((self._salted(params.prompt), row, clip.clip_id))
        if not self._num_clips[level]:
            heapq.heappush(self._levels.setdefault(level.group_size, []), level)
            self._first_levels.clear()
        self._num_clips[level] += 1
        self._num_by_size[level.group_size] += 1

    def first_level(self, max_size: int) -> Level | None:
        """The level of the most urgent clip that a group of `max_size` can take."""
        if max_size not in self._first_levels:
            self._first_levels[max_size] = self._find_first_level(max_size)
        return self._first_levels[max_size]

    def _find_first_level(self, max_size: int) -> Level | None:
        for levels in self._levels.values():
            while levels and not self._num_clips[levels[0]]:
                heapq.heappop(levels)
        return min((levels[0] for size, levels in self._levels.items() if levels and size <= max_size), default=None)

    def num_by_size(self) -> Counter[int]:
        """How many clips wait for each group size; sizes with no clips are left out."""
        return +self._num_by_size

    def take(self, group: str, max_size: int) -> str | None:
        """Removes the next clip for a group of `max_size` and returns its id; None if no clip fits."""
        level = self.first_level(max_size)
        if level is None:
            return None
        batch = self._choose(group, level)
        waiting = self._clips[batch]
        clip_id = waiting.take()
        self._num_clips[level] -= 1
        self._num_by_size[level.group_size] -= 1
        if not self._num_clips[level]:
            self._first_levels.clear()
        if waiting.is_empty:
            del self._clips[batch]
            self._owned = {owner: owned for owner, owned in self._owned.items() if owned != batch}
        return clip_id

    def release(self, group: str) -> None:
        """The group takes no more clips of its batch, so another group may continue it."""
        if batch := self._owned.pop(group, None):
            heapq.heappush(self._free[batch.level], batch)

    def _salted(self, name: str) -> str:
        return hashlib.sha256(f"{self._salt}{name}".encode()).hexdigest() if self._salt else name

    def _choose(self, group: str, level: Level) -> Batch:
        """A batch of this level: the group's own, else a free one, else another group's."""
        own, free = self._owned.get(group), self._free[level]
        if own is not None and own.level == level:
            return own
        if not free:
            return min(batch for batch in self._owned.values() if batch.level == level)
        self.release(group)
        self._owned[group] = heapq.heappop(free)
        return self._owned[group]
