"""Groups and the budget: what a group still needs counts before another clip or group starts. Without Ray."""

import time
from dataclasses import dataclass, field, replace

import pytest

from lynx_batch.execution.group_budget import GroupBudget
from lynx_batch.execution.group_state import GroupState
from lynx_batch.planning.budget import Amount, Budget, Limits, Prices
from lynx_batch.planning.cost import H200, LOAD_S, CostModel, Engine, GpuType, work_of
from lynx_batch.planning.order import PlannedClip
from lynx_batch.planning.schedule import ClipState, RetryPolicy, Schedule
from lynx_batch.rendering.tasks import Loaded, RenderTask
from lynx_batch.stages import Span, Stage
from tests.builders import clip, planned

CLIP = clip("c0", num_inference_steps=50)
HALF_GUIDED_S = CostModel().seconds(work_of(replace(CLIP.params, guidance_until=0.5), Engine()), 1, H200)
CLIP_S = CostModel().seconds(work_of(CLIP.params, Engine()), 1, H200)
HOUR_S = 3600.0
LOADED = Loaded(device="H200", span=Span(stage=Stage.LOAD, start_s=0, seconds=1))


@dataclass
class FakePlacement:
    gpu: GpuType = H200
    state: str = "CREATED"


@dataclass
class FakeGroup:
    """A group without workers: its state is real, and its answers come from the test."""

    name: str
    size: int = 1
    formed_s: float = field(default_factory=time.monotonic)
    placement: FakePlacement = field(default_factory=FakePlacement)
    is_ready: bool = True

    def __post_init__(self) -> None:
        self.state = GroupState(num_ranks=1, max_clips=None, now_s=self.formed_s)
        if self.is_ready:
            self.state.rank_loaded(LOADED)


def begin(
    num_clips: int, groups: list[FakeGroup], max_gpu_s: float, **params: float
) -> tuple[Schedule, Budget, GroupBudget]:
    schedule = Schedule(RetryPolicy())
    clips = [clip(f"c{number}", row=number, num_inference_steps=50, **params) for number in range(num_clips)]
    works = [work_of(each.params, Engine()) for each in clips]
    schedule.plan(
        [
            PlannedClip(clip=each, work=work, group_size=1, seconds=CLIP_S)
            for each, work in zip(clips, works, strict=True)
        ],
        (1,),
    )
    for group in groups:
        schedule.join(group.name, group.size)
    budget = Budget(Limits(name="n", max_gpu_hours=max_gpu_s / HOUR_S), Prices())
    return schedule, budget, GroupBudget(budget, schedule)


def start(group: FakeGroup, planned: PlannedClip | None, *, num_steps_saved: int = 0) -> None:
    assert planned is not None
    task = RenderTask(clip=planned.clip, attempt="a", num_steps_saved=num_steps_saved)
    group.state.accept(task, time.monotonic())


def test_a_clip_is_taken_only_if_it_fits_beside_what_runs_and_a_refused_one_stays_open() -> None:
    groups = [FakeGroup("g0"), FakeGroup("g1"), FakeGroup("g2")]
    schedule, _, asked = begin(5, groups, max_gpu_s=2.5 * CLIP_S)
    for group in groups[:2]:
        start(group, asked.take(groups, group))
    assert asked.take(groups, groups[2]) is None
    assert asked.closed_by.startswith("limits.max_gpu_hours")
    assert (schedule.count(ClipState.WAITING), schedule.count(ClipState.RUNNING)) == (3, 2)
    assert asked.take(groups, groups[0]) is None, "a closed budget stays closed"
    assert asked.describe_left().startswith("5 clips left")


def test_the_steps_that_a_clip_has_done_are_needed_no_more() -> None:
    groups = [FakeGroup("g0"), FakeGroup("g1")]
    _, _, asked = begin(5, groups, max_gpu_s=1.5 * CLIP_S)
    start(groups[0], asked.take(groups, groups[0]))
    groups[0].state.step = (30, 50)
    assert asked.take(groups, groups[1]) is not None


def test_a_clip_needs_the_forwards_that_are_left_however_many_steps_have_them() -> None:
    groups = [FakeGroup("g0"), FakeGroup("g1")]
    _, _, asked = begin(5, groups, max_gpu_s=1.35 * HALF_GUIDED_S, guidance_until=0.5)
    start(groups[0], asked.take(groups, groups[0]))
    groups[0].state.step = (25, 50)
    assert asked.take(groups, groups[1]) is not None, "a quarter of the first clip is left, not half"


def test_the_steps_that_an_earlier_attempt_has_saved_are_needed_no_more() -> None:
    groups = [FakeGroup("g0"), FakeGroup("g1")]
    _, _, asked = begin(5, groups, max_gpu_s=1.5 * CLIP_S)
    start(groups[0], asked.take(groups, groups[0]), num_steps_saved=30)
    assert asked.take(groups, groups[1]) is not None


def test_groups_that_load_count_with_the_clip_they_were_formed_for() -> None:
    max_gpu_s = 2.5 * (LOAD_S + CLIP_S)
    groups: list[FakeGroup] = []
    schedule, _, asked = begin(9, groups, max_gpu_s)
    while asked.may_form(groups, 1, H200):
        groups.append(FakeGroup(f"g{len(groups)}", is_ready=False))
        schedule.join(groups[-1].name, 1)
    assert len(groups) == 2
    assert not asked.closed_by, "the groups that are loading may still take their clips"


def test_a_budget_too_small_for_the_first_clip_closes_at_once() -> None:
    _, _, asked = begin(1, [], max_gpu_s=LOAD_S)
    assert not asked.may_form([], 1, H200)
    assert "the next clip would take" in asked.closed_by


def test_what_other_runs_spent_closes_it_too() -> None:
    groups = [FakeGroup("g0")]
    _, budget, asked = begin(1, groups, max_gpu_s=10 * CLIP_S)
    asked.close_if_spent(groups)
    assert not asked.closed_by
    budget.before = Amount(gpu_hours=10 * CLIP_S / HOUR_S)
    asked.close_if_spent(groups)
    assert "is used up" in asked.closed_by


def test_clips_that_were_handed_out_early_go_back_and_what_runs_is_finished() -> None:
    groups = [FakeGroup("g0")]
    schedule, budget, asked = begin(3, groups, max_gpu_s=10 * CLIP_S)
    for _ in range(2):
        start(groups[0], asked.take(groups, groups[0]))
    state = groups[0].state
    rendering, _ = state.tasks
    budget.before = Amount(gpu_hours=10 * CLIP_S / HOUR_S)
    asked.close_if_spent(groups)
    asked.close_if_spent(groups)
    assert (state.tasks, state.has_room) == ([rendering], False)
    assert (schedule.count(ClipState.WAITING), schedule.count(ClipState.RUNNING)) == (2, 1)
    assert asked.describe_left().startswith("3 clips left")


def test_what_is_left_counts_the_tries_that_clips_are_expected_to_take() -> None:
    for num_tries in (1.0, 2.5):
        schedule = Schedule(RetryPolicy())
        schedule.plan([replace(planned(clip(f"c{number}")), num_tries=num_tries) for number in range(100)], (1,))
        budget = GroupBudget(Budget(Limits(name="n", max_gpu_hours=1), Prices()), schedule)
        budget.may_form([], 1, H200)  # so that it knows for which GPU to predict
        gpu_hours = 100 * num_tries * CLIP_S / HOUR_S
        assert f"100 clips left, which take about {gpu_hours:.3g} GPU-hours" == budget.describe_left()


def test_a_group_counts_only_from_when_its_slots_are_reserved() -> None:
    group = FakeGroup("g0", formed_s=time.monotonic() - 1000, placement=FakePlacement(state="PENDING"))
    groups = [group]
    _, budget, asked = begin(1, groups, max_gpu_s=1e9)
    asked.watch(groups)
    assert budget.gpu_s(time.monotonic()) == {}
    group.placement.state = "CREATED"
    asked.watch(groups)
    assert budget.gpu_s(time.monotonic())["H200"] < 100
    asked.release(group)
    held_s = budget.gpu_s(time.monotonic())["H200"]
    assert budget.gpu_s(time.monotonic() + 50)["H200"] == pytest.approx(held_s)
