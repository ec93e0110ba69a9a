"""Where groups run: slots of one node, reserved together, in which one group after another can be formed."""

import time
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from lynx_batch.execution.cluster import Slots, find_slots, node_answers
from lynx_batch.execution.labels import selector_of
from lynx_batch.execution.worker import Worker
from lynx_batch.planning.cost import GpuType
from lynx_batch.planning.layout import FreeGpus
from lynx_batch.preparation.node_types import NodeType
from lynx_batch.rendering.tasks import WorkerSettings

LOOK_EVERY_S = 2.0

ALL_GPUS_VISIBLE = {"env_vars": {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}}
"""If each rank saw only its own GPU, ranks could not access each other's memory directly."""


class Placement:
    """A placement group with one slot per rank, all on `node`. `where` says more to Ray about where that is."""

    def __init__(self, bundle: dict[str, float], size: int, gpu: GpuType, node: str, **where: Any) -> None:
        self.node, self.size, self.gpu, self._bundle = node, size, gpu, bundle
        self._placement_group = placement_group([bundle] * size, strategy="STRICT_PACK", **where)

    @property
    def state(self) -> str:
        """PENDING, CREATED, RESCHEDULING or REMOVED."""
        return str(placement_group_table(self._placement_group)["state"])

    def is_intact(self, nodes: Collection[str]) -> bool:
        """Whether all slots are on the requested node and it is one of `nodes`. Ray moves slots of a lost node, perhaps one by one."""
        table = placement_group_table(self._placement_group)
        used = set(table["bundles_to_node_id"].values())
        return table["state"] == "CREATED" and used == {self.node} and self.node in nodes

    def start_worker(self, settings: WorkerSettings, group: str, rank: int) -> Any:
        strategy = PlacementGroupSchedulingStrategy(self._placement_group, placement_group_bundle_index=rank)
        return Worker.options(  # type: ignore[attr-defined]
            num_cpus=self._bundle.get("CPU", 0),
            num_gpus=self._bundle.get("GPU", 0),
            scheduling_strategy=strategy,
            runtime_env=ALL_GPUS_VISIBLE,
        ).remote(settings, group, rank)

    def remove(self) -> None:
        remove_placement_group(self._placement_group)


class AskedPlacement(Placement):
    """A placement group that waits for a node of a certain type. Ray's autoscaler sees it, and adds a node if none has room.

    It ends with the driver, so nothing remains asked for. `node` is empty until `find_node` finds it.
    """

    def __init__(self, bundle: dict[str, float], size: int, type_of_node: NodeType) -> None:
        self.type, self.asked_s = type_of_node, time.monotonic()
        labels = [selector_of(type_of_node)] * size
        super().__init__(bundle, size, type_of_node.gpu, "", bundle_label_selector=labels)

    def find_node(self) -> bool:
        """Whether its slots are reserved now."""
        table = placement_group_table(self._placement_group)
        if table["state"] == "CREATED":
            self.node = next(iter(table["bundles_to_node_id"].values()))
        return bool(self.node)


class Placements:
    """All placements of a run, including those asked for and the spare ones of ended groups, and the free GPUs of the cluster."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.asked: list[AskedPlacement] = []
        self._taken: list[Placement] = []
        self._spare: list[Placement] = []
        self._unreachable: set[str] = set()
        self._refreshed_s = float("-inf")
        self.refresh()

    @property
    def largest(self) -> int:
        """The size of the widest group that can be formed."""
        return max([self._free_gpus.largest, *(placement.size for placement in self._spare)])

    def refresh(self, *, is_urgent: bool = False) -> bool:
        """Looks up the nodes of the cluster, and returns True, unless the last look-up was less than `LOOK_EVERY_S` ago.

        The resource stays the same: a GPU cluster that has lost its GPUs offers no CPU slots instead.
        """
        if not is_urgent and time.monotonic() - self._refreshed_s < LOOK_EVERY_S:
            return False
        known, found = self.slots, find_slots(self.slots.resource)
        self._unreachable = {node for node in self._unreachable & found.nodes.keys() if not node_answers(node)}
        self.slots = replace(
            found, nodes={node: room for node, room in found.nodes.items() if node not in self._unreachable}
        )
        self._refreshed_s = time.monotonic()
        if known.nodes.keys() != self.slots.nodes.keys():
            self.remove_spare()
        self._count_free_gpus()
        return True

    def has_node(self, node: str) -> bool:
        """Whether a node is there now. Asks it directly, because the cluster reports a lost node some seconds late."""
        self.refresh(is_urgent=True)
        if node in self.slots.nodes and not node_answers(node):
            self._unreachable.add(node)
            self.refresh(is_urgent=True)
        return node in self.slots.nodes

    def gpu_of_next(self, size: int) -> GpuType:
        """The type of the GPUs that `take` would give."""
        spare = next((spare.gpu for spare in self._spare if spare.size == size), None)
        if spare is not None or self._free_gpus.largest < size:
            return spare or self._spare[0].gpu
        return self.slots.nodes[self._free_gpus.choose(size)].gpu

    def take(self, size: int) -> Placement:
        """A spare placement of `size`, else a new one. There must be room for it, once spare ones are removed if necessary."""
        placement = next((spare for spare in self._spare if spare.size == size), None)
        if placement is None:
            self.remove_spare()
            placement = self._make(size)
        else:
            self._spare.remove(placement)
        self._taken.append(placement)
        return placement

    def ask(self, size: int, type_of_node: NodeType) -> AskedPlacement:
        """Asks for a placement of `size` on a node of this type, which need not be there."""
        placement = AskedPlacement(self.slots.bundle(), size, type_of_node)
        self.asked.append(placement)
        self._count_free_gpus()
        return placement

    def withdraw(self, placement: AskedPlacement) -> None:
        """Asks for this placement no more."""
        placement.remove()
        self.asked.remove(placement)
        self._count_free_gpus()

    def take_arrived(self) -> list[AskedPlacement]:
        """The placements whose nodes have come since the last call."""
        arrived = [placement for placement in self.asked if placement.find_node()]
        if arrived:
            self.asked = [placement for placement in self.asked if placement not in arrived]
            self._taken += arrived
            self.refresh(is_urgent=True)
        return arrived

    def release(self, placement: Placement) -> None:
        """Takes back the placement of a group that has ended. Another group can use it if its node is still there.

        What becomes free on a node of a type that was asked for goes to the groups that wait for it.
        """
        self._taken.remove(placement)
        if placement.is_intact(self.slots.nodes) and placement.node not in self._promised():
            self._spare.append(placement)
        else:
            placement.remove()
        self._count_free_gpus()

    def remove_spare(self) -> None:
        for placement in self._spare:
            placement.remove()
        self._spare.clear()
        self._count_free_gpus()

    def remove_all(self) -> None:
        """Removes every placement, at the end of a run."""
        for placement in (*self.asked, *self._taken, *self._spare):
            placement.remove()
        self.forget()

    def forget(self) -> None:
        """Drops all placements without asking Ray: with the head gone they are gone too, and asking would block."""
        self.asked.clear()
        self._taken.clear()
        self._spare.clear()

    def _make(self, size: int) -> Placement:
        """The target node is only a preference: if it is gone by now, Ray uses another."""
        node = self._free_gpus.take(size)
        return Placement(self.slots.bundle(), size, self.slots.nodes[node].gpu, node, _soft_target_node_id=node)

    def _promised(self) -> set[str]:
        """The nodes on which Ray may give what becomes free to a placement that was asked for."""
        types = {placement.type for placement in self.asked}
        return {name for name, node in self.slots.nodes.items() if any(each.matches(node) for each in types)}

    def _count_free_gpus(self) -> None:
        promised = self._promised()
        own = {name: node.num_gpus for name, node in self.slots.nodes.items() if name not in promised}
        self._free_gpus = FreeGpus(own)
        for placement in (*self._taken, *self._spare):
            self._free_gpus.fill(placement.node, placement.size)
