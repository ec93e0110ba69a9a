"""Where groups are: slots of one node, reserved together, in which group after group may be formed."""

import time
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from lynx_batch.execution.cluster import Slots, find_slots, node_answers
from lynx_batch.execution.worker import Worker
from lynx_batch.planning.layout import FreeGpus
from lynx_batch.rendering.tasks import WorkerSettings

LOOK_EVERY_S = 2.0

ALL_GPUS_VISIBLE = {"env_vars": {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}}
"""With a mask of one GPU each, ranks cannot use each other's memory directly."""


class Placement:
    """A placement group with one slot per rank."""

    def __init__(self, slots: Slots, node: str, size: int) -> None:
        self.node, self.size, self._bundle = node, size, slots.bundle()
        # A wish only: should the node be gone by now, Ray finds another.
        self._reserved = placement_group([self._bundle] * size, strategy="STRICT_PACK", _soft_target_node_id=node)

    @property
    def state(self) -> str:
        """PENDING, CREATED, RESCHEDULING or REMOVED."""
        return str(placement_group_table(self._reserved)["state"])

    def is_whole(self, nodes: Collection[str]) -> bool:
        """Whether it lies where it was meant to, on one of `nodes`. Ray moves the slots of a lost node elsewhere, perhaps one by one."""
        table = placement_group_table(self._reserved)
        used = set(table["bundles_to_node_id"].values())
        return table["state"] == "CREATED" and used == {self.node} and self.node in nodes

    def start_worker(self, settings: WorkerSettings, rank: int) -> Any:
        strategy = PlacementGroupSchedulingStrategy(self._reserved, placement_group_bundle_index=rank)
        return Worker.options(  # type: ignore[attr-defined]
            num_cpus=self._bundle.get("CPU", 0),
            num_gpus=self._bundle.get("GPU", 0),
            scheduling_strategy=strategy,
            runtime_env=ALL_GPUS_VISIBLE,
        ).remote(settings, rank)

    def give_back(self) -> None:
        remove_placement_group(self._reserved)


class Placements:
    """All placements of a run, the spare ones of ended groups among them, and what room the cluster has beside them."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self._taken: list[Placement] = []
        self._spare: list[Placement] = []
        self._silent: set[str] = set()
        self._looked_s = float("-inf")
        self.look()

    @property
    def largest(self) -> int:
        """The size of the widest group that can be formed."""
        return max([self._free_gpus.largest, *(placement.size for placement in self._spare)])

    def look(self, *, is_urgent: bool = False) -> bool:
        """Sees which nodes are there now, unless that was a moment ago; a cluster without its GPUs offers no CPU cores."""
        if not is_urgent and time.monotonic() - self._looked_s < LOOK_EVERY_S:
            return False
        known, found = self.slots, find_slots(self.slots.resource)
        self._silent = {node for node in self._silent & found.nodes.keys() if not node_answers(node)}
        self.slots = replace(
            found, nodes={node: room for node, room in found.nodes.items() if node not in self._silent}
        )
        self._looked_s = time.monotonic()
        if known.nodes.keys() != self.slots.nodes.keys():
            self.give_back_spare()
        self._measure()
        return True

    def has(self, node: str) -> bool:
        """Whether a node is there now. The cluster notices some seconds late that it is not, and would form groups on it till then."""
        self.look(is_urgent=True)
        if node in self.slots.nodes and not node_answers(node):
            self._silent.add(node)
            self.look(is_urgent=True)
        return node in self.slots.nodes

    def take(self, size: int) -> Placement:
        """A spare placement of `size`, else a new one; there must be room for it, if need be in place of spare ones."""
        placement = next((spare for spare in self._spare if spare.size == size), None)
        if placement is None:
            self.give_back_spare()
            placement = Placement(self.slots, self._free_gpus.take(size), size)
        else:
            self._spare.remove(placement)
        self._taken.append(placement)
        return placement

    def leave(self, placement: Placement) -> None:
        """Its group has ended: another can be formed in it, if its node lives on."""
        self._taken.remove(placement)
        if placement.is_whole(self.slots.nodes):
            self._spare.append(placement)
        else:
            placement.give_back()
        self._measure()

    def give_back_spare(self) -> None:
        for placement in self._spare:
            placement.give_back()
        self._spare.clear()
        self._measure()

    def give_back(self) -> None:
        """All of them; the run is over."""
        for placement in (*self._taken, *self._spare):
            placement.give_back()
        self.forget()

    def forget(self) -> None:
        """With the head of the cluster, everything is gone that could be given back, and asking would block."""
        self._taken.clear()
        self._spare.clear()

    def _measure(self) -> None:
        self._free_gpus = FreeGpus({node_id: node.num_gpus for node_id, node in self.slots.nodes.items()})
        for placement in (*self._taken, *self._spare):
            self._free_gpus.fill(placement.node, placement.size)
