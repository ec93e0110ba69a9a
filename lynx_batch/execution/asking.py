"""Asks for the nodes that a run needs and that may come, and takes back what it needs no more.

Ray's autoscaler adds nodes for placement groups that wait, and for nothing else here: `request_resources` would outlive a killed driver.
"""

import time
from collections.abc import Callable, Iterator, Sequence

import structlog

from lynx_batch.config import ClusterConfig
from lynx_batch.errors import Fault
from lynx_batch.execution.group import Group
from lynx_batch.execution.group_budget import GroupBudget
from lynx_batch.execution.labels import selector_of
from lynx_batch.execution.placement import AskedPlacement, Placement, Placements
from lynx_batch.planning.schedule import Schedule
from lynx_batch.preparation.node_types import Asked, NodeType, RoomToCome, node_types_of
from lynx_batch.rendering.tasks import Failed

log = structlog.get_logger()


class Asking:
    """The groups of a run that wait for their nodes. The schedule counts each as a group without a clip.

    Without `cluster.node_types` there are none, and every method does nothing.
    """

    def __init__(self, cluster: ClusterConfig, schedule: Schedule, budget: GroupBudget, names: Iterator[str]) -> None:
        self._cluster, self._schedule, self._budget, self._names = cluster, schedule, budget, names
        self._types = node_types_of(cluster)
        self._widest = max((each.num_gpus for each in self._types), default=0)
        self._asked: dict[str, AskedPlacement] = {}
        self._late_until_s: dict[NodeType, float] = {}
        self._in_vain = set[str]()

    def __len__(self) -> int:
        return len(self._asked)

    def may_ask(self, placements: Placements) -> bool:
        """Whether a node may come for a clip that waits."""
        size = self._schedule.wanted_size(self._widest)
        return size is not None and self._room(placements).choose(size) is not None

    def ask(self, placements: Placements, groups: Sequence[Group], may_form_more: Callable[[], bool]) -> None:
        """Asks for as many groups as clips wait for and may come, within the limits of the run."""
        widest = self._widest
        if not widest or self._schedule.wanted_size(widest) is None:
            return
        room = self._room(placements)
        while may_form_more() and (size := self._schedule.wanted_size(widest)) is not None:
            chosen = room.choose(size, self._late())
            if chosen is None:
                widest = size - 1
                continue
            waiting = [(each.size, each.gpu) for each in self._asked.values()]
            if not self._budget.may_form(groups, size, chosen.gpu, waiting):
                return
            self._ask_for(size, chosen, placements)

    def look(self, placements: Placements) -> tuple[dict[str, Placement], Failed | None]:
        """The placements that have come and are still needed, by the name of their group; and what is wrong if nodes do not come in time.

        Takes back what is needed no more. Call this every few seconds.
        """
        if not self._asked:
            return {}, None
        come = self._take_arrived(placements)
        failure = self._withdraw_late(placements)
        self._withdraw_in_vain(placements)
        self._withdraw_superfluous(placements)
        return come, failure

    def forget(self) -> None:
        """With the head gone, nothing is asked for any more."""
        for name in self._asked:
            self._schedule.leave(name)
        self._asked.clear()

    def _ask_for(self, size: int, type_of_node: NodeType, placements: Placements) -> None:
        name = next(self._names)
        self._asked[name] = placements.ask(size, type_of_node)
        self._schedule.join(name, size)
        log.info("node_asked_for", group=name, size=size, type=str(type_of_node))

    def _take_arrived(self, placements: Placements) -> dict[str, Placement]:
        arrived = placements.take_arrived()
        come = dict[str, Placement]()
        for name, placement in [(name, each) for name, each in self._asked.items() if each in arrived]:
            del self._asked[name]
            self._late_until_s.pop(placement.type, None)
            log.info("node_came", group=name, node=placement.node)
            if self._is_superfluous(name, placement.size):
                self._schedule.leave(name)
                placements.release(placement)
            else:
                come[name] = placement
        return come

    def _withdraw_in_vain(self, placements: Placements) -> None:
        """Takes back what no node may come for, unless one has just come, so that Ray has not given it to the group yet."""
        names = list(self._asked)
        in_vain = {names[index] for index in self._room(placements).in_vain}
        for name in in_vain & self._in_vain:
            self._take_back(name, placements)
        self._in_vain = in_vain

    def _withdraw_superfluous(self, placements: Placements) -> None:
        """Takes back what clips wait for no more, the newest first."""
        needed = set[int]()
        for name, placement in reversed(list(self._asked.items())):
            if placement.size in needed:
                continue
            if self._is_superfluous(name, placement.size):
                self._take_back(name, placements)
            else:
                needed.add(placement.size)

    def _is_superfluous(self, name: str, size: int) -> bool:
        """Whether the waiting clips have enough groups without this one."""
        self._schedule.leave(name)
        is_superfluous = bool(self._budget.closed_by) or self._schedule.wanted_size(size) is None
        self._schedule.join(name, size)
        return is_superfluous

    def _withdraw_late(self, placements: Placements) -> Failed | None:
        """Asks for another type, if there is one, in place of one that did not come in time."""
        now_s, limit_s = time.monotonic(), self._cluster.ready_within_s
        late = {name: each for name, each in self._asked.items() if now_s - each.asked_s > limit_s}
        for name, placement in late.items():
            self._late_until_s[placement.type] = now_s + limit_s
            self._take_back(name, placements)
        if not late or self._late() < set(self._types):
            return None
        last = next(reversed(late.values())).type
        labels = ", ".join(f"{key}: {value}" for key, value in selector_of(last).items())
        problem = (
            f"no node of the type {last} came within cluster.ready_within_s={limit_s:g}; the cluster's autoscaler needs a type of node with "
            f"{last.num_gpus} GPUs that these labels select: {labels}"
        )
        return Failed(error_type="GroupLost", error=problem, fault=Fault.MACHINE)

    def _late(self) -> set[NodeType]:
        now_s = time.monotonic()
        return {each for each, until_s in self._late_until_s.items() if now_s < until_s}

    def _take_back(self, name: str, placements: Placements) -> None:
        placements.withdraw(self._asked.pop(name))
        self._schedule.leave(name)
        log.info("node_asked_for_no_more", group=name)

    def _room(self, placements: Placements) -> RoomToCome:
        asked = [Asked(type=each.type, size=each.size) for each in self._asked.values()]
        return RoomToCome(self._types, placements.slots.nodes.values(), asked)
