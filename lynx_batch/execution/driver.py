"""The main loop of a run: assign clips to groups, start them, record what came of them."""

import itertools
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import ray
import structlog

from lynx_batch.errors import GroupLost, HeadLost, TooManyFaults
from lynx_batch.execution.cluster import Slots
from lynx_batch.execution.group import Group
from lynx_batch.execution.head import Head
from lynx_batch.execution.tasks import Ended, Failed, Loaded, Rendered, RenderTask, WorkerSettings
from lynx_batch.planning.schedule import ClipState, Fault, Schedule

log = structlog.get_logger()

POLL_S = 0.5
MAX_FAULTS_IN_A_ROW = 5
"""A run stops after this many faults of the machine while not one clip ended: they are not passing ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is, for whoever watches it. `running` holds (clip name, steps done, steps in all)."""

    num_rendered: int
    num_rejected: int
    num_failed: int
    num_left: int
    running: tuple[tuple[str, int, int], ...]
    num_groups_loading: int


class Recorder(Protocol):
    """Told of each group that is ready and of each ended attempt."""

    def loaded(self, group: str, answer: Loaded) -> None: ...

    def rendered(self, task: RenderTask, group: str, result: Rendered) -> None: ...

    def failed(self, task: RenderTask, group: str, result: Failed, state: ClipState) -> None: ...


class Driver:
    """Renders every clip of a schedule on as many groups as fit.

    Call `run` once. Whatever ends it, a finished schedule or an exception, no actor and no placement group is left.
    """

    def __init__(
        self,
        *,
        schedule: Schedule,
        settings: WorkerSettings,
        slots: Slots,
        head: Head,
        num_groups: int,
        recorder: Recorder,
        watch: Callable[[Progress], None],
    ) -> None:
        self._schedule, self._settings, self._slots, self._num_groups = schedule, settings, slots, num_groups
        self._head, self._recorder, self._watch = head, recorder, watch
        self._groups: list[Group] = []
        self._names = (f"g{number}" for number in itertools.count())
        self._num_faults = 0

    def run(self) -> None:
        """Returns when every clip has ended.

        Raises:
            HeadLost: If the head of the cluster is gone.
            TooManyFaults: If the machine fails again and again and no clip ends in between.
            Permanent: If the model cannot be loaded.
        """
        try:
            while not self._schedule.is_finished:
                self._head.check()
                self._assign()
                for group, ref in self._answered():
                    self._record(group, ref)
                self._watch(self._progress())
        except HeadLost:
            self._groups.clear()  # with the head, everything is gone that they could give back, and asking would block
            raise
        finally:
            for group in self._groups:
                group.end()

    def _assign(self) -> None:
        """Keeps as many groups as there is work for, and gives each the next clip."""
        while len(self._groups) < min(self._num_groups, self._schedule.num_unfinished):
            self._groups.append(Group(next(self._names), self._settings, self._slots))
        for group in self._groups:
            if self._wants_clip(group) and (clip := self._schedule.take()):
                group.take(RenderTask(clip=clip, attempt=f"{self._settings.run_id}-{secrets.token_hex(4)}"))

    def _wants_clip(self, group: Group) -> bool:
        """A group gets its next clip early, unless so few wait that a group which is idle sooner would miss it."""
        is_idle = group.rendering is None
        return group.has_room and (is_idle or self._schedule.count(ClipState.WAITING) >= len(self._groups))

    def _answered(self) -> list[tuple[Group, Any]]:
        """Waits a moment for answers of the workers."""
        awaited = {ref: group for group in self._groups for ref in group.refs}
        ready, _ = ray.wait(list(awaited), timeout=POLL_S)
        return [(awaited[ref], ref) for ref in ready]

    def _record(self, group: Group, ref: Any) -> None:
        try:
            answer = group.receive(ref)
        except GroupLost as loss:
            self._lose(group, loss)
            return
        if isinstance(answer, Loaded):
            self._recorder.loaded(group.name, answer)
        elif isinstance(answer, Ended):
            self._end(answer, group)
        if group.is_spent:
            self._lose(group, GroupLost(f"group {group.name}: a rank failed in mid-clip, and the others wait for it"))

    def _lose(self, group: Group, loss: GroupLost) -> None:
        """Ends a group; its clips are tried again, whichever of them it was about."""
        log.warning("group_lost", group=group.name, error=str(loss))
        self._groups.remove(group)
        group.end()
        failure = Failed(error_type=type(loss).__name__, error=str(loss), fault=Fault.MACHINE)
        for task in group.tasks:
            self._fail(task, group, failure)
        self._count_fault(failure)

    def _end(self, ended: Ended, group: Group) -> None:
        if isinstance(ended.result, Rendered):
            self._num_faults = 0
            self._schedule.rendered(ended.task.clip.clip_id)
            self._recorder.rendered(ended.task, group.name, ended.result)
        else:
            self._fail(ended.task, group, ended.result)
            self._count_fault(ended.result)

    def _fail(self, task: RenderTask, group: Group, failure: Failed) -> None:
        state = self._schedule.failed(task.clip.clip_id, failure.fault)
        self._recorder.failed(task, group.name, failure, state)

    def _count_fault(self, failure: Failed) -> None:
        """Stops the run if nothing but faults of the machine is left to come."""
        self._num_faults = self._num_faults + 1 if failure.fault is Fault.MACHINE else 0
        if self._num_faults >= MAX_FAULTS_IN_A_ROW:
            raise TooManyFaults(f"{self._num_faults} faults in a row, and no clip ended: {failure.error}")

    def _progress(self) -> Progress:
        for group in self._groups:
            group.poll_step()
        return Progress(
            num_rendered=self._schedule.count(ClipState.RENDERED),
            num_rejected=self._schedule.count(ClipState.REJECTED),
            num_failed=self._schedule.count(ClipState.FAILED),
            num_left=self._schedule.num_unfinished,
            running=tuple(clip for group in self._groups for clip in group.running()),
            num_groups_loading=sum(not group.is_ready for group in self._groups),
        )
