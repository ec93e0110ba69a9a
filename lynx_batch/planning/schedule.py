"""Which clip is next on which group, and what becomes of each: a state machine over values, without Ray, clock or I/O.

waiting ──take──▶ running ──rendered──▶ rendered
   ▲                 ├──failed (input)──▶ rejected
   ├─failed (machine, drain, unclear)
   ├─failed (memory, a wider group is possible)   (none is)──▶ failed
   ├─failed (lethal, twice)   (the third time)──▶ failed
   └─failed (clip, attempts left)   (none left)──▶ failed

A clip that was aboard a group when that broke is a suspect: it is tried alone, with nothing else aboard its group.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from types import MappingProxyType

from lynx_batch.errors import Fault
from lynx_batch.planning.cost import LOAD_S
from lynx_batch.planning.order import ClipQueue, Level, PlannedClip, level_of
from lynx_batch.planning.upkeep import deadline_s
from lynx_model.engine.memory import ClipSize

MAX_HELD_AGAINST = 3
"""A group is given nothing more while this many clips failed on it that did not fail elsewhere, too."""

MAX_DEATHS = 3
"""A clip that was alone aboard so many groups when they broke has failed: by then it was the clip each time."""

NO_DEATHS: Mapping[str, int] = MappingProxyType({})

MIN_ENDED = 20
"""So many clips must have ended before their failed share says anything."""

WORTH_SPLITTING_S = 20 * LOAD_S
"""Seconds of narrower work left for every GPU that make it worth while to split a wide group."""


class ClipState(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    RENDERED = "rendered"
    REJECTED = "rejected"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When a clip is given up, and when the run is.

    Args:
        max_attempts: That end through the clip itself, each on another group.
        max_failed_share: Of the clips that ended; the run stops above it.
        give_up_after_s: For so long, beyond what the longest clip takes, nothing but faults of the machine may come.
        deadline_factor: A group that takes so many times what was predicted for its clip is stuck.
    """

    max_attempts: int = 3
    max_failed_share: float = 0.2
    give_up_after_s: float = 1800.0
    deadline_factor: float = 4.0


class _Turn(IntEnum):
    """The order of clips of one priority."""

    FAILED_ELSEWHERE = 0
    FRESH = 1
    SUSPECT = 2


@dataclass(slots=True)
class _Group:
    """`suspicions`: clips that failed here and nowhere else."""

    size: int
    running: set[str] = field(default_factory=set)
    suspicions: set[str] = field(default_factory=set)

    @property
    def is_trusted(self) -> bool:
        return len(self.suspicions) < MAX_HELD_AGAINST


class Schedule:
    """Every clip of a run is in exactly one state; groups join, take clips, and leave.

    Runs that share their clips take them in different orders if each has an `order_salt` of its own.
    """

    def __init__(self, policy: RetryPolicy, order_salt: str = "") -> None:
        self._policy = policy
        self._sizes: tuple[int, ...] = ()
        self._clips: dict[str, PlannedClip] = {}
        self._state: dict[str, ClipState] = {}
        self._counts: Counter[ClipState] = Counter()
        self._attempts: Counter[str] = Counter()
        self._failed_on: dict[str, set[str]] = {}
        self._suspects: set[str] = set()
        self._deaths: Counter[str] = Counter()
        self._apart: set[str] = set()
        self._queue, self._groups = ClipQueue(order_salt), dict[str, _Group]()
        self._group_of: dict[str, str] = {}
        self._waiting_gpu_s = 0.0
        self._least_sizes: dict[ClipSize, int] = {}
        self._longest_s = 0.0

    def plan(self, clips: Iterable[PlannedClip], sizes: tuple[int, ...], deaths: Mapping[str, int] = NO_DEATHS) -> None:
        """Takes up the clips of the run; `sizes` of groups are possible, the narrowest first.

        `deaths` is how many groups each clip has broken alone in earlier runs: such a clip is a suspect from the start.
        """
        self._sizes = sizes
        self._deaths.update(deaths)
        self._suspects.update(self._deaths)
        for planned in clips:
            self._state[planned.clip.clip_id] = ClipState.WAITING
            self._counts[ClipState.WAITING] += 1
            self._longest_s = max(self._longest_s, planned.seconds)
            self._enqueue(planned)

    def join(self, group: str, size: int) -> None:
        """A group of `size` GPUs was formed; its name is never used again."""
        self._groups[group] = _Group(size)

    def leave(self, group: str) -> None:
        """The group is gone; what still ran on it must have ended before."""
        member = self._groups.pop(group)
        assert not member.running, f"{group} left with a clip"
        self._queue.release(group)

    def take(self, group: str) -> PlannedClip | None:
        """The next clip for this group, now running; None if there is none for it, or if a suspect is or must be alone on it."""
        while (clip_id := self._next(group)) is not None:
            planned = self._clips[clip_id]
            self._waiting_gpu_s -= planned.gpu_s
            least_size = self._least_sizes.get(planned.work.clip, 0)
            if least_size > self._groups[group].size:
                self._enqueue(_widened(planned, least_size))
                continue
            self._set(clip_id, ClipState.RUNNING)
            self._group_of[clip_id] = group
            self._groups[group].running.add(clip_id)
            return planned
        return None

    def deadline_s(self, predicted_s: float | None) -> float:
        """For how long a group with this clip may say nothing; `predicted_s` is None if nothing is known of its device."""
        return deadline_s(predicted_s, factor=self._policy.deadline_factor)

    def rendered(self, clip_id: str) -> None:
        self._end_attempt(clip_id, ClipState.RENDERED)

    def fault_of_break(self, group: str) -> Fault:
        """What it means to the clips aboard that a ready group breaks on a node that lives; to be asked before `failed`."""
        return Fault.LETHAL if len(self._groups[group].running) == 1 else Fault.UNCLEAR

    def failed(self, clip_id: str, fault: Fault) -> ClipState:
        """Ends an attempt that failed; tells what becomes of the clip. Faults of clip and input alone use up an attempt, and
        the last of `MAX_DEATHS` lethal ones.
        """
        if fault in (Fault.UNCLEAR, Fault.LETHAL):
            return self._break(clip_id, is_alone=fault is Fault.LETHAL)
        if fault in (Fault.MACHINE, Fault.DRAIN):
            return self._move(clip_id, ClipState.WAITING)
        if fault is Fault.INPUT:
            return self._end_attempt(clip_id, ClipState.REJECTED)
        if fault is Fault.MEMORY:
            return self._widen(clip_id)
        if self._policy.max_attempts > 1:  # else no other group could ever clear this one
            self._hold_against_group(clip_id)
        is_last = self._attempts[clip_id] + 1 >= self._policy.max_attempts
        return self._end_attempt(clip_id, ClipState.FAILED if is_last else ClipState.WAITING)

    @property
    def give_up_after_s(self) -> float:
        """How long nothing but machine faults may come before the run stops; the longest clip could have ended by then."""
        return self._policy.give_up_after_s + self._longest_s

    def reason_to_stop(self) -> str | None:
        """Why the run should stop early, if too many of its clips failed."""
        num_failed = self._counts[ClipState.FAILED]
        num_ended = num_failed + self._counts[ClipState.RENDERED]
        if num_ended >= MIN_ENDED and num_failed > self._policy.max_failed_share * num_ended:
            share = self._policy.max_failed_share
            return f"{num_failed} of {num_ended} clips failed, more than retry.max_failed_share={share:g} allows"
        return None

    def wanted_size(self, room: int) -> int | None:
        """The size of the next group to form within `room` GPUs: the widest that clips wait for in vain."""
        spare = 0
        idle = Counter(member.size for member in self._groups.values() if member.is_trusted and not member.running)
        waiting = self._num_waiting_by_size()
        for size in sorted({*idle, *waiting}, reverse=True):
            spare += idle[size] - waiting[size]
            if spare < 0 and size <= room:
                return size
            spare = max(spare, 0)
        return None

    def is_useless(self, group: str) -> bool:
        """Whether the GPUs of an idle group serve better in another: of another size, or formed afresh."""
        member = self._groups[group]
        if member.running or not self._counts[ClipState.WAITING]:
            return False
        if self._can_take(group):
            return False
        return (
            self._is_too_wide(member)
            or any(not self._has_taker(size) for size in self._queue.num_by_size())
            or any(not any(self._suits(clip_id, name) for name in self._groups) for clip_id in self._apart)
        )

    def state(self, clip_id: str) -> ClipState:
        """A clip that was not planned yet is waiting."""
        return self._state.get(clip_id, ClipState.WAITING)

    def attempts(self, clip_id: str) -> int:
        """How many attempts ended through the clip itself, its success included."""
        return self._attempts[clip_id]

    def deaths(self, clip_id: str) -> int:
        """How many groups broke with this clip alone aboard, in earlier runs, too."""
        return self._deaths[clip_id]

    def count(self, state: ClipState) -> int:
        return self._counts[state]

    @property
    def num_unfinished(self) -> int:
        return self._counts[ClipState.WAITING] + self._counts[ClipState.RUNNING]

    @property
    def is_finished(self) -> bool:
        return self.num_unfinished == 0

    def _next(self, group: str) -> str | None:
        member = self._groups[group]
        if not member.is_trusted or self._is_too_wide(member) or member.running & self._suspects:
            return None
        chosen = self._first_apart(group)
        if chosen is None:
            return self._queue.take(group, member.size)
        if chosen in self._suspects and member.running:
            return None
        self._apart.remove(chosen)
        return chosen

    def _first_apart(self, group: str) -> str | None:
        """The clip apart that comes before all in the queue. Within a priority, one that failed elsewhere comes first, because that
        tells whose fault it was; a suspect comes last, after those of fewer deaths, because nothing else is to wait for it.
        """
        suitable = [clip_id for clip_id in self._apart if self._suits(clip_id, group)]
        if not suitable:
            return None
        chosen = min(suitable, key=self._turn)
        first = self._queue.first_level(self._groups[group].size)
        return chosen if first is None or self._turn(chosen) < (first.minus_priority, _Turn.FRESH) else None

    def _turn(self, clip_id: str) -> tuple[int, _Turn, int, Level, str]:
        turn = _Turn.SUSPECT if clip_id in self._suspects else _Turn.FAILED_ELSEWHERE
        level = level_of(self._clips[clip_id])
        return level.minus_priority, turn, self._deaths[clip_id], level, clip_id

    def _suits(self, clip_id: str, group: str) -> bool:
        member = self._groups[group]
        is_wide_enough = self._clips[clip_id].group_size <= member.size
        return is_wide_enough and member.is_trusted and group not in self._failed_on.get(clip_id, ())

    def _can_take(self, group: str) -> bool:
        member = self._groups[group]
        has_fresh = member.is_trusted and self._queue.first_level(member.size) is not None
        has_any = has_fresh or any(self._suits(clip_id, group) for clip_id in self._apart)
        return has_any and not self._is_too_wide(member)

    def _has_taker(self, size: int) -> bool:
        return any(member.is_trusted and member.size >= size for member in self._groups.values())

    def _is_too_wide(self, member: _Group) -> bool:
        """Whether so much narrower work waits, and nothing else, that the group had better be split."""
        is_narrowest = member.size == self._sizes[0]
        if is_narrowest or max(self._num_waiting_by_size(), default=member.size) >= member.size:
            return False
        return self._waiting_gpu_s > WORTH_SPLITTING_S * sum(other.size for other in self._groups.values())

    def _num_waiting_by_size(self) -> Counter[int]:
        return self._queue.num_by_size() + Counter(self._clips[clip_id].group_size for clip_id in self._apart)

    def _hold_against_group(self, clip_id: str) -> None:
        """Holds the failure against the group, until the clip fails on another: then the clip is to blame."""
        group = self._group_of[clip_id]
        known = self._failed_on.setdefault(clip_id, set())
        for other in known & self._groups.keys():
            self._groups[other].suspicions.discard(clip_id)
        if not known:
            self._groups[group].suspicions.add(clip_id)
        known.add(group)

    def _break(self, clip_id: str, *, is_alone: bool) -> ClipState:
        """The clip is tried again alone, until it has broken too many groups."""
        self._suspects.add(clip_id)
        self._deaths[clip_id] += is_alone
        if is_alone and self._deaths[clip_id] >= MAX_DEATHS:
            return self._end_attempt(clip_id, ClipState.FAILED)
        return self._move(clip_id, ClipState.WAITING)

    def _widen(self, clip_id: str) -> ClipState:
        """What did not fit goes to a wider group, and so does what has the same shape, once its turn comes."""
        size = self._groups[self._group_of[clip_id]].size
        wider = next((other for other in self._sizes if other > size), None)
        if wider is None:
            return self._end_attempt(clip_id, ClipState.FAILED)
        planned = self._clips[clip_id]
        self._least_sizes[planned.work.clip] = max(wider, self._least_sizes.get(planned.work.clip, 0))
        self._clips[clip_id] = _widened(planned, wider)
        return self._move(clip_id, ClipState.WAITING)

    def _end_attempt(self, clip_id: str, state: ClipState) -> ClipState:
        self._attempts[clip_id] += 1
        return self._move(clip_id, state)

    def _move(self, clip_id: str, state: ClipState) -> ClipState:
        assert self._state[clip_id] is ClipState.RUNNING, f"{clip_id} is {self._state[clip_id]}, not running"
        self._groups[self._group_of.pop(clip_id)].running.remove(clip_id)
        self._set(clip_id, state)
        if state is ClipState.WAITING:
            self._enqueue(self._clips[clip_id])
        return state

    def _enqueue(self, planned: PlannedClip) -> None:
        clip_id = planned.clip.clip_id
        self._clips[clip_id] = planned
        self._waiting_gpu_s += planned.gpu_s
        if clip_id in self._failed_on or clip_id in self._suspects:
            self._apart.add(clip_id)
        else:
            self._queue.add(planned)

    def _set(self, clip_id: str, state: ClipState) -> None:
        self._counts[self._state[clip_id]] -= 1
        self._counts[state] += 1
        self._state[clip_id] = state


def has_used_attempt(fault: Fault, state: ClipState) -> bool:
    """Whether a failure used up an attempt, given what it left its clip as: its own fault, or the last failure it may have."""
    return fault is Fault.CLIP or state is not ClipState.WAITING


def _widened(planned: PlannedClip, size: int) -> PlannedClip:
    return replace(planned, group_size=size, seconds=planned.gpu_s / size)
