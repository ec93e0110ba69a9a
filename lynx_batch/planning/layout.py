"""How many GPUs each clip gets, and which node has room for a group.

The smallest group that has enough memory gives the most throughput. Wider groups are for urgent clips and for clips that would
otherwise finish after the rest of the run.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from lynx_batch.errors import ConfigError
from lynx_batch.planning.cost import GPU_TYPES, OTHER, CostModel, GpuType, Work

GROUP_SIZES = (1, 2, 4, 8)

URGENT_PRIORITY = 100
"""Clips of this priority or higher get the widest possible group."""

TOLERATED_EXCESS = 1.1
"""A clip is widened only if it takes more than this many times the run's ideal length: a wider group costs more GPU-seconds, and no
schedule is perfectly even."""

NUM_BISECTIONS = 40

NODE_GPUS = 8
POOL = re.compile(r"(?P<num>[1-9]\d*)x(?P<gpu>[A-Za-z0-9]+)(@(?P<usd>\d+(\.\d+)?))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A machine with GPUs of one type. `usd_per_gpu_hour` is None if the price is unknown.

    `may_come`: it is not there yet, and is paid only from when it is asked for until no group is left on it.
    """

    num_gpus: int
    gpu: GpuType
    usd_per_gpu_hour: float | None = None
    is_spot: bool = False
    may_come: bool = False


def parse_nodes(pools: Sequence[str]) -> tuple[Node, ...]:
    """The nodes of pools such as "64xH100@2.5" (USD per GPU-hour), with eight GPUs each. Raises ConfigError."""
    types = {gpu.name.lower(): gpu for gpu in GPU_TYPES}
    nodes = []
    for pool in pools:
        match = POOL.fullmatch(pool)
        if match is None or match["gpu"].lower() not in types:
            known = ", ".join(gpu.name for gpu in GPU_TYPES)
            raise ConfigError(f"--gpus {pool!r}: must look like 64xH100 or 64xH100@2.5; known GPUs: {known}")
        num, gpu = int(match["num"]), types[match["gpu"].lower()]
        price = float(match["usd"]) if match["usd"] else None
        sizes = [NODE_GPUS] * (num // NODE_GPUS) + [num % NODE_GPUS] * (num % NODE_GPUS > 0)
        nodes += [Node(num_gpus=size, gpu=gpu, usd_per_gpu_hour=price) for size in sizes]
    return tuple(nodes)


class FreeGpus:
    """The GPUs of each node that no group uses. A group never spans nodes.

    `later`: nodes that are used only if no other has room, in this order. Once a group is on one of them, it is a node like any other.
    """

    def __init__(self, nodes: Mapping[str, int], later: Iterable[str] = ()) -> None:
        self._free = dict(nodes)
        self._later = dict.fromkeys(later)

    @property
    def largest(self) -> int:
        return max(self._free.values(), default=0)

    def take(self, size: int) -> str:
        """Takes `size` GPUs of the node that `choose` gives; returns that node."""
        node = self.choose(size)
        self.fill(node, size)
        return node

    def choose(self, size: int) -> str:
        """The node with the least sufficient room. There must be one."""
        in_use = [name for name, free in self._free.items() if free >= size and name not in self._later]
        if not in_use:
            return next(name for name in self._later if self._free[name] >= size)
        return min(in_use, key=lambda name: self._free[name])

    def fill(self, node: str, size: int) -> None:
        """Takes `size` GPUs of this node; does nothing if the node is gone."""
        if node in self._free:
            self._free[node] -= size
        self._later.pop(node, None)

    def give_back(self, node: str, size: int) -> None:
        self._free[node] += size


def possible_sizes(nodes: Iterable[Node]) -> tuple[int, ...]:
    """The group sizes that fit some node. On devices without figures that is 1, as wider groups may not pay."""
    most = max(1 if node.gpu is OTHER else node.num_gpus for node in nodes)
    return tuple(size for size in GROUP_SIZES if size <= most)


def allot(
    counts: Mapping[Work, int], *, cost: CostModel, gpu: GpuType, num_gpus: int, sizes: tuple[int, ...]
) -> dict[Work, int]:
    """The group size for each kind of work: the narrowest that has enough memory and does not take longer than the run.

    `counts` says how many clips there are of each kind.

    The run's length is the shortest in which the GPUs can do all the work at these sizes. Source: the allotment phase of two-phase
    scheduling of malleable tasks (Turek, Wolf, Yu; SPAA 1992).
    """
    narrowest = {work: _narrowest_that_fits(work, cost, gpu, sizes) for work in counts}
    seconds = {(work, size): cost.seconds(work, size, gpu) for work in counts for size in sizes}

    def sizes_within(makespan_s: float) -> dict[Work, int]:
        return {
            work: next((s for s in sizes if s >= least and seconds[work, s] <= makespan_s), sizes[-1])
            for work, least in narrowest.items()
        }

    def is_enough(makespan_s: float) -> bool:
        allotted = sizes_within(makespan_s)
        longest_s = max(seconds[chosen] for chosen in allotted.items())
        gpu_s = sum(counts[work] * size * seconds[work, size] for work, size in allotted.items())
        return longest_s <= makespan_s and gpu_s <= makespan_s * num_gpus

    one_by_one_s = sum(counts[work] * max(seconds[work, size] for size in sizes) for work in counts)
    return sizes_within(TOLERATED_EXCESS * _shortest_s(is_enough, at_most=one_by_one_s * sizes[-1]))


def _narrowest_that_fits(work: Work, cost: CostModel, gpu: GpuType, sizes: tuple[int, ...]) -> int:
    """The widest if none fits: the estimate may be wrong, and the attempt will show."""
    return next((size for size in sizes if cost.fits(work, size, gpu)), sizes[-1])


def _shortest_s(is_enough: Callable[[float], bool], *, at_most: float) -> float:
    """The shortest time for which `is_enough` holds, by bisection. It is assumed to hold at `at_most`."""
    low, high = 0.0, at_most
    for _ in range(NUM_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high
