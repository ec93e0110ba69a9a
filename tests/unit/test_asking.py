"""Which nodes a run asks for, and when it takes that back. Without Ray: its placement groups are entries of a list here."""

import itertools
import time
from dataclasses import dataclass, field

from lynx_batch.config import ClusterConfig
from lynx_batch.execution.asking import Asking
from lynx_batch.execution.cluster import Slots
from lynx_batch.execution.group_budget import GroupBudget
from lynx_batch.planning.budget import Budget, Limits, Prices
from lynx_batch.planning.cost import H100, LOAD_S, GpuType
from lynx_batch.planning.layout import Node
from lynx_batch.planning.schedule import RetryPolicy, Schedule
from lynx_batch.preparation.node_types import NodeType
from tests.builders import clip, planned

SPOT = {"gpu": "H100", "gpus": 2, "max": 2, "spot": True}
STEADY = {"gpu": "H100", "gpus": 2, "max": 1}


@dataclass(eq=False)
class FakePlacement:
    size: int
    type: NodeType
    asked_s: float = field(default_factory=time.monotonic)
    node: str = ""

    @property
    def gpu(self) -> GpuType:
        return self.type.gpu


@dataclass
class FakePlacements:
    """A cluster to which nodes come when the test says so."""

    slots: Slots = field(default_factory=lambda: Slots(resource="GPU", nodes={}, draining={}))
    asked: list[FakePlacement] = field(default_factory=list)
    released: list[FakePlacement] = field(default_factory=list)

    def ask(self, size: int, type_of_node: NodeType) -> FakePlacement:
        self.asked.append(FakePlacement(size, type_of_node))
        return self.asked[-1]

    def withdraw(self, placement: FakePlacement) -> None:
        self.asked.remove(placement)

    def take_arrived(self) -> list[FakePlacement]:
        arrived = [placement for placement in self.asked if placement.node]
        self.asked = [placement for placement in self.asked if not placement.node]
        return arrived

    def release(self, placement: FakePlacement) -> None:
        self.released.append(placement)

    def come(self, name: str, *, takes: int) -> None:
        """A spot node comes, and Ray gives its GPUs to the first placements that wait."""
        self.slots.nodes[name] = Node(num_gpus=2, gpu=H100, is_spot=True)
        for placement in self.asked[:takes]:
            placement.node = name


@dataclass
class Run:
    """What a driver does with nodes, without its groups."""

    sizes: list[int]
    node_types: list[dict[str, object]]
    max_groups: int | None = None
    ready_within_s: float = 60.0
    limits: Limits | None = None

    def __post_init__(self) -> None:
        self.schedule = Schedule(RetryPolicy())
        clips = [planned(clip(f"c{row}", row=row), size) for row, size in enumerate(self.sizes)]
        self.schedule.plan(clips, (1, 2))
        cluster = ClusterConfig(address="auto", node_types=self.node_types, ready_within_s=self.ready_within_s)
        self.budget = Budget(self.limits, Prices())
        names = (f"g{number}" for number in itertools.count())
        self.placements, self.asking = (
            FakePlacements(),
            Asking(cluster, self.schedule, GroupBudget(self.budget, self.schedule), names),
        )

    def ask(self) -> list[tuple[int, bool]]:
        """Asks; gives size and kind of everything that is asked for then."""
        self.asking.ask(self.placements, [], lambda: self.max_groups is None or len(self.asking) < self.max_groups)
        return [(each.size, each.type.is_spot) for each in self.placements.asked]

    def take(self, group: str) -> None:
        assert self.schedule.take(group) is not None


def test_groups_are_asked_for_that_clips_wait_for_and_that_may_come() -> None:
    assert Run([1, 1, 1], [SPOT, STEADY]).ask() == [(1, True)] * 3
    assert Run([1] * 9, [SPOT, STEADY]).ask() == [(1, True)] * 4 + [(1, False)] * 2
    assert Run([2, 1, 1], [SPOT, STEADY]).ask() == [(2, True), (1, True), (1, True)]
    assert Run([1] * 9, []).ask() == []


def test_narrow_groups_are_asked_for_beside_wide_ones_that_cannot_come() -> None:
    one_gpu = {"gpu": "other", "gpus": 1, "max": 1}
    assert Run([2, 2, 2, 1], [STEADY, one_gpu]).ask() == [(2, False), (1, False)]


def test_no_more_are_asked_for_than_max_groups_and_the_limits_allow() -> None:
    assert len(Run([1] * 9, [SPOT], max_groups=3).ask()) == 3
    clip_s = planned(clip("c")).seconds
    limits = Limits(name="n", max_gpu_hours=2.5 * (LOAD_S + clip_s) / 3600)
    assert len(Run([1] * 9, [SPOT], limits=limits).ask()) == 2


def test_what_has_come_becomes_a_group_and_the_rest_stays_asked_for() -> None:
    run = Run([1] * 4, [SPOT])
    run.ask()
    run.placements.come("n1", takes=2)
    come, failure = run.asking.look(run.placements)
    assert (list(come), failure, len(run.asking)) == (["g0", "g1"], None, 2)
    assert run.ask() == [(1, True)] * 2, "no more than before"


def test_what_no_clip_waits_for_is_taken_back_and_comes_to_no_group() -> None:
    run = Run([1] * 3, [SPOT])
    run.ask()
    run.placements.come("n1", takes=1)
    (group,) = run.asking.look(run.placements)[0]
    run.take(group)
    run.asking.look(run.placements)
    assert len(run.asking) == 2, "two clips wait"
    run.schedule.rendered("c0")
    run.take(group)
    run.asking.look(run.placements)
    assert len(run.asking) == 1
    run.schedule.rendered("c1")
    run.take(group)
    run.placements.come("n2", takes=1)
    assert run.asking.look(run.placements) == ({}, None)
    assert ([each.node for each in run.placements.released], len(run.asking)) == (["n2"], 0)


def test_what_no_node_may_come_for_is_taken_back_after_a_second_look() -> None:
    run = Run([2, 2], [SPOT | {"max": 1}])
    assert run.ask() == [(2, True)]
    run.placements.come("n1", takes=0)
    run.asking.look(run.placements)
    assert len(run.asking) == 1, "Ray may be about to give the node to the group"
    run.asking.look(run.placements)
    assert len(run.asking) == 0


def test_a_type_that_does_not_come_in_time_is_replaced_by_the_next_and_without_one_it_is_a_fault() -> None:
    run = Run([1], [SPOT, STEADY], ready_within_s=60)
    assert run.ask() == [(1, True)]
    run.placements.asked[0].asked_s -= 60
    assert run.asking.look(run.placements) == ({}, None)
    assert run.ask() == [(1, False)]
    run.placements.asked[0].asked_s -= 60
    _, failure = run.asking.look(run.placements)
    assert failure is not None
    assert "no node of the type 2xH100 came within cluster.ready_within_s=60" in failure.error
    assert (
        "with 2 GPUs that these labels select: ray.io/accelerator-type: H100, ray.io/market-type: !spot"
        in failure.error
    )
    assert run.ask() == [(1, True)], "from the first again"


def test_a_closed_budget_takes_everything_back() -> None:
    run = Run([1] * 3, [SPOT], limits=Limits(name="n", max_gpu_hours=100))
    run.ask()
    run.budget.closed_by = "limits.max_gpu_hours=100 is used up"
    run.asking.look(run.placements)
    assert (len(run.asking), run.ask()) == (0, [])


def test_whether_a_node_may_come_is_known_before_it_is_asked_for() -> None:
    assert Run([1], [SPOT]).asking.may_ask(FakePlacements())
    assert not Run([1], []).asking.may_ask(FakePlacements())
    full = FakePlacements()
    full.come("n1", takes=0)
    full.come("n2", takes=0)
    assert not Run([1], [SPOT]).asking.may_ask(full)
