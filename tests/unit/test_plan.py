"""Plans are simulated with the run's own schedule, and are near to the best there can be."""

import random
from statistics import fmean

import pytest

from lynx_batch.clip import ClipSpec
from lynx_batch.errors import ConfigError
from lynx_batch.planning.cost import H200, OTHER, CostModel, gpu_type
from lynx_batch.planning.layout import GROUP_SIZES, URGENT_PRIORITY, FreeGpus, Node, possible_sizes
from lynx_batch.planning.plan import Option, best, ideal_s, options
from lynx_batch.preparation.forecast import check_gpus
from lynx_model.fp8_attention import Fp8Attention
from lynx_model.spec import EngineOptions
from tests.builders import clip

COST = CostModel()
SECONDS, SHARES = (47, 706, 870, 2760), (60, 25, 10, 5)
"""Of clips on one GPU. Source: the mix of shared measurements that schedulers were compared on."""

STEPS = {seconds: round((seconds - 1.3) / 2.456) for seconds in SECONDS}


def clip_of(seconds: int, row: int) -> ClipSpec:
    """A clip that takes about so many seconds on one H200, with one or (for the longest) two guidance branches."""
    steps, is_long = STEPS[seconds], STEPS[seconds] > 1000
    params = {"num_inference_steps": steps // 2 if is_long else steps, "guidance_scale": 5 if is_long else 1}
    return clip(f"{row:06}", row=row, subject=str(row // 20), **params, guidance_scale_image=None)


def mixed_clips(num_clips: int, seed: int) -> list[ClipSpec]:
    chosen = random.Random(seed).choices(SECONDS, SHARES, k=num_clips)
    return [clip_of(seconds, row) for row, seconds in enumerate(chosen)]


def cluster(num_gpus: int) -> tuple[Node, ...]:
    return tuple(Node(num_gpus=8, gpu=H200, usd_per_gpu_hour=2.5) for _ in range(num_gpus // 8))


def ways(clips: list[ClipSpec], nodes: tuple[Node, ...], sizes: tuple[int, ...] = GROUP_SIZES) -> list[Option]:
    return options(clips, cost=COST, nodes=nodes, sizes=sizes)


def test_the_clips_of_the_mix_have_the_intended_lengths() -> None:
    (way,) = ways([clip_of(seconds, row) for row, seconds in enumerate(SECONDS)], cluster(8), sizes=(1,))
    assert [planned.seconds for planned in way.clips] == pytest.approx(SECONDS, rel=0.03)


@pytest.mark.parametrize(("num_gpus", "num_clips"), [(64, 400), (64, 2000), (16, 100)])
def test_mixed_clips_take_at_most_ten_percent_more_than_the_ideal(num_gpus: int, num_clips: int) -> None:
    excesses, nodes = [], cluster(num_gpus)
    for seed in range(10):
        found = ways(mixed_clips(num_clips, seed), nodes, sizes=(1, 2))
        excesses.append(best(found).forecast.makespan_s / ideal_s(found[0].clips, COST, nodes))
    assert fmean(excesses) <= 1.10


def test_many_clips_are_rendered_in_the_smallest_groups() -> None:
    chosen = best(ways([clip_of(706, row) for row in range(200)], cluster(8)))
    assert (chosen.sizes[0], chosen.forecast.groups) == (1, {1: 8})
    assert chosen.forecast.busy_share > 0.99
    assert chosen.forecast.usd == pytest.approx(chosen.forecast.gpu_hours * 2.5)


def test_a_single_clip_gets_the_widest_group() -> None:
    assert best(ways([clip_of(2760, 0)], cluster(8))).forecast.groups == {8: 1}


def test_a_clip_that_would_finish_long_after_the_others_gets_a_wider_group() -> None:
    way = ways([clip_of(2760, 0), *(clip_of(47, row) for row in range(1, 200))], cluster(8))[0]
    assert way.clips[0].group_size > 1
    assert {planned.group_size for planned in way.clips[1:]} == {1}


def test_an_urgent_clip_gets_the_widest_group_at_once() -> None:
    clips = [clip_of(706, row) for row in range(50)] + [clip("urgent", row=50, priority=URGENT_PRIORITY)]
    way = ways(clips, cluster(16))[0]
    assert way.clips[-1].group_size == 8
    assert way.forecast.groups[8] == 1


def test_a_clip_that_needs_the_memory_gets_a_wider_group() -> None:
    enormous = clip("enormous", width=1280, height=720, num_frames=961, num_inference_steps=1)
    way = ways([enormous, *(clip_of(706, row) for row in range(1, 200))], cluster(8))[0]
    assert not COST.fits(way.clips[0].work, 1, H200)
    assert COST.fits(way.clips[0].work, way.clips[0].group_size, H200)


def test_no_group_is_wider_than_a_node_and_without_figures_all_are_of_one_gpu() -> None:
    assert possible_sizes([Node(num_gpus=4, gpu=H200), Node(num_gpus=2, gpu=H200)]) == (1, 2, 4)
    assert possible_sizes([Node(num_gpus=16, gpu=OTHER)]) == (1,)


def test_faster_gpus_take_more_of_the_clips() -> None:
    slow = Node(num_gpus=8, gpu=OTHER)
    clips = [clip_of(706, row) for row in range(160)]
    alone, both = ways(clips, cluster(8), sizes=(1,)), ways(clips, (*cluster(8), slow), sizes=(1,))
    assert both[0].forecast.makespan_s < alone[0].forecast.makespan_s
    assert both[0].forecast.usd is None, "the price of some is unknown"


def test_no_more_groups_are_formed_than_max_groups() -> None:
    clips = [clip_of(706, row) for row in range(20)]
    found = options(clips, cost=COST, nodes=cluster(8), sizes=(1, 2), max_groups=3)
    assert [option.forecast.groups for option in found] == [{1: 3}, {2: 3}]
    assert best(found).sizes == (2,), "fewer groups had better be wider"


def test_a_group_goes_to_the_fullest_node_that_has_room() -> None:
    free_gpus = FreeGpus({"a": 8, "b": 3})
    assert [free_gpus.take(2), free_gpus.take(2), free_gpus.take(8 - 2)] == ["b", "a", "a"]
    assert free_gpus.largest == 1
    free_gpus.give_back("a", 6)
    assert free_gpus.largest == 6


@pytest.mark.parametrize(
    ("engine", "fault"),
    [
        (EngineOptions(precision="fp8"), "engine.precision=fp8: needs GPUs that multiply fp8, unlike A100"),
        (
            EngineOptions(fp8_attention=Fp8Attention()),
            "engine.fp8_attention: needs .* `--set engine.fp8_attention=false`",
        ),
        *(
            (
                EngineOptions(attention=kernel),
                f"engine.attention={kernel}: needs Hopper .* `--set engine.attention=auto`",
            )
            for kernel in ("fa3", "fa3_fp8", "fa4")
        ),
    ],
)
def test_what_a_gpu_lacks_is_refused(engine: EngineOptions, fault: str) -> None:
    a100, h100 = (Node(num_gpus=8, gpu=gpu_type(name)) for name in ("A100", "H100"))
    check_gpus(engine, [h100])
    for works_on_both in (EngineOptions(), EngineOptions(attention="fa2"), EngineOptions(attention="cudnn")):
        check_gpus(works_on_both, [h100, a100])
    with pytest.raises(ConfigError, match=fault):
        check_gpus(engine, [h100, a100])
