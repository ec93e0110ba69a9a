"""Which group renders which clip next, and the state of each clip: a state machine over values, without Ray, clock or I/O.

    waiting ──take──▶ running
    running ──rendered──▶ rendered (1)
    running ──judged────▶ waiting for its next try, or rejected (1) if no further try is allowed

    running, failed with    the clip is then
    input                   rejected (1)
    clip                    waiting (1), or failed (1) if that was its last attempt
    memory                  waiting for a wider group, or failed (1) if none is possible
    unclear                 waiting, as a suspect
    lethal                  waiting, as a suspect, or failed (1) the third time
    machine, drain          waiting

    (1) The clip has used up an attempt.

Unclear: the group broke with several clips aboard. Lethal: it broke with this clip alone aboard. A suspect is tried alone: nothing
else is aboard its group.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from types import MappingProxyType

from lynx_batch.errors import Fault
from lynx_batch.planning.cost import LOAD_S, Work
from lynx_batch.planning.order import ClipQueue, Level, PlannedClip, level_of
from lynx_batch.planning.upkeep import deadline_s
from lynx_model.engine.memory import ClipSize

MAX_HELD_AGAINST = 3
"""A group gets no more clips while this many clips have failed on it and on no other group."""

MAX_DEATHS = 3
"""After this many groups broke with a clip alone aboard, blame the clip: it has failed."""

NO_DEATHS: Mapping[str, int] = MappingProxyType({})

MIN_ENDED = 20
"""The share of failed clips is ignored until this many clips have ended."""

WORTH_SPLITTING_S = 20 * LOAD_S
"""A wide group is worth splitting if more than this many seconds of narrower work are left per GPU."""


class ClipState(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    RENDERED = "rendered"
    REJECTED = "rejected"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When to give up a clip, and when to give up the run.

    Args:
        max_attempts: Attempts of a clip that end because of the clip itself, each on another group.
        max_failed_share: The run stops if a larger share of the ended clips failed.
        give_up_after_s: The run stops if nothing but machine faults came for this long beyond the time of the longest clip.
        deadline_factor: A group is stuck if it takes this many times the predicted time of its clip, plus `UNFORESEEN_S`.
    """

    max_attempts: int = 3
    max_failed_share: float = 0.2
    give_up_after_s: float = 1800.0
    deadline_factor: float = 4.0


class _Turn(IntEnum):
    """The order among clips of one priority."""

    FAILED_ELSEWHERE = 0
    FRESH = 1
    SUSPECT = 2


@dataclass(slots=True)
class _Group:
    """`suspicions`: clips that failed on this group and on no other."""

    size: int
    running: set[str] = field(default_factory=set)
    suspicions: set[str] = field(default_factory=set)

    @property
    def is_trusted(self) -> bool:
        return len(self.suspicions) < MAX_HELD_AGAINST


class Schedule:
    """Every clip of a run is in exactly one state; groups join, take clips, and leave.

    Runs that share clips take them in different orders if each run has its own `order_salt`.
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
        self._retries: set[str] = set()
        self._queue, self._groups = ClipQueue(order_salt), dict[str, _Group]()
        self._group_of: dict[str, str] = {}
        self._waiting_gpu_s = 0.0
        self._least_sizes: dict[ClipSize, int] = {}
        self._longest_s = 0.0

    def plan(self, clips: Iterable[PlannedClip], sizes: tuple[int, ...], deaths: Mapping[str, int] = NO_DEATHS) -> None:
        """Adds the clips of the run. `sizes` are the possible group sizes, in ascending order.

        `deaths`: how many groups each clip broke, alone aboard, in earlier runs. Such a clip is a suspect from the start.
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
        """A group of `size` GPUs was formed. Its name must be new."""
        self._groups[group] = _Group(size)

    def leave(self, group: str) -> None:
        """The group is gone. Its clips must have ended before."""
        member = self._groups.pop(group)
        assert not member.running, f"{group} left with a clip"
        self._queue.release(group)

    def take(self, group: str) -> PlannedClip | None:
        """The next clip for this group, now running. None if there is none now: a suspect is never aboard with other clips."""
        while (clip_id := self._next(group)) is not None:
            planned = self._clips[clip_id]
            self._waiting_gpu_s -= planned.gpu_s
            least_size = self._least_sizes.get(planned.work.clip, 0) if self._least_sizes else 0
            if least_size > self._groups[group].size:
                self._enqueue(_widened(planned, least_size))
                continue
            self._set(clip_id, ClipState.RUNNING)
            self._group_of[clip_id] = group
            self._groups[group].running.add(clip_id)
            return planned
        return None

    def put_back(self, clip_id: str) -> None:
        """Takes back a clip that was just taken and will not be started."""
        self._move(clip_id, ClipState.WAITING)

    def work(self, clip_id: str) -> Work:
        """The work of a planned clip."""
        return self._clips[clip_id].work

    @property
    def waiting_gpu_s(self) -> float:
        """What the waiting clips will take, as planned, with one try each."""
        return max(0.0, self._waiting_gpu_s)

    @property
    def num_tries_left(self) -> float:
        """How many tries the clips that have not ended are expected to take in all."""
        is_open = (ClipState.WAITING, ClipState.RUNNING)
        return sum(each.num_tries for clip_id, each in self._clips.items() if self._state[clip_id] in is_open)

    def deadline_s(self, predicted_s: float | None) -> float:
        """How long a group with this clip may take without an answer; `predicted_s` is None if its device has no figures."""
        return deadline_s(predicted_s, factor=self._policy.deadline_factor)

    def rendered(self, clip_id: str) -> None:
        self._end_attempt(clip_id, ClipState.RENDERED)

    def judged(self, clip_id: str, *, has_next_try: bool) -> ClipState:
        """Ends a try that was not good enough. A next try is no retry: the clip has used up no attempt, and no group is to blame."""
        if has_next_try:
            return self._move(clip_id, ClipState.WAITING)
        return self._end_attempt(clip_id, ClipState.REJECTED)

    def fault_of_break(self, group: str) -> Fault:
        """The fault for the clips aboard if a ready group breaks on a living node. Ask before calling `failed`."""
        return Fault.LETHAL if len(self._groups[group].running) == 1 else Fault.UNCLEAR

    def failed(self, clip_id: str, fault: Fault) -> ClipState:
        """Ends a failed attempt; returns the clip's new state, as in the table above."""
        if fault in (Fault.UNCLEAR, Fault.LETHAL):
            return self._break(clip_id, is_alone=fault is Fault.LETHAL)
        if fault in (Fault.MACHINE, Fault.DRAIN):
            return self._move(clip_id, ClipState.WAITING)
        if fault is Fault.INPUT:
            return self._end_attempt(clip_id, ClipState.REJECTED)
        if fault is Fault.MEMORY:
            return self._widen(clip_id)
        if self._policy.max_attempts > 1:  # with one attempt, no other group could ever clear this one of suspicion
            self._count_against_group(clip_id)
        is_last = self._attempts[clip_id] + 1 >= self._policy.max_attempts
        return self._end_attempt(clip_id, ClipState.FAILED if is_last else ClipState.WAITING)

    @property
    def give_up_after_s(self) -> float:
        """The run stops if nothing but machine faults came for this long; the longest clip could have ended by then."""
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
        """The size of the next group to form within `room` GPUs: the widest one for which more clips wait than idle groups can take."""
        spare = 0
        idle = Counter(member.size for member in self._groups.values() if member.is_trusted and not member.running)
        waiting = self.num_waiting_by_size()
        for size in sorted({*idle, *waiting}, reverse=True):
            spare += idle[size] - waiting[size]
            if spare < 0 and size <= room:
                return size
            spare = max(spare, 0)
        return None

    def is_useless(self, group: str) -> bool:
        """Whether to end an idle group because its GPUs are better used by another one, of another size or newly formed."""
        member = self._groups[group]
        if member.running or not self._counts[ClipState.WAITING]:
            return False
        if self._can_take(group):
            return False
        return (
            self._is_too_wide(member)
            or any(not self._has_taker(size) for size in self._queue.num_by_size())
            or any(not any(self._can_retry_on(clip_id, name) for name in self._groups) for clip_id in self._retries)
        )

    def state(self, clip_id: str) -> ClipState:
        """The state of a clip; waiting if it has not been planned yet."""
        return self._state.get(clip_id, ClipState.WAITING)

    def attempts(self, clip_id: str) -> int:
        """How many attempts the clip has used up, a success included."""
        return self._attempts[clip_id]

    def deaths(self, clip_id: str) -> int:
        """How many groups broke with this clip alone aboard, earlier runs included."""
        return self._deaths[clip_id]

    def count(self, state: ClipState) -> int:
        return self._counts[state]

    def num_waiting_by_size(self) -> Counter[int]:
        """How many clips wait for a group of each size, at least; sizes with no clips are left out."""
        return self._queue.num_by_size() + Counter(self._clips[clip_id].group_size for clip_id in self._retries)

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
        chosen = self._first_retry(group)
        if chosen is None:
            return self._queue.take(group, member.size)
        if chosen in self._suspects and member.running:
            return None
        self._retries.remove(chosen)
        return chosen

    def _first_retry(self, group: str) -> str | None:
        """The retry for this group that comes before the whole queue, if any.

        Within a priority, a clip that failed elsewhere comes first, because its next attempt shows whether clip or group is to blame.
        A suspect comes last, after suspects with fewer deaths, so that nothing else has to wait for it.
        """
        suitable = [clip_id for clip_id in self._retries if self._can_retry_on(clip_id, group)]
        if not suitable:
            return None
        chosen = min(suitable, key=self._turn)
        first = self._queue.first_level(self._groups[group].size)
        return chosen if first is None or self._turn(chosen) < (first.minus_priority, _Turn.FRESH) else None

    def _turn(self, clip_id: str) -> tuple[int, _Turn, int, Level, str]:
        turn = _Turn.SUSPECT if clip_id in self._suspects else _Turn.FAILED_ELSEWHERE
        level = level_of(self._clips[clip_id])
        return level.minus_priority, turn, self._deaths[clip_id], level, clip_id

    def _can_retry_on(self, clip_id: str, group: str) -> bool:
        member = self._groups[group]
        is_wide_enough = self._clips[clip_id].group_size <= member.size
        return is_wide_enough and member.is_trusted and group not in self._failed_on.get(clip_id, ())

    def _can_take(self, group: str) -> bool:
        member = self._groups[group]
        has_fresh = member.is_trusted and self._queue.first_level(member.size) is not None
        has_clip = has_fresh or any(self._can_retry_on(clip_id, group) for clip_id in self._retries)
        return has_clip and not self._is_too_wide(member)

    def _has_taker(self, size: int) -> bool:
        return any(member.is_trusted and member.size >= size for member in self._groups.values())

    def _is_too_wide(self, member: _Group) -> bool:
        """Whether the group should be split: only narrower clips wait, and enough of them."""
        is_narrowest = member.size == self._sizes[0]
        if is_narrowest or max(self.num_waiting_by_size(), default=member.size) >= member.size:
            return False
        return self._waiting_gpu_s > WORTH_SPLITTING_S * sum(other.size for other in self._groups.values())

    def _count_against_group(self, clip_id: str) -> None:
        """Counts the failure against the group until the clip also fails on another group: then the clip is to blame."""
        group = self._group_of[clip_id]
        failed_on = self._failed_on.setdefault(clip_id, set())
        for other in failed_on & self._groups.keys():
            self._groups[other].suspicions.discard(clip_id)
        if not failed_on:
            self._groups[group].suspicions.add(clip_id)
        failed_on.add(group)

    def _break(self, clip_id: str, *, is_alone: bool) -> ClipState:
        """Makes the clip a suspect; it has failed once it has broken `MAX_DEATHS` groups alone."""
        self._suspects.add(clip_id)
        self._deaths[clip_id] += is_alone
        if is_alone and self._deaths[clip_id] >= MAX_DEATHS:
            return self._end_attempt(clip_id, ClipState.FAILED)
        return self._move(clip_id, ClipState.WAITING)

    def _widen(self, clip_id: str) -> ClipState:
        """Sends the clip to a wider group, and later each clip of the same shape when its turn comes."""
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
            self._retries.add(clip_id)
        else:
            self._queue.add(planned)

    def _set(self, clip_id: str, state: ClipState) -> None:
        self._counts[self._state[clip_id]] -= 1
        self._counts[state] += 1
        self._state[clip_id] = state


def has_used_attempt(fault: Fault, state: ClipState) -> bool:
    """Whether a failure that left its clip in `state` used up one of its attempts."""
    return fault is Fault.CLIP or state is not ClipState.WAITING


def _widened(planned: PlannedClip, size: int) -> PlannedClip:
    return replace(planned, group_size=size, seconds=planned.gpu_s / size)
