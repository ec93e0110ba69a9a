"""The main loop of a run: assign clips to groups, start them, record their results."""

import itertools
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import ray
import structlog

from lynx_batch.config import ClusterConfig
from lynx_batch.errors import (
    Fault,
    GroupLost,
    HeadLost,
    LimitReached,
    Permanent,
    StoreRefused,
    StoreUnavailable,
    StoreUnready,
    TooManyFaults,
)
from lynx_batch.execution.asking import Asking
from lynx_batch.execution.attempts import Attempts
from lynx_batch.execution.cluster import NO_LOCAL_NODE, Slots
from lynx_batch.execution.group import Group
from lynx_batch.execution.group_budget import GroupBudget
from lynx_batch.execution.head import Head
from lynx_batch.execution.last_lines import LastLines
from lynx_batch.execution.placement import Placement, Placements
from lynx_batch.execution.progress import GroupProgress, Progress
from lynx_batch.execution.recorder import Recorder
from lynx_batch.ledger.editions import Editions
from lynx_batch.planning.budget import Budget
from lynx_batch.planning.cost import OTHER, CostModel
from lynx_batch.planning.fault_budget import FaultBudget
from lynx_batch.planning.schedule import ClipState, Schedule, has_used_attempt
from lynx_batch.planning.upkeep import is_time_to_save
from lynx_batch.planning.verdict import Render
from lynx_batch.probe import probe_rights
from lynx_batch.rendering.tasks import Ended, Failed, Judged, Loaded, Rendered, RenderTask, WorkerSettings
from lynx_model.spec import ParallelPlan

log = structlog.get_logger()

POLL_S = 0.5

PROGRESS_S = 0.25
"""Groups are asked for their steps at most this often, however many clips end: that would take a third of the driver's time."""

CLOSE_LOGS_S = 3.0
"""How long the end of a group may be held up by the upload of its workers' logs."""

NO_ROOM = Failed(
    error_type="GroupLost", error="no node has room for a group that the waiting clips need", fault=Fault.MACHINE
)
BROKEN = Failed(
    error_type="GroupLost", error="the group ended because another of its clips failed", fault=Fault.MACHINE
)
HEAD_LOST = Failed(error_type="HeadLost", error="the Ray cluster is gone", fault=Fault.MACHINE)
DRAINED = Failed(
    error_type="NodeDrained", error="the node is going away; the clip had not been started", fault=Fault.DRAIN
)


class Driver:
    """Renders every clip of a schedule, on the groups that the schedule asks for and that fit the cluster or may come to it.

    However `run` ends, it leaves no actor and no placement group behind. After `HeadLost` it may be called again with another
    cluster of the same kind.
    """

    _head: Head
    _placements: Placements

    def __init__(
        self,
        *,
        schedule: Schedule,
        settings: WorkerSettings,
        cluster: ClusterConfig,
        cost: CostModel,
        editions: Editions,
        first_numbers: Mapping[str, int],
        recorder: Recorder,
        watch: Callable[[Progress], None],
        budget: Budget,
    ) -> None:
        self._schedule, self._settings, self._cluster = schedule, settings, cluster
        self._recorder, self._watch = recorder, watch
        self._faults, self._budget = FaultBudget(), GroupBudget(budget, schedule)
        self._last_lines = LastLines(settings.output, settings.run_id)
        self._groups: list[Group] = []
        self._names = (f"g{number}" for number in itertools.count())
        self._asking = Asking(cluster, schedule, self._budget, self._names)
        self._attempts = Attempts(settings, schedule, cost, editions, first_numbers)
        self._was_refused = False
        self._next_progress_s = 0.0

    def run(self, slots: Slots, head: Head) -> None:
        """Returns when every clip has ended.

        Raises:
            HeadLost: If the head of the cluster, or the only node of a local one, is gone.
            LimitReached: If a limit lets no other clip start, and all that had started have ended.
            TooManyFaults: If too many clips fail, or if nothing but machine faults comes for too long.
            StoreRefused: If the store refuses to take rendered clips.
            Permanent: If the model cannot be loaded and no group ever loaded it.
        """
        self._head, self._placements = head, Placements(slots)
        try:
            while not self._schedule.is_finished:
                self._head.check()
                if self._placements.refresh():
                    self._look_for_nodes()
                    self._check_groups()
                self._assign()
                if self._budget.closed_by and not self._groups:
                    raise LimitReached(f"{self._budget.closed_by}; {self._budget.describe_left()}")
                for group, ref in self._await_answers():
                    self._handle_answer(group, ref)
                self._show_progress()
        except (HeadLost, ray.exceptions.RayError):
            self._drop_groups()
            self._last_lines.forget()
            raise
        finally:
            self._close_logs(self._groups)
            for group in self._groups:
                group.end()
                self._budget.release(group)
            self._last_lines.wait()
            self._asking.forget()
            self._placements.remove_all()

    def _close_logs(self, groups: Iterable[Group]) -> None:
        """Has workers upload the rest of their logs before their groups end."""
        refs = [ref for group in groups for ref in group.close_logs()]
        if refs:
            ray.wait(refs, num_returns=len(refs), timeout=CLOSE_LOGS_S)

    def _drop_groups(self) -> None:
        """Drops all groups after their cluster is gone. It must not ask Ray, because that would block."""
        for group in self._groups:
            self._record_failures(group, HEAD_LOST)
            self._schedule.leave(group.name)
            self._budget.release(group)
        self._groups.clear()
        self._asking.forget()
        self._placements.forget()

    def _look_for_nodes(self) -> None:
        """Forms the groups whose nodes have come. If none comes in time and no group is left, that is a fault of the machines."""
        arrived, failure = self._asking.look(self._placements)
        for name, placement in arrived.items():
            self._open(name, placement)
        if failure is not None and not self._groups:
            log.warning("no_node", error=failure.error)
            self._faults.record_load_timeout()
            self._stop_if_too_many_faults(failure)

    def _check_groups(self) -> None:
        """Ends groups that are stuck or whose node is gone, and drains nodes that are going away."""
        slots = self._placements.slots
        self._budget.watch(self._groups)
        if self._cluster.is_local and not slots.nodes:
            raise HeadLost(NO_LOCAL_NODE)
        for group in list(self._groups):
            node = group.placement.node
            if reason := group.why_stuck():
                self._end_stuck(group, GroupLost(reason))
            elif (gone_at_s := slots.draining.get(node)) is not None:
                self._drain(group, gone_at_s)
            elif node not in slots.nodes:
                self._end_lost(group, GroupLost(f"group {group.name}: its node is gone"))
        if not self._groups and not self._has_room():
            self._wait_for_room()

    def _has_room(self) -> bool:
        """Whether a group that clips wait for can be formed, now or once a node has come."""
        if self._schedule.wanted_size(self._placements.largest) is not None:
            return True
        return bool(self._asking) or self._asking.may_ask(self._placements)

    def _wait_for_room(self) -> None:
        """Counts a machine fault whenever no pause is on, so that warnings and retries become less and less frequent."""
        if not self._faults.is_paused(time.monotonic()):
            log.warning("no_room", nodes=len(self._placements.slots.nodes), largest=self._placements.largest)
            self._stop_if_too_many_faults(NO_ROOM)

    def _end_stuck(self, group: Group, loss: GroupLost) -> None:
        if not group.state.is_ready:
            self._faults.record_load_timeout()
        self._end_lost(group, loss)

    def _drain(self, group: Group, gone_at_s: float) -> None:
        """Gives no new clip to a group whose node is going away. The current clip finishes, or is saved just in time."""
        if (task := group.state.close()) is not None:
            self._record_failure(task, group, DRAINED)
        if not group.state.tasks:
            self._remove(group)
        elif is_time_to_save(time.time(), gone_at_s, step_s=group.state.step_s(time.monotonic())):
            group.pause()

    def _assign(self) -> None:
        """Gives each group its next clip, ends groups that are no longer useful, and forms the ones that clips need.

        Once a limit is reached, it ends each group that has no clip.
        """
        if self._faults.is_paused(time.monotonic()):
            return
        self._budget.close_if_spent(self._groups)
        gpus = {node.gpu for node in self._placements.slots.nodes.values()}
        for group in list(self._groups):
            if self._wants_clip(group) and (planned := self._budget.take(self._groups, group)):
                group.take(self._attempts.make_task(planned, group.size, gpus))
            elif self._is_spare(group):
                self._remove(group)
        while self._may_form_more():
            size = self._schedule.wanted_size(self._placements.largest)
            if size is None or not self._budget.may_form(self._groups, size, self._placements.gpu_of_next(size)):
                break
            self._form(size)
        self._placements.remove_spare()
        self._asking.ask(self._placements, self._groups, self._may_form_more)

    def _may_form_more(self) -> bool:
        most = self._cluster.max_groups
        return most is None or len(self._groups) + len(self._asking) < most

    def _is_spare(self, group: Group) -> bool:
        """Whether to end a group that has no clip. If nodes come and go, it ends at once, so that its node may go."""
        if self._budget.closed_by:
            return not group.state.tasks
        is_of_no_use = group.state.is_closing or self._schedule.is_useless(group.name)
        return group.state.is_idle and (is_of_no_use or bool(self._cluster.node_types))

    def _wants_clip(self, group: Group) -> bool:
        """A group that is rendering gets its next clip early, unless so few clips wait that another group would run dry."""
        is_free = group.state.rendering is None
        num_takers = len(self._groups) + len(self._asking)
        return group.state.has_room and (is_free or self._schedule.count(ClipState.WAITING) >= num_takers)

    def _form(self, size: int) -> None:
        name = next(self._names)
        self._schedule.join(name, size)
        self._open(name, self._placements.take(size))

    def _open(self, name: str, placement: Placement) -> None:
        """Starts the workers of a group that the schedule knows."""
        settings = replace(self._settings, plan=ParallelPlan.of_size(placement.size))
        self._groups.append(Group(name, settings, placement, self._cluster))

    def _await_answers(self) -> list[tuple[Group, Any]]:
        """Waits up to `POLL_S` for answers of workers."""
        awaited = {ref: group for group in self._groups for ref in group.refs}
        if not awaited:
            time.sleep(POLL_S)
            return []
        ready, _ = ray.wait(list(awaited), timeout=POLL_S)
        return [(awaited[ref], ref) for ref in ready]

    def _handle_answer(self, group: Group, ref: Any) -> None:
        try:
            answer = group.receive(ref)
        except GroupLost as loss:
            self._end_lost(group, loss)
            return
        except Permanent as error:
            if not self._faults.has_loaded and not isinstance(error, StoreRefused):
                raise
            self._end_lost(group, GroupLost(f"group {group.name}: {error}"))
            return
        if isinstance(answer, Loaded):
            self._faults.record_loaded()
            self._budget.loaded(group)
            self._recorder.loaded(group.name, answer)
        elif isinstance(answer, Ended):
            self._record_end(answer, group)
        if group in self._groups and group.state.is_spent:
            self._dissolve(group, _failure_of_others(group.state.broken_by))

    def _end_lost(self, group: Group, loss: GroupLost) -> None:
        """Ends a lost group. Its clips are tried again, except one that has broken too many groups."""
        log.warning("group_lost", group=group.name, error=str(loss))
        failure = Failed(error_type=type(loss).__name__, error=str(loss), fault=self._fault_of_break(group))
        self._last_lines.save(group)
        self._record_failures(group, failure)
        self._end(group)
        self._stop_if_too_many_faults(failure)

    def _fault_of_break(self, group: Group) -> Fault:
        """Whose fault it is that a group broke.

        DRAIN if its node is going away; MACHINE if the node is gone or the group was never ready; else a clip aboard may be the cause.
        """
        is_node_there = self._placements.has_node(group.placement.node)
        if group.placement.node in self._placements.slots.draining:
            return Fault.DRAIN
        if not is_node_there:
            return Fault.MACHINE
        if not group.state.is_ready:
            self._faults.record_failed_load(time.monotonic(), formed_s=group.formed_s)
            return Fault.MACHINE
        return self._schedule.fault_of_break(group.name)

    def _dissolve(self, group: Group, failure: Failed) -> None:
        self._record_failures(group, failure)
        self._remove(group)

    def _record_failures(self, group: Group, failure: Failed) -> None:
        for task in group.state.tasks:
            self._record_failure(task, group, failure)

    def _record_end(self, ended: Ended, group: Group) -> None:
        clip_id = ended.task.clip.clip_id
        if isinstance(ended.result, Rendered):
            self._schedule.rendered(clip_id)
            self._budget.rendered(group, ended.task, ended.result.commit)
            self._faults.record_progress()
            self._recorder.rendered(ended.task, group.name, ended.result, attempts=self._schedule.attempts(clip_id))
        elif isinstance(ended.result, Judged):
            self._record_judged(ended.task, group, ended.result)
        else:
            failure = ended.result
            if failure.fault is Fault.UNCLEAR:
                failure = replace(failure, fault=self._fault_of_break(group))
            self._attempts.update_saved(ended.task, failure)
            self._record_failure(ended.task, group, failure)
            if failure.is_refused:
                self._handle_refusal(group, failure)
            self._stop_if_too_many_faults(failure)

    def _record_judged(self, task: RenderTask, group: Group, result: Judged) -> None:
        """Another try follows, or the clip is rejected."""
        clip_id, verdict = task.clip.clip_id, result.verdict
        if isinstance(verdict, Render):
            self._attempts.go_on_with(clip_id, verdict.number)
        self._schedule.judged(clip_id, has_next_try=isinstance(verdict, Render))
        self._faults.record_progress()
        self._recorder.judged(task, group.name, result, attempts=self._schedule.attempts(clip_id))

    def _handle_refusal(self, group: Group, failure: Failed) -> None:
        """Stops the run because the store refused a worker, unless only the worker's node may be to blame.

        That is assumed the first time, if the store does not refuse the driver. The group is then replaced; each group probes
        its rights when it loads.
        """
        if failure.error_type == StoreUnready.__name__:
            raise StoreUnready(failure.error)
        if self._was_refused:
            raise StoreRefused(failure.error)
        self._was_refused = True
        with suppress(StoreUnavailable):
            probe_rights(self._settings.output, self._settings.delivery_folders)
        self._dissolve(group, BROKEN)

    def _record_failure(self, task: RenderTask, group: Group, failure: Failed) -> None:
        clip_id = task.clip.clip_id
        state = self._schedule.failed(clip_id, failure.fault)
        if has_used_attempt(failure.fault, state):
            self._faults.record_progress()
        if failure.fault is Fault.MEMORY and state is ClipState.FAILED:
            failure = replace(
                failure, error=f"no group wider than {group.size} is possible on this cluster: {failure.error}"
            )
        attempts, deaths = self._schedule.attempts(clip_id), self._schedule.deaths(clip_id)
        if failure.fault is Fault.LETHAL and state is ClipState.FAILED:
            failure = replace(
                failure, error=f"killed its worker {deaths} times, each time alone on it: {failure.error}"
            )
        self._recorder.failed(task, group.name, failure, state, attempts=attempts, deaths=deaths)

    def _stop_if_too_many_faults(self, failure: Failed) -> None:
        """Counts a machine fault once, however many clips it hit; stops the run if too many clips or machines failed."""
        now_s = time.monotonic()
        if failure.fault in (Fault.MACHINE, Fault.UNCLEAR):
            self._faults.record_fault(now_s)
        give_up_after_s = self._schedule.give_up_after_s
        reason = self._schedule.reason_to_stop() or self._faults.reason_to_stop(now_s, give_up_after_s=give_up_after_s)
        if reason is not None:
            raise TooManyFaults(f"{reason}; the last: {failure.error}")

    def _remove(self, group: Group) -> None:
        """Ends a group whose workers can still answer."""
        self._close_logs([group])
        self._end(group)

    def _end(self, group: Group) -> None:
        self._groups.remove(group)
        self._schedule.leave(group.name)
        group.end()
        self._budget.release(group)
        self._placements.release(group.placement)

    def _show_progress(self) -> None:
        """Tells `watch` how far the run is: every `PROGRESS_S` at most, and when all clips have ended."""
        now_s = time.monotonic()
        if now_s >= self._next_progress_s or self._schedule.is_finished:
            self._next_progress_s = now_s + PROGRESS_S
            self._watch(self._progress())

    def _progress(self) -> Progress:
        for group in self._groups:
            group.poll_step()
        return Progress(
            num_rendered=self._schedule.count(ClipState.RENDERED),
            num_rejected=self._schedule.count(ClipState.REJECTED),
            num_failed=self._schedule.count(ClipState.FAILED),
            num_left=self._schedule.num_unfinished,
            running=tuple(clip for group in self._groups for clip in group.state.running()),
            num_groups_loading=sum(not group.state.is_ready for group in self._groups),
            num_groups_asked=len(self._asking),
            waiting_by_size=self._schedule.num_waiting_by_size(),
            groups=tuple(map(self._describe_group, self._groups)),
            spending=self._budget.spending,
        )

    def _describe_group(self, group: Group) -> GroupProgress:
        node = self._placements.slots.nodes.get(group.placement.node)
        gpu = OTHER if node is None else node.gpu
        return GroupProgress(name=group.name, size=group.size, phase=group.state.phase, gpu=gpu.name)


def _failure_of_others(broken_by: Failed | None) -> Failed:
    """The failure of the other clips aboard a group that broke. If the cause is unclear, they may be the cause too."""
    is_unclear = broken_by is not None and broken_by.fault is Fault.UNCLEAR
    return replace(BROKEN, fault=Fault.UNCLEAR) if is_unclear else BROKEN
