"""The state of a group: answers of its workers in, commands to them and reports to the driver out. No Ray, no clock."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from lynx_batch.planning.upkeep import has_leak
from lynx_batch.rendering.tasks import Ended, Failed, FramesReady, Loaded, RenderTask, Result


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefetch:
    """Every rank reads the photo of its next clip. No answer is expected."""

    task: RenderTask


@dataclass(frozen=True, slots=True, kw_only=True)
class Render:
    """Every rank renders its share of the clip and answers."""

    task: RenderTask


@dataclass(frozen=True, slots=True, kw_only=True)
class Deliver:
    """The first rank encodes, uploads and commits the clip that was rendered, and answers."""

    task: RenderTask


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """The first rank saves the clip being rendered after its current step. No answer of its own is expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StopWaiting:
    """Ranks that still render may never answer, so their answers are no longer awaited."""


Command = Prefetch | Render | Deliver | Pause | StopWaiting
Report = Loaded | Ended


class Phase(StrEnum):
    """What a group may still do.

    loading ──all ranks have loaded──▶ open
    loading, open ──`close`, the last clip, a leak──▶ closing
    closing ──`pause`──▶ pausing
    open, closing, pausing ──a failure that breaks the group──▶ broken

    Only an open group accepts clips. A closing group finishes the clips that it has. A pausing one saves or finishes them; its workers
    can render nothing afterwards. A broken one only finishes the delivery that is under way.
    """

    LOADING = "loading"
    OPEN = "open"
    CLOSING = "closing"
    PAUSING = "pausing"
    BROKEN = "broken"


class GroupState:
    """The clips aboard a group, and what its workers must do next.

    A clip passes through three places, each of which holds at most one: `next` (its photo is being read), `rendering` (on all
    ranks, decoding included; then it waits until `delivering` is free) and `delivering` (encoding, upload, commit).

    Each method that moves a clip returns what follows, in order: commands for the workers and at most one report for the driver.
    """

    def __init__(self, *, num_ranks: int, max_clips: int | None, now_s: float) -> None:
        self.phase = Phase.LOADING
        self.next: RenderTask | None = None
        self.rendering: RenderTask | None = None
        self.delivering: RenderTask | None = None
        self.broken_by: Failed | None = None
        self.step = (0, 0)
        self._num_ranks, self._max_clips, self._num_accepted = num_ranks, max_clips, 0
        self._num_loading, self._num_rendering = num_ranks, 0
        self._changed_s = now_s
        self._result: Result | None = None
        self._clip_memory_gib, self._memory_gib = 0.0, list[float]()

    @property
    def tasks(self) -> list[RenderTask]:
        """The attempts that would be lost with the group."""
        return [task for task in (self.delivering, self.rendering, self.next) if task is not None]

    @property
    def is_ready(self) -> bool:
        """Whether all ranks have loaded the model."""
        return not self._num_loading

    @property
    def is_idle(self) -> bool:
        return self.is_ready and not self.tasks

    @property
    def has_room(self) -> bool:
        return self.phase is Phase.OPEN and self.next is None

    @property
    def is_closing(self) -> bool:
        return self.phase in (Phase.CLOSING, Phase.PAUSING)

    @property
    def is_spent(self) -> bool:
        """Whether the group is broken and its last delivery has ended."""
        return self.phase is Phase.BROKEN and self.delivering is None

    def step_s(self, now_s: float) -> float:
        """Seconds per step of the clip being rendered, so far. Steps that an earlier attempt saved do not count."""
        num_steps_saved = self.rendering.num_steps_saved if self.rendering is not None else 0
        return (now_s - self._changed_s) / max(1, self.step[0] - num_steps_saved)

    def exceeded_limit_s(self, now_s: float, *, ready_within_s: float) -> float | None:
        """The time limit that has passed without an answer, or None if there is still time.

        The limit is the longest deadline of the clips aboard; for a group that is loading, it is `ready_within_s`.
        """
        limit_s = max((task.deadline_s for task in self.tasks), default=math.inf) if self.is_ready else ready_within_s
        return limit_s if now_s - self._changed_s > limit_s else None

    def running(self) -> Iterator[tuple[str, int, int]]:
        """(clip name, steps done, steps in all) of each clip that is being rendered or delivered."""
        if self.rendering is not None:
            yield self.rendering.clip.name, *self.step
        if self.delivering is not None:
            num_steps = self.delivering.clip.params.num_inference_steps
            yield self.delivering.clip.name, num_steps, num_steps

    def accept(self, task: RenderTask, now_s: float) -> list[Command | Report]:
        """Renders a clip as soon as possible; until then its photo is read. The group must have room."""
        assert self.has_room, f"{self.phase}, next={self.next}"
        self.next, self._num_accepted = task, self._num_accepted + 1
        if self._num_accepted == self._max_clips:
            self._close()
        commands = self._advance(now_s)
        return [*commands, Prefetch(task=task)] if self.next is not None else commands

    def close(self) -> RenderTask | None:
        """Accepts no more clips; returns the one that has not been started, if any."""
        self._close()
        returned, self.next = self.next, None
        return returned

    def pause(self) -> list[Command | Report]:
        """Requests that the clip being rendered be saved after its current step; repeated calls do nothing. Call `close` first."""
        assert not self.has_room
        assert self.next is None, "paused workers cannot render another clip"
        if self.phase is not Phase.CLOSING or self.rendering is None:
            return []
        self.phase = Phase.PAUSING
        return [Pause()]

    def rank_loaded(self, answer: Loaded) -> list[Command | Report]:
        """One rank has loaded the model. The last one's answer is reported."""
        self._num_loading -= 1
        if self._num_loading:
            return []
        if self.phase is Phase.LOADING:
            self.phase = Phase.OPEN
        return [answer]

    def rank_rendered(self, answer: FramesReady | Result, now_s: float) -> list[Command | Report]:
        """One rank has answered `Render`.

        The first answer that is not `FramesReady` ends the attempt: the clip failed, or is committed already. It is reported once
        all ranks have answered, or at once if it breaks the group.
        """
        assert self.rendering is not None
        assert self._num_rendering
        self._num_rendering -= 1
        if isinstance(answer, FramesReady):
            self._clip_memory_gib += answer.memory_gib
        elif self._result is None:
            self._result = answer
            if isinstance(answer, Failed) and answer.breaks_group:
                return self._break(answer)
        if self._num_rendering:
            return []
        if self._result is not None:
            return [self._end_rendering(self._result), *self._advance(now_s)]
        self._note_memory()
        return self._advance(now_s)

    def delivered(self, answer: Result, now_s: float) -> list[Command | Report]:
        """The first rank has answered `Deliver`."""
        assert self.delivering is not None
        ended, self.delivering = Ended(task=self.delivering, result=answer), None
        return [ended, *self._advance(now_s)]

    def _close(self) -> None:
        if self.phase in (Phase.LOADING, Phase.OPEN):
            self.phase = Phase.CLOSING

    def _break(self, failure: Failed) -> list[Command | Report]:
        self.phase, self.broken_by = Phase.BROKEN, failure
        return [StopWaiting(), self._end_rendering(failure)]

    def _end_rendering(self, result: Result) -> Ended:
        """Ends the attempt without a delivery. Its memory does not count, because not all ranks reported theirs."""
        assert self.rendering is not None
        ended, self.rendering = Ended(task=self.rendering, result=result), None
        return ended

    def _note_memory(self) -> None:
        """Adds what all ranks held after the clip; a group that leaks closes."""
        self._memory_gib.append(self._clip_memory_gib)
        if has_leak(self._memory_gib, num_ranks=self._num_ranks):
            self._close()

    def _advance(self, now_s: float) -> list[Command | Report]:
        """Moves each clip on to the next place if it is done in its own and the next one is free."""
        if self.phase is Phase.BROKEN or self._num_rendering:
            return []
        commands: list[Command | Report] = []
        if self.rendering is not None and self.delivering is None:
            self.delivering, self.rendering = self.rendering, None
            self._changed_s = now_s
            commands.append(Deliver(task=self.delivering))
        if self.next is not None and self.rendering is None:
            commands.append(self._start_rendering(self.next, now_s))
        return commands

    def _start_rendering(self, task: RenderTask, now_s: float) -> Render:
        self.rendering, self.next = task, None
        self._num_rendering, self._result, self._clip_memory_gib = self._num_ranks, None, 0.0
        self._changed_s, self.step = now_s, (0, task.clip.params.num_inference_steps)
        return Render(task=task)
