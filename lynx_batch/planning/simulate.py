"""Predicts how long a run takes on a cluster: the same `Schedule` as in a run, driven by predicted times."""

import heapq
import itertools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from lynx_batch.planning.cost import LOAD_S, CostModel
from lynx_batch.planning.layout import FreeGpus, Node
from lynx_batch.planning.order import PlannedClip
from lynx_batch.planning.schedule import RetryPolicy, Schedule

HOUR_S = 3600.0

START_S = 300.0
"""From asking for a node until groups can be formed on it. An assumption: a cloud starts a machine with GPUs and fetches the image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """The predicted time and cost of a plan.

    `gpu_hours` are those of the whole cluster until the last clip is done, because that is what is paid for; of a node that may come, only
    those from when it is asked for until its last group ends. `groups`: how many groups of each size were formed. `usd` is None if a price
    is unknown. `held_gpu_hours` and `held_usd` are those of the groups alone, from their forming to their end: what counts against the
    limits of a run.
    """

    makespan_s: float
    gpu_hours: float
    busy_share: float
    usd: float | None
    held_gpu_hours: float
    held_usd: float | None
    groups: dict[int, int]


@dataclass(frozen=True, slots=True)
class _SimulatedGroup:
    name: str
    node: str
    size: int


class Simulation:
    """Simulates a run on the nodes of a cluster, from the loading of the first group to the end of the last clip."""

    def __init__(
        self,
        clips: Iterable[PlannedClip],
        nodes: tuple[Node, ...],
        cost: CostModel,
        *,
        sizes: tuple[int, ...],
        max_groups: int | None,
    ) -> None:
        self._cost = cost
        self._num_free = max_groups if max_groups is not None else sum(node.num_gpus for node in nodes)
        self._nodes = {str(number): node for number, node in enumerate(nodes)}
        to_come = [name for name, node in self._nodes.items() if node.may_come]
        self._is_elastic = bool(to_come)
        self._free_gpus = FreeGpus({name: node.num_gpus for name, node in self._nodes.items()}, later=to_come)
        self._asked_s: dict[str, float] = {}
        self._left_s: dict[str, float] = {}
        self._schedule = Schedule(RetryPolicy())
        self._schedule.plan(clips, sizes)
        self._numbers = itertools.count()
        self._events: list[tuple[float, int, _SimulatedGroup, str | None]] = []
        self._idle: list[_SimulatedGroup] = []
        self._busy_gpu_s = 0.0
        self._seconds: dict[tuple[int, int, str], float] = {}
        self._formed_s: dict[str, float] = {}
        self._held_gpu_hours: dict[str, float] = dict.fromkeys(self._nodes, 0.0)
        self._num_formed: Counter[int] = Counter()

    def run(self) -> Forecast:
        now_s = 0.0
        self._form(now_s)
        while not self._schedule.is_finished:
            if self._events:
                now_s, _, group, clip_id = heapq.heappop(self._events)
                if clip_id is not None:
                    self._schedule.rendered(clip_id)
                self._idle.append(group)
            self._assign(now_s)
        for group in (*self._idle, *(group for _, _, group, _ in self._events)):
            self._note_held(group, now_s)
        gpu_hours = {name: node.num_gpus * self._paid_s(name, now_s) / HOUR_S for name, node in self._nodes.items()}
        prices = {name: node.usd_per_gpu_hour for name, node in self._nodes.items()}
        total_gpu_s = HOUR_S * sum(gpu_hours.values())
        return Forecast(
            makespan_s=now_s,
            gpu_hours=sum(gpu_hours.values()),
            busy_share=self._busy_gpu_s / total_gpu_s if total_gpu_s else 0.0,
            usd=_cost_usd(gpu_hours, prices),
            held_gpu_hours=sum(self._held_gpu_hours.values()),
            held_usd=_cost_usd(self._held_gpu_hours, prices),
            groups=dict(self._num_formed),
        )

    def _form(self, now_s: float) -> None:
        while self._num_free and (size := self._schedule.wanted_size(self._free_gpus.largest)):
            self._num_free -= 1
            group = _SimulatedGroup(f"g{next(self._numbers)}", self._free_gpus.take(size), size)
            self._num_formed[size] += 1
            self._formed_s[group.name] = self._ready_s(group.node, now_s)
            self._schedule.join(group.name, size)
            self._push(self._formed_s[group.name] + LOAD_S, group, None)

    def _ready_s(self, node: str, now_s: float) -> float:
        """When a group can be formed on a node. The first group asks for a node that may come."""
        if not self._nodes[node].may_come:
            return now_s
        return max(now_s, self._asked_s.setdefault(node, now_s) + START_S)

    def _paid_s(self, node: str, now_s: float) -> float:
        if not self._nodes[node].may_come:
            return now_s
        return self._left_s[node] - self._asked_s[node] if node in self._asked_s else 0.0

    def _assign(self, now_s: float) -> None:
        """Gives each idle group its next clip, or ends it if its GPUs are better used by others or its node may go."""
        idle, self._idle = self._idle, []
        for group in idle:
            if planned := self._schedule.take(group.name):
                seconds = planned.num_tries * self._seconds_of(planned, group)
                self._busy_gpu_s += seconds * group.size
                self._push(now_s + seconds, group, planned.clip.clip_id)
            elif self._is_elastic or self._schedule.is_useless(group.name):
                self._schedule.leave(group.name)
                self._note_held(group, now_s)
                self._free_gpus.give_back(group.node, group.size)
                self._num_free += 1
                self._form(now_s)
            else:
                self._idle.append(group)

    def _note_held(self, group: _SimulatedGroup, now_s: float) -> None:
        held_s = max(0.0, now_s - self._formed_s[group.name])
        self._held_gpu_hours[group.node] += group.size * held_s / HOUR_S
        self._left_s[group.node] = now_s

    def _seconds_of(self, planned: PlannedClip, group: _SimulatedGroup) -> float:
        """The seconds of a try. The clips of one kind share one object as their work, and its id is much faster to look up than its value."""
        key = id(planned.work), group.size, group.node
        seconds = self._seconds.get(key)
        if seconds is None:
            gpu = self._nodes[group.node].gpu
            seconds = self._seconds[key] = self._cost.seconds(planned.work, group.size, gpu)
        return seconds

    def _push(self, at_s: float, group: _SimulatedGroup, clip_id: str | None) -> None:
        heapq.heappush(self._events, (at_s, next(self._numbers), group, clip_id))


def _cost_usd(gpu_hours: dict[str, float], prices: dict[str, float | None]) -> float | None:
    """None if the price of any node is unknown."""
    parts = [hours * price for name, hours in gpu_hours.items() if (price := prices[name]) is not None]
    return sum(parts) if len(parts) == len(gpu_hours) else None
