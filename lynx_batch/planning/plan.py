"""The plan of a run: the group size of each clip, chosen by simulating the run."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lynx_batch.clip import ClipSpec
from lynx_batch.planning.cost import LOAD_S, CostModel, Work, works_of
from lynx_batch.planning.expectation import TryForecast
from lynx_batch.planning.layout import URGENT_PRIORITY, Node, allot
from lynx_batch.planning.order import PlannedClip
from lynx_batch.planning.simulate import Forecast, Simulation


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One way to render the clips: in groups of the first of `sizes`, or wider ones for clips that need them."""

    sizes: tuple[int, ...]
    clips: list[PlannedClip]
    forecast: Forecast


def options(
    clips: Sequence[ClipSpec],
    *,
    cost: CostModel,
    nodes: tuple[Node, ...],
    sizes: tuple[int, ...],
    max_groups: int | None = None,
    tries: TryForecast | None = None,
) -> list[Option]:
    """One option for each size that could be the smallest one used, simulated on `nodes`. The widest of `sizes` must fit a node.

    Without `tries`, each clip takes one.
    """
    works = works_of((clip.params for clip in clips), cost.engine)
    counts = Counter(works)
    planned = [
        (sizes[index:], _plan_clips(clips, works, counts, cost, nodes, sizes[index:], tries))
        for index in range(len(sizes))
    ]
    return [
        Option(sizes=s, clips=p, forecast=Simulation(p, nodes, cost, sizes=s, max_groups=max_groups).run())
        for s, p in planned
    ]


def best(options: Iterable[Option]) -> Option:
    """The shortest option, which is also the cheapest on a given cluster; of equals, the one with the smallest groups."""
    return min(options, key=lambda option: (option.forecast.makespan_s, option.sizes))


def ideal_s(clips: Iterable[PlannedClip], cost: CostModel, nodes: tuple[Node, ...]) -> float:
    """The makespan if all GPUs load the model once and are then busy to the end, in groups of one."""
    counts: defaultdict[Work, float] = defaultdict(float)
    for planned in clips:
        counts[planned.work] += planned.num_tries
    pace = sum(node.num_gpus / sum(num * cost.seconds(w, 1, node.gpu) for w, num in counts.items()) for node in nodes)
    return LOAD_S + 1 / pace


def num_unfit(clips: Iterable[PlannedClip], cost: CostModel, nodes: tuple[Node, ...]) -> int:
    """How many clips do not fit the memory of their group, which is then the widest possible one."""
    counts = Counter((planned.work, planned.group_size) for planned in clips)
    gpu = typical_node(nodes).gpu
    return sum(number for (work, size), number in counts.items() if not cost.fits(work, size, gpu))


def typical_node(nodes: tuple[Node, ...]) -> Node:
    """The node for whose GPUs the times of clips are planned: the largest."""
    return max(nodes, key=lambda node: node.num_gpus)


def _plan_clips(
    clips: Sequence[ClipSpec],
    works: Sequence[Work],
    counts: Mapping[Work, int],
    cost: CostModel,
    nodes: tuple[Node, ...],
    sizes: tuple[int, ...],
    tries: TryForecast | None,
) -> list[PlannedClip]:
    """`works` are those of `clips`, one object for each kind, whose id is much faster to look up than its value; `counts` counts them."""
    gpu, num_gpus = typical_node(nodes).gpu, sum(node.num_gpus for node in nodes)
    allotted = allot(counts, cost=cost, gpu=gpu, num_gpus=num_gpus, sizes=sizes)
    sizes_of = {id(work): size for work, size in allotted.items()}
    seconds = {(id(work), size): cost.seconds(work, size, gpu) for work in allotted for size in sizes}
    planned = []
    for clip, work in zip(clips, works, strict=True):
        kind = id(work)
        size = sizes[-1] if clip.request.priority >= URGENT_PRIORITY else sizes_of[kind]
        num_tries = 1.0 if tries is None else tries.of(clip)
        planned.append(
            PlannedClip(clip=clip, work=work, group_size=size, seconds=seconds[kind, size], num_tries=num_tries)
        )
    return planned
