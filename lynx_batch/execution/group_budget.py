"""Asks the budget of a run before a group gets a clip and before a group is formed, and counts for how long groups hold their GPUs."""

import time
from collections.abc import Sequence

import structlog

from lynx_batch.execution.group import Group
from lynx_batch.ledger.commits import CommitRecord
from lynx_batch.planning.budget import Budget, Need, Spending
from lynx_batch.planning.cost import OTHER, GpuType, Observation
from lynx_batch.planning.order import PlannedClip
from lynx_batch.planning.schedule import ClipState, Schedule
from lynx_batch.planning.simulate import HOUR_S
from lynx_batch.printable import counted
from lynx_batch.rendering.tasks import RenderTask

log = structlog.get_logger()


class GroupBudget:
    """The budget of a run, in terms of its groups. Once `closed_by` says why, nothing new is started."""

    def __init__(self, budget: Budget, schedule: Schedule) -> None:
        self._budget, self._schedule = budget, schedule
        self._since_s: dict[str, float] = {}
        self._gpu = OTHER

    @property
    def closed_by(self) -> str:
        return self._budget.closed_by

    @property
    def spending(self) -> Spending:
        return self._budget.spending(time.monotonic())

    def describe_left(self) -> str:
        """How much is left of the run, with a prediction if there is one."""
        num_left = self._schedule.num_unfinished
        gpu_hours = self._schedule.num_tries_left * self._usual_clip_s(1, self._gpu) / HOUR_S
        about = f", which take about {gpu_hours:.3g} GPU-hours" if gpu_hours else ""
        return f"{counted(num_left, 'clip')} left{about}"

    def close_if_spent(self, groups: Sequence[Group]) -> None:
        """Once the budget is closed, clips that groups got early and have not begun go back."""
        self._close(self._why_refused((), None))
        for group in groups if self.closed_by else ():
            if (task := group.state.close()) is not None:
                self._schedule.put_back(task.clip.clip_id)

    def take(self, groups: Sequence[Group], group: Group) -> PlannedClip | None:
        """The next clip for `group`, one of `groups`. One that would pass a limit goes back, and the budget closes."""
        if self.closed_by or (planned := self._schedule.take(group.name)) is None:
            return None
        if self._budget.limits is None:
            return planned
        gpu, size = group.placement.gpu, group.size
        seconds, wait_s = self._budget.seconds(planned.work, size, gpu), self._busy_s(group)
        others = [self._need(other) for other in groups if other is not group]
        running = [*others, self._budget.need(size, gpu, wait_s)]
        if reason := self._why_refused(running, self._budget.need(size, gpu, seconds, wait_s=wait_s)):
            self._schedule.put_back(planned.clip.clip_id)
            self._close(reason)
            return None
        return planned

    def may_form(
        self, groups: Sequence[Group], size: int, gpu: GpuType, asked: Sequence[tuple[int, GpuType]] = ()
    ) -> bool:
        """Whether there is enough for another group and a clip of the usual length. If there are no groups at all, the budget closes.

        `asked`: size and GPU of each group that waits for its node.
        """
        if self._budget.limits is None:
            return True
        self._gpu = gpu
        running = [self._need(group) for group in groups] + [self._need_of_new(*each) for each in asked]
        reason = self._why_refused(running, self._need_of_new(size, gpu))
        if not running:
            self._close(reason)
        return reason is None

    def watch(self, groups: Sequence[Group]) -> None:
        """Begins to count each group whose slots are reserved now, from when it was last seen without. Call this every few seconds."""
        for group in groups:
            if self._budget.holds(group.name):
                continue
            if group.placement.state == "CREATED":
                self._budget.hold(group.name, group.size, group.placement.gpu, self._held_since_s(group))
            else:
                self._since_s[group.name] = time.monotonic()

    def release(self, group: Group) -> None:
        self._budget.release(group.name, time.monotonic())
        self._since_s.pop(group.name, None)

    def loaded(self, group: Group) -> None:
        self._budget.note_load(group.placement.gpu, time.monotonic() - self._held_since_s(group))

    def rendered(self, group: Group, task: RenderTask, commit: CommitRecord) -> None:
        if commit.attempt == task.attempt and commit.busy_s and not commit.num_steps_resumed:
            work = self._schedule.work(task.clip.clip_id)
            self._budget.note_clip(
                Observation(gpu=group.placement.gpu, group_size=group.size, work=work, seconds=commit.busy_s)
            )

    def _held_since_s(self, group: Group) -> float:
        return self._since_s.get(group.name, group.formed_s)

    def _why_refused(self, running: Sequence[Need], new: Need | None) -> str | None:
        return self._budget.why_refused(running, new, time.monotonic(), time.time())

    def _close(self, reason: str | None) -> None:
        if reason and not self.closed_by:
            self._budget.closed_by = reason
            log.warning("limit_reached", reason=reason, num_left=self._schedule.num_unfinished)

    def _need_of_new(self, size: int, gpu: GpuType) -> Need:
        return self._budget.need(size, gpu, self._budget.load_s(gpu) + self._usual_clip_s(size, gpu))

    def _need(self, group: Group) -> Need:
        """What a group still needs; one that is loading needs time for the clip for which it was formed, too."""
        size, gpu = group.size, group.placement.gpu
        clip_s = 0.0 if group.state.is_ready else self._usual_clip_s(size, gpu)
        return self._budget.need(size, gpu, self._busy_s(group) + clip_s)

    def _busy_s(self, group: Group) -> float:
        """How long a group will still be loading, or busy with the clips that it has."""
        gpu, state = group.placement.gpu, group.state
        if not state.is_ready:
            return max(0.0, self._budget.load_s(gpu) - (time.monotonic() - self._held_since_s(group)))
        num_done, _ = state.step
        return sum(
            self._left_s(task, max(steps, task.num_steps_saved), group)
            for task, steps in ((state.rendering, num_done), (state.next, 0))
            if task is not None
        )

    def _left_s(self, task: RenderTask, num_steps_done: int, group: Group) -> float:
        work = self._schedule.work(task.clip.clip_id)
        return work.share_left(num_steps_done) * self._budget.seconds(work, group.size, group.placement.gpu)

    def _usual_clip_s(self, size: int, gpu: GpuType) -> float:
        """How long the waiting clips take on average in a group of this size, as planned."""
        num_waiting = self._schedule.count(ClipState.WAITING)
        planned_s = self._schedule.waiting_gpu_s / num_waiting / size if num_waiting else 0.0
        return self._budget.usual_clip_s(planned_s, gpu)
