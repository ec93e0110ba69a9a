"""A group: the workers that render one clip together. If one of them dies, the group is lost."""

import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import ray

from lynx_batch.config import ClusterConfig
from lynx_batch.errors import GroupLost, LynxError, Permanent
from lynx_batch.execution.group_state import (
    Command,
    Deliver,
    GroupState,
    Pause,
    Prefetch,
    Render,
    Report,
    StopWaiting,
)
from lynx_batch.execution.placement import Placement
from lynx_batch.rendering.tasks import Loaded, RenderTask, WorkerSettings


class Group:
    """One worker per slot of a placement: they load the model, then render clip after clip.

    `state` decides what the workers do next; this class sends them the commands and collects their answers. The driver waits
    for `refs`, the answers to come, and passes each to `receive`.
    """

    def __init__(self, name: str, settings: WorkerSettings, placement: Placement, config: ClusterConfig) -> None:
        self.name, self.placement, self._config = name, placement, config
        self.formed_s = time.monotonic()
        self.state = GroupState(num_ranks=placement.size, max_clips=config.max_clips_per_group, now_s=self.formed_s)
        self._workers = [placement.start_worker(settings, name, rank) for rank in range(placement.size)]
        rendezvous = self._workers[0].open_rendezvous.remote()
        self._rank_refs = [worker.load.remote(rendezvous) for worker in self._workers]
        self._deliver_refs: list[Any] = []
        self._step_ref: Any = None

    @property
    def size(self) -> int:
        return self.placement.size

    @property
    def refs(self) -> list[Any]:
        return self._rank_refs + self._deliver_refs

    def take(self, task: RenderTask) -> None:
        """Renders a clip as soon as possible. The group must have room."""
        self._execute(self.state.accept(task, time.monotonic()))

    def pause(self) -> None:
        """Saves the clip being rendered after its current step. The group must be closing, and end afterwards."""
        self._execute(self.state.pause())

    def receive(self, ref: Any) -> Report | None:
        """Handles the answer of one worker; returns `Loaded` when the last one has loaded, `Ended` when an attempt is over.

        Raises:
            GroupLost: If the worker died.
            Permanent: If the model cannot be loaded. A group on another node may still be able to.
        """
        answer = self._fetch(ref)
        if ref in self._deliver_refs:
            self._deliver_refs.remove(ref)
            return self._execute(self.state.delivered(answer, time.monotonic()))
        self._rank_refs.remove(ref)
        if isinstance(answer, Loaded):
            return self._execute(self.state.rank_loaded(answer))
        return self._execute(self.state.rank_rendered(answer, time.monotonic()))

    def why_stuck(self) -> str | None:
        """What the group has taken too long for, or None."""
        limit_s = self.state.exceeded_limit_s(time.monotonic(), ready_within_s=self._config.ready_within_s)
        if limit_s is None:
            return None
        if self.state.is_ready:
            done, total = self.state.step
            return f"group {self.name}: {limit_s:.0f} s without an answer, at step {done} of {total}"
        reserved = self.placement.state
        return (
            f"group {self.name}: not ready after cluster.ready_within_s={limit_s:g}; its placement group is {reserved}"
        )

    def poll_step(self) -> None:
        """Asks the first worker for its current step, and notes its answer to the last request. Never waits."""
        if self.state.rendering is None:
            return
        if self._step_ref is None:
            self._step_ref = self._workers[0].progress.remote()
        if ray.wait([self._step_ref], timeout=0)[0]:
            try:
                self.state.step = ray.get(self._step_ref)
            except ray.exceptions.RayError:
                return  # the worker died; its awaited answer reports that
            self._step_ref = None

    def close_logs(self) -> list[Any]:
        """Asks every worker to upload the rest of its log; gives their answers to come. None of a group that still loads."""
        return [worker.close_logs.remote() for worker in self._workers] if self.state.is_ready else []

    @property
    def actor_ids(self) -> list[str]:
        """Ray's id of the worker of each rank."""
        return [worker._actor_id.hex() for worker in self._workers]

    def end(self) -> None:
        """Kills every worker; the placement stays."""
        for worker in self._workers:
            # RaySystemError: its creation was cancelled, so there is nothing to kill
            with suppress(ray.exceptions.RaySystemError):
                ray.kill(worker)

    def _fetch(self, ref: Any) -> Any:
        try:
            return ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, Permanent):
                raise error.cause from error
            reason = error.cause if isinstance(error.cause, LynxError) else error
            raise GroupLost(f"group {self.name}: {reason}") from error
        except ray.exceptions.RayError as error:
            raise GroupLost(f"group {self.name}: {error}") from error

    def _execute(self, commands: Iterable[Command | Report]) -> Report | None:
        """Carries out each command; returns the report among them, if there is one."""
        report = None
        for command in commands:
            match command:
                case Prefetch(task=task):
                    for worker in self._workers:
                        worker.prefetch.remote(task)
                case Render(task=task):
                    self._rank_refs = [worker.render.remote(task) for worker in self._workers]
                case Deliver(task=task):
                    self._deliver_refs = [self._workers[0].deliver.remote(task)]
                case Pause():
                    self._workers[0].pause.remote()
                case StopWaiting():
                    self._rank_refs.clear()
                case _:
                    report = command
        return report
