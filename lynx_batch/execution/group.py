"""A group: the workers that render one clip together. It lives and dies as one."""

import math
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import ray

from lynx_batch.config import ClusterConfig
from lynx_batch.errors import GroupLost, LynxError, Permanent
from lynx_batch.execution.placement import Placement
from lynx_batch.planning.upkeep import has_leak
from lynx_batch.rendering.tasks import Ended, Failed, FramesReady, Loaded, Rendered, RenderTask, WorkerSettings


class Group:
    """One worker per slot of a placement, loading from the start and then rendering clip after clip.

    A clip passes through three places, each of which holds one at most: `next` (its photo is read), `rendering` (the
    model's, decoding included) and `delivering` (encoding, upload, commit). `refs` are the answers that are awaited: the
    driver waits for them and hands each to `receive`. A group that is closing takes no more clips.
    """

    def __init__(self, name: str, settings: WorkerSettings, placement: Placement, config: ClusterConfig) -> None:
        self.name, self.placement, self._config = name, placement, config
        self.next: RenderTask | None = None
        self.rendering: RenderTask | None = None
        self.delivering: RenderTask | None = None
        self.is_ready = self.is_closing = self._is_pausing = False
        self.broken_by: Failed | None = None
        self.formed_s = self._changed_s = time.monotonic()
        self._num_taken, self._memory_gib = 0, list[float]()
        self._step = (0, 0)
        self._early: Rendered | Failed | None = None
        self._step_ref: Any = None
        self._workers = [placement.start_worker(settings, rank) for rank in range(placement.size)]
        address = self._workers[0].address.remote()
        self._render_refs = [worker.load.remote(address) for worker in self._workers]
        self._deliver_refs: list[Any] = []

    @property
    def size(self) -> int:
        return self.placement.size

    @property
    def refs(self) -> list[Any]:
        return self._render_refs + self._deliver_refs

    @property
    def tasks(self) -> list[RenderTask]:
        """The attempts that would be lost with the group."""
        return [task for task in (self.delivering, self.rendering, self.next) if task is not None]

    @property
    def is_idle(self) -> bool:
        return self.is_ready and not self.tasks

    @property
    def has_room(self) -> bool:
        return self.is_ready and not self.is_broken and not self.is_closing and self.next is None

    @property
    def is_broken(self) -> bool:
        return self.broken_by is not None

    @property
    def is_spent(self) -> bool:
        """Broken, and what it can still deliver is delivered."""
        return self.is_broken and self.delivering is None

    @property
    def step_s(self) -> float:
        """How long a step of the clip being rendered takes, so far; those that were saved cost nothing here."""
        num_steps_saved = self.rendering.num_steps_saved if self.rendering is not None else 0
        return (time.monotonic() - self._changed_s) / max(1, self._step[0] - num_steps_saved)

    def why_stuck(self) -> str | None:
        """What the group has been at for too long, if it has."""
        limit_s = max((task.deadline_s for task in self.tasks), default=math.inf)
        limit_s = limit_s if self.is_ready else self._config.ready_within_s
        if time.monotonic() - self._changed_s <= limit_s:
            return None
        if self.is_ready:
            return f"group {self.name}: {limit_s:.0f} s without an answer, at step {self._step[0]} of {self._step[1]}"
        state = self.placement.state
        return f"group {self.name}: not ready after cluster.ready_within_s={limit_s:g}; its placement group is {state}"

    def close(self) -> RenderTask | None:
        """Takes no more clips; gives back the one that was not begun."""
        self.is_closing = True
        returned, self.next = self.next, None
        return returned

    def pause(self) -> None:
        """Has the clip being rendered saved after the step that it is at, on the first rank: the group must end then."""
        if self.rendering is not None and not self._is_pausing:
            self._is_pausing = True
            self._workers[0].pause.remote()

    def take(self, task: RenderTask) -> None:
        """Renders a clip as soon as it can; until then its photo is read."""
        assert self.has_room
        self.next, self._num_taken = task, self._num_taken + 1
        self.is_closing = self._num_taken == self._config.max_clips_per_group
        self._advance()
        if self.next is not None:
            for worker in self._workers:
                worker.prefetch.remote(task)

    def receive(self, ref: Any) -> Loaded | Ended | None:
        """Takes one worker's answer; tells when it was the last of all workers' loading, or ends an attempt.

        Raises:
            GroupLost: If the worker died.
            Permanent: If the model cannot be loaded, which another group could do only if its node is better.
        """
        try:
            answer = ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, Permanent):
                raise error.cause from error
            reason = error.cause if isinstance(error.cause, LynxError) else error
            raise GroupLost(f"group {self.name}: {reason}") from error
        except ray.exceptions.RayError as error:
            raise GroupLost(f"group {self.name}: {error}") from error
        if ref in self._deliver_refs:
            return self._receive_delivery(answer)
        self._render_refs.remove(ref)
        return self._receive_loaded(answer) if isinstance(answer, Loaded) else self._receive_frames(answer)

    def poll_step(self) -> None:
        """Asks the first worker how far it is, and takes its last answer; never waits."""
        if self.rendering is None:
            return
        if self._step_ref is None:
            self._step_ref = self._workers[0].progress.remote()
        if ray.wait([self._step_ref], timeout=0)[0]:
            try:
                self._step = ray.get(self._step_ref)
            except ray.exceptions.RayError:
                return  # the awaited answer of the same worker tells that it died
            self._step_ref = None

    def running(self) -> Iterator[tuple[str, int, int]]:
        """(clip name, steps done, steps in all) of each clip that is rendered or delivered."""
        if self.rendering is not None:
            yield self.rendering.clip.name, *self._step
        if self.delivering is not None:
            num_steps = self.delivering.clip.params.num_inference_steps
            yield self.delivering.clip.name, num_steps, num_steps

    def end(self) -> None:
        """Kills every worker; the placement stays."""
        for worker in self._workers:
            with suppress(ray.exceptions.RaySystemError):  # one whose creation was cancelled is no more
                ray.kill(worker)

    def _receive_loaded(self, answer: Loaded) -> Loaded | None:
        self.is_ready = not self._render_refs
        return answer if self.is_ready else None

    def _receive_frames(self, answer: FramesReady | Rendered | Failed) -> Ended | None:
        """The first result other than a share of the frames is the group's: the clip failed, or was committed meanwhile.

        It is told when all ranks have answered, or at once if they may never do.
        """
        if isinstance(answer, FramesReady):
            self._memory_gib[-1] += answer.memory_gib
        elif self._early is None:
            self._early = answer
            self.broken_by = answer if isinstance(answer, Failed) and answer.breaks_group else None
        if self.is_broken:
            self._render_refs.clear()
        ended = None
        if not self._render_refs and self._early is not None:
            assert self.rendering is not None
            ended, self.rendering = Ended(task=self.rendering, result=self._early), None
            self._memory_gib.pop()  # not all ranks have told theirs
        elif not self._render_refs and has_leak(self._memory_gib, num_ranks=self.size):
            self.is_closing = True
        self._advance()
        return ended

    def _receive_delivery(self, answer: Rendered | Failed) -> Ended:
        assert self.delivering is not None
        self._deliver_refs.clear()
        ended, self.delivering = Ended(task=self.delivering, result=answer), None
        self._advance()
        return ended

    def _advance(self) -> None:
        """Moves each clip on to the next place, if it is done where it is and that place is free."""
        if self.is_broken or self._render_refs:
            return
        if self.rendering is not None and self.delivering is None:
            self.delivering, self.rendering = self.rendering, None
            self._changed_s = time.monotonic()
            self._deliver_refs = [self._workers[0].deliver.remote(self.delivering)]
        if self.next is not None and self.rendering is None:
            self.rendering, self.next, self._early = self.next, None, None
            self._changed_s = time.monotonic()
            self._memory_gib.append(0.0)
            self._step = (0, self.rendering.clip.params.num_inference_steps)
            self._render_refs = [worker.render.remote(self.rendering) for worker in self._workers]
