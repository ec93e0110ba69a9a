"""What a clip costs, by the figures that were measured and by those of earlier runs."""

from dataclasses import replace

import pytest

from lynx_batch.planning.cost import (
    GPU_TYPES,
    H100,
    H200,
    OTHER,
    PUBLISHED_TRAITS,
    CostModel,
    Engine,
    GpuType,
    Observation,
    Work,
    gpu_type,
    work_of,
    works_of,
)
from lynx_batch.planning.layout import GROUP_SIZES
from lynx_model.fp8_attention import Fp8Attention
from lynx_model.spec import EngineOptions, RenderParams
from lynx_model.step_cache import Magnitudes, StepCache
from lynx_model.step_plan import num_full_forwards

FULL = RenderParams(prompt="p")
LITE = replace(FULL, guidance_scale_image=None)
ONE_BRANCH = replace(FULL, guidance_scale=1.0)


def work(params: RenderParams = FULL, engine: Engine | None = None) -> Work:
    return work_of(params, engine or Engine())


FP8 = EngineOptions(precision="fp8")
FP8_ATTENTION = EngineOptions(precision="fp8", attention="fa3_fp8")


@pytest.mark.parametrize(
    ("gpu", "options", "forward_s"),
    [
        *((H200, EngineOptions(), 2.456), (H200, FP8, 2.013), (H200, FP8_ATTENTION, 1.776)),
        *((H100, EngineOptions(), 2.520), (H100, FP8, 2.105), (H100, FP8_ATTENTION, 1.915)),
    ],
    ids=lambda value: value.numerics if isinstance(value, EngineOptions) else getattr(value, "name", value),
)
def test_the_predicted_time_of_a_forward_of_the_published_size_is_the_measured_one(
    gpu: GpuType, options: EngineOptions, forward_s: float
) -> None:
    one = work(replace(FULL, num_inference_steps=1, guidance_scale=1.0))
    assert one.products_tflop == pytest.approx(783, rel=0.001)
    assert one.attention_tflop == pytest.approx(879, rel=0.001)
    cost = CostModel(engine=Engine(options=options))
    both = [cost.seconds(work(replace(FULL, num_inference_steps=n)), 1, gpu) for n in (1, 2)]
    assert both[1] - both[0] == pytest.approx(3 * forward_s, rel=0.003)


def test_edge_blocks_that_stay_in_bfloat16_are_as_slow_as_without_fp8() -> None:
    def denoise_s(options: EngineOptions) -> float:
        return CostModel(engine=Engine(options=options)).min_plausible_s(work(), 1, H100)

    saved = denoise_s(EngineOptions()) - denoise_s(FP8)
    with_edges = EngineOptions(precision="fp8", num_bf16_edge_blocks=10)
    assert denoise_s(EngineOptions()) - denoise_s(with_edges) == pytest.approx(saved / 2), "20 of 40 blocks"


def test_work_grows_with_steps_and_branches_and_faster_than_tokens() -> None:
    assert work(replace(FULL, num_inference_steps=100)).products_tflop == pytest.approx(2 * work().products_tflop)
    assert work(ONE_BRANCH).products_tflop == pytest.approx(work().products_tflop / 3)
    lite = Engine(traits=replace(PUBLISHED_TRAITS, has_image_guidance=False))
    assert work(engine=lite).attention_tflop == pytest.approx(work().attention_tflop * 2 / 3)
    large = work(replace(FULL, width=1280, height=720))
    assert large.attention_tflop / work().attention_tflop > large.products_tflop / work().products_tflop > 2


@pytest.mark.parametrize("gpu", GPU_TYPES, ids=lambda gpu: gpu.name)
@pytest.mark.parametrize("params", [FULL, LITE, ONE_BRANCH], ids=["full", "lite", "one branch"])
def test_a_wider_group_is_faster_and_takes_more_gpu_seconds(params: RenderParams, gpu: GpuType) -> None:
    seconds = [CostModel().seconds(work(params), size, gpu) for size in GROUP_SIZES]
    assert seconds == sorted(seconds, reverse=True)
    gpu_s = [size * s for size, s in zip(GROUP_SIZES, seconds, strict=True)]
    assert gpu_s == sorted(gpu_s)


def test_two_gpus_suit_two_branches_and_three_gpus_three() -> None:
    def speed_up(params: RenderParams, size: int) -> float:
        one, many = (CostModel().min_plausible_s(work(params), n, H200) for n in (1, size))
        return one / many

    assert [speed_up(params, 2) for params in (ONE_BRANCH, LITE, FULL)] == pytest.approx([1.8, 2.0, 1.904])
    assert speed_up(FULL, 3) > speed_up(LITE, 3) > speed_up(ONE_BRANCH, 3)


def test_devices_are_recognised_by_their_names_in_drivers_and_ray() -> None:
    names = ("NVIDIA H200", "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB", "accelerator_type:H100", "cpu")
    assert [gpu_type(name).name for name in names] == ["H200", "H100", "A100", "H100", "other"]


def test_earlier_runs_correct_the_figures_by_their_median_whatever_the_outliers() -> None:
    shipped = CostModel()
    seconds = shipped.seconds(work(), 2, H200)
    seen = [Observation(gpu=H200, group_size=2, work=work(), seconds=s * seconds) for s in (1.4, 1.5, 1.6, 90, 1.5)]
    fitted = shipped.fitted(seen)
    assert fitted.seconds(work(), 2, H200) == pytest.approx(1.5 * seconds)
    assert fitted.seconds(work(), 1, H200) == pytest.approx(1.5 * shipped.seconds(work(), 1, H200)), "the nearest size"
    assert fitted.seconds(work(), 1, GPU_TYPES[1]) == shipped.seconds(work(), 1, GPU_TYPES[1]), "another type"


def test_the_published_model_at_720p_fits_one_gpu_and_a_very_long_clip_needs_more() -> None:
    cost = CostModel()
    assert cost.fits(work(replace(FULL, width=1280, height=720)), 1, H200)
    long = work(replace(FULL, width=1280, height=720, num_frames=961))
    assert [cost.fits(long, size, H200) for size in GROUP_SIZES] == [False, False, True, True], "two share no tokens"


@pytest.mark.parametrize(
    ("options", "needed_gib"),
    [
        (EngineOptions(compile=True), 53.4),
        (EngineOptions(compile=True, precision="fp8"), 42.3),
        (EngineOptions(compile=True, text_encoder="staged", offload="blocks"), 11.9),
    ],
    ids=["bfloat16", "fp8", "offloaded"],
)
def test_precision_and_offload_decide_what_fits(options: EngineOptions, needed_gib: float) -> None:
    cost = CostModel(engine=Engine(options=options))
    gpus = [replace(OTHER, memory_gib=needed_gib + difference) for difference in (-0.1, 0.1)]
    assert [cost.fits(work(), 1, gpu) for gpu in gpus] == [False, True]


def test_only_a_device_with_figures_has_a_shortest_plausible_denoising_time() -> None:
    assert 30 < CostModel().min_plausible_s(work(), 1, H200) < 40
    assert CostModel().min_plausible_s(work(), 1, OTHER) == 0


CACHE = StepCache(threshold=1.0, max_skip=1, keep_first=0.2, magnitudes=Magnitudes(points=((0.001, 1.0), (1.0, 1.05))))
CACHED = Engine(options=EngineOptions(step_cache=CACHE))


def test_a_clip_costs_its_full_forwards_and_little_for_those_that_skip_the_blocks() -> None:
    num_full = num_full_forwards(FULL, CACHED.traits, CACHE)
    assert num_full == 3 * (10 + 20), "ten steps are kept; of the others, every second one is skipped, but not the last"
    both = [CostModel(engine=engine) for engine in (CACHED, Engine())]
    cached_s, exact_s = (cost.min_plausible_s(work(engine=cost.engine), 1, H200) for cost in both)
    assert cached_s / exact_s == pytest.approx(num_full / 150, abs=0.003)
    assert cached_s / exact_s > num_full / 150
    assert both[0].seconds(work(engine=CACHED), 1, H200) < both[1].seconds(work(), 1, H200)


def test_what_decides_which_steps_are_skipped_is_part_of_a_clips_work_only_with_a_step_cache() -> None:
    clips = [FULL, replace(FULL, ip_end=0.5), replace(FULL, flow_shift=5.0), replace(FULL, seed=1)]
    assert len(set(works_of(clips, Engine()))) == 1
    cached = works_of(clips, CACHED)
    assert cached == [work_of(params, CACHED) for params in clips]
    assert cached[0] is cached[3]
    assert cached[1].products_tflop >= cached[0].products_tflop


@pytest.mark.parametrize("engine", [Engine(), CACHED], ids=["exact", "step cache"])
def test_a_clip_costs_no_forwards_for_image_branches_that_it_reuses(engine: Engine) -> None:
    params = replace(FULL, image_guidance_every=2)
    cost = CostModel(engine=engine)
    every, second = (cost.min_plausible_s(work(each, engine), 1, H200) for each in (FULL, params))
    num_full = [num_full_forwards(each, engine.traits, engine.options.step_cache) for each in (FULL, params)]
    assert num_full == ([150, 125] if engine is not CACHED else [90, 85])
    assert second / every == pytest.approx(num_full[1] / num_full[0], abs=0.003)


def test_adapters_that_change_are_part_of_a_clips_work_if_it_reuses_image_branches() -> None:
    clips = [replace(FULL, image_guidance_every=4, ip_end=end) for end in (1.0, 0.5)]
    works = works_of(clips, Engine())
    assert works == [work(params) for params in clips]
    assert works[1].products_tflop > works[0].products_tflop, "the image branch is computed anew when the adapter stops"


def test_what_is_left_of_a_clip_is_counted_in_the_forwards_that_its_steps_cost() -> None:
    half_guided = work(replace(FULL, guidance_until=0.5))
    assert [half_guided.share_left(done) for done in (0, 25, 50, 60)] == [1, 0.25, 0, 0]
    assert work().share_left(25) == 0.5


def test_gpus_share_each_step_as_well_as_its_branches_allow() -> None:
    """Three GPUs gain nothing from two branches: they wait for as long as with three."""
    three, second, half = (
        CostModel().min_plausible_s(work(replace(FULL, **changes)), 3, H200)
        for changes in ({}, {"image_guidance_every": 2}, {"guidance_until": 0.5})
    )
    assert second == pytest.approx(three, rel=0.01)
    assert half == pytest.approx(three, rel=0.02)


def test_attention_is_as_slow_as_without_fp8_where_it_stays_exact() -> None:
    def denoise_s(**ranges: tuple[float, float]) -> float:
        engine = Engine(options=EngineOptions(fp8_attention=Fp8Attention(**ranges)))
        return CostModel(engine=engine).min_plausible_s(work(engine=engine), 1, H100)

    exact_s = CostModel().min_plausible_s(work(), 1, H100)
    saved_s = exact_s - denoise_s()
    assert saved_s > 0.05 * exact_s
    assert exact_s - denoise_s(blocks=(0.25, 0.75)) == pytest.approx(saved_s / 2), "20 of 40 blocks"
    assert exact_s - denoise_s(blocks=(0.25, 0.75), steps=(0.1, 0.9)) == pytest.approx(0.4 * saved_s), "40 of 50 steps"
