"""How wide the group of each clip is, and on which node a group finds room.

Throughput comes from the smallest group that fits memory. Wider groups are for urgent clips and for clips that would
end after the rest of the run.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from lynx_batch.errors import ConfigError
from lynx_batch.planning.cost import GPU_TYPES, OTHER, CostModel, GpuType, Work

GROUP_SIZES = (1, 2, 4, 8)

URGENT_PRIORITY = 100
"""Clips of this priority and above get the widest group there is."""

TOLERATED_EXCESS = 1.1
"""A clip that outlasts the others by less stays narrow: widening costs GPU-seconds, and no schedule is quite even."""

NUM_HALVINGS = 40

NODE_GPUS = 8
POOL = re.compile(r"(?P<num>[1-9]\d*)x(?P<gpu>[A-Za-z0-9]+)(@(?P<usd>\d+(\.\d+)?))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A machine with GPUs of one type. `usd_per_gpu_hour` is None if nobody told the price."""

    num_gpus: int
    gpu: GpuType
    usd_per_gpu_hour: float | None = None


def parse_nodes(pools: Sequence[str]) -> tuple[Node, ...]:
    """The nodes of pools such as "64xH100@2.5" (USD per GPU-hour), with eight GPUs each. Raises ConfigError."""
    types = {gpu.name.lower(): gpu for gpu in GPU_TYPES}
    nodes = []
    for pool in pools:
        match = POOL.fullmatch(pool)
        if match is None or match["gpu"].lower() not in types:
            known = ", ".join(gpu.name for gpu in GPU_TYPES)
            raise ConfigError(f"--gpus {pool!r}: must be such as 64xH100 or 64xH100@2.5, of one of {known}")
        num, gpu = int(match["num"]), types[match["gpu"].lower()]
        price = float(match["usd"]) if match["usd"] else None
        sizes = [NODE_GPUS] * (num // NODE_GPUS) + [num % NODE_GPUS] * (num % NODE_GPUS > 0)
        nodes += [Node(num_gpus=size, gpu=gpu, usd_per_gpu_hour=price) for size in sizes]
    return tuple(nodes)


class FreeGpus:
    """The GPUs of each node that no group has. A group never spans nodes."""

    def __init__(self, nodes: Mapping[str, int]) -> None:
        self._free = dict(nodes)

    @property
    def largest(self) -> int:
        return max(self._free.values(), default=0)

    def take(self, size: int) -> str:
        """The node with the least room that is enough, less `size` GPUs; there must be one."""
        node = min((name for name, free in self._free.items() if free >= size), key=lambda name: self._free[name])
        self.fill(node, size)
        return node

    def fill(self, node: str, size: int) -> None:
        """A group of `size` is on the node; a node that is gone has no room anyway."""
        if node in self._free:
            self._free[node] -= size

    def give_back(self, node: str, size: int) -> None:
        self._free[node] += size


def possible_sizes(nodes: Iterable[Node]) -> tuple[int, ...]:
    """The group sizes that fit some node; of devices without figures nothing but single ones is known to pay."""
    most = max(1 if node.gpu is OTHER else node.num_gpus for node in nodes)
    return tuple(size for size in GROUP_SIZES if size <= most)


def allot(
    works: Iterable[Work], *, cost: CostModel, gpu: GpuType, num_gpus: int, sizes: tuple[int, ...]
) -> dict[Work, int]:
    """For each kind of work the narrowest group that has the memory and with which no clip outlasts the run.

    The time that the run takes is the least for which all the work, that wide, fits the GPUs. Source: the allotment of
    two-phase scheduling of malleable tasks (Turek, Wolf, Yu; SPAA 1992).
    """
    counts = Counter(works)
    narrowest = {work: _narrowest_that_fits(work, cost, gpu, sizes) for work in counts}
    seconds = {(work, size): cost.seconds(work, size, gpu) for work in counts for size in sizes}

    def within(makespan_s: float) -> dict[Work, int]:
        return {
            work: next((s for s in sizes if s >= least and seconds[work, s] <= makespan_s), sizes[-1])
            for work, least in narrowest.items()
        }

    def is_enough(makespan_s: float) -> bool:
        allotted = within(makespan_s)
        longest_s = max(seconds[chosen] for chosen in allotted.items())
        gpu_s = sum(counts[work] * size * seconds[work, size] for work, size in allotted.items())
        return longest_s <= makespan_s and gpu_s <= makespan_s * num_gpus

    one_by_one_s = sum(counts[work] * max(seconds[work, size] for size in sizes) for work in counts)
    return within(TOLERATED_EXCESS * _least(is_enough, at_most=one_by_one_s * sizes[-1]))


def _narrowest_that_fits(work: Work, cost: CostModel, gpu: GpuType, sizes: tuple[int, ...]) -> int:
    """The widest if none does: the estimate may be wrong, and the attempt will tell."""
    return next((size for size in sizes if cost.fits(work, size, gpu)), sizes[-1])


def _least(is_enough: Callable[[float], bool], *, at_most: float) -> float:
    """The least time that is enough, by halving; `at_most` is taken for granted."""
    low, high = 0.0, at_most
    for _ in range(NUM_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high
