"""Which clip is next, and what becomes of each: a state machine over values, without Ray, clock or I/O.

waiting ──take──▶ running ──rendered──▶ rendered
   ▲                 ├──failed (input)──▶ rejected
   ├─failed (machine)┤
   └─failed (clip, attempts left)   (none left)──▶ failed
"""

import heapq
from collections import Counter
from collections.abc import Iterable
from enum import StrEnum

from lynx_batch.clip import ClipSpec


class ClipState(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    RENDERED = "rendered"
    REJECTED = "rejected"
    FAILED = "failed"


class Fault(StrEnum):
    """Whose fault a failed attempt is: the clip's input (another try cannot help), the clip's, or the machine's."""

    INPUT = "input"
    CLIP = "clip"
    MACHINE = "machine"


class Schedule:
    """Every clip of a run is in exactly one state; clips of higher priority come first, then in the manifest's order."""

    def __init__(self, clips: Iterable[ClipSpec], *, max_attempts: int) -> None:
        self._clips = {clip.clip_id: clip for clip in clips}
        self._max_attempts = max_attempts
        self._state = dict.fromkeys(self._clips, ClipState.WAITING)
        self._counts = Counter(self._state.values())
        self._attempts = dict.fromkeys(self._clips, 0)
        self._queue = [_place(clip) for clip in self._clips.values()]
        heapq.heapify(self._queue)

    def take(self) -> ClipSpec | None:
        """The next clip, now running; None if none is waiting."""
        if not self._queue:
            return None
        clip_id = heapq.heappop(self._queue)[-1]
        self._set(clip_id, ClipState.RUNNING)
        return self._clips[clip_id]

    def rendered(self, clip_id: str) -> None:
        self._end_attempt(clip_id, ClipState.RENDERED)

    def failed(self, clip_id: str, fault: Fault) -> ClipState:
        """Ends an attempt that failed; tells what becomes of the clip. A fault of the machine uses up no attempt."""
        if fault is Fault.MACHINE:
            return self._move(clip_id, ClipState.WAITING)
        if fault is Fault.INPUT:
            return self._end_attempt(clip_id, ClipState.REJECTED)
        if self._attempts[clip_id] + 1 >= self._max_attempts:
            return self._end_attempt(clip_id, ClipState.FAILED)
        return self._end_attempt(clip_id, ClipState.WAITING)

    def state(self, clip_id: str) -> ClipState:
        return self._state[clip_id]

    def attempts(self, clip_id: str) -> int:
        """How many attempts ended through the clip itself, its success included."""
        return self._attempts[clip_id]

    def count(self, state: ClipState) -> int:
        return self._counts[state]

    @property
    def num_unfinished(self) -> int:
        return self._counts[ClipState.WAITING] + self._counts[ClipState.RUNNING]

    @property
    def is_finished(self) -> bool:
        return self.num_unfinished == 0

    def _end_attempt(self, clip_id: str, state: ClipState) -> ClipState:
        self._attempts[clip_id] += 1
        return self._move(clip_id, state)

    def _move(self, clip_id: str, state: ClipState) -> ClipState:
        assert self._state[clip_id] is ClipState.RUNNING, f"{clip_id} is {self._state[clip_id]}, not running"
        self._set(clip_id, state)
        if state is ClipState.WAITING:
            heapq.heappush(self._queue, _place(self._clips[clip_id]))
        return state

    def _set(self, clip_id: str, state: ClipState) -> None:
        self._counts[self._state[clip_id]] -= 1
        self._counts[state] += 1
        self._state[clip_id] = state


def _place(clip: ClipSpec) -> tuple[int, int, str]:
    return -clip.request.priority, clip.request.row, clip.clip_id
