"""Which steps the step cache skips: the rule itself, from magnitudes alone."""

import math
from dataclasses import replace
from itertools import groupby, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lynx_model import sampler
from lynx_model.canonical import ModelTraits
from lynx_model.errors import InvalidParams
from lynx_model.guidance import num_forwards
from lynx_model.spec import EngineOptions, RenderParams
from lynx_model.step_cache import Magnitudes, StepCache, average, noise_levels
from lynx_model.step_plan import full_steps, num_full_forwards
from tests.builders import PARAMS
from tests.requests import FULL, LITE, ODD, REQUESTS, form

LEVELS = (1.0, 0.8, 0.6, 0.4, 0.2)


def falling(ratio: float) -> Magnitudes:
    """The magnitude changes by `ratio` at each of `LEVELS`."""
    return Magnitudes(points=tuple((level, ratio**step) for step, level in enumerate(LEVELS))[::-1])


def planned(cache: StepCache, levels: tuple[float, ...] = LEVELS, conditions: str = "aaaaa") -> str:
    return "".join("F" if is_full else "s" for is_full in cache.full_steps(levels, conditions))


@pytest.mark.parametrize(
    ("threshold", "max_skip", "expected"),
    [
        (1.0, 9, "FsssF"),  # 0.05 + 0.0975 + 0.1426 = 0.29
        (0.3, 9, "FsssF"),
        (0.29, 9, "FssFF"),
        (0.1, 9, "FsFsF"),
        (0.049, 9, "FFFFF"),
        (1.0, 2, "FssFF"),
        (1.0, 1, "FsFsF"),
        (1.0, 0, "FFFFF"),
        (0.0, 9, "FFFFF"),
    ],
)
def test_a_step_is_skipped_while_errors_add_up_to_less_than_the_threshold(
    threshold: float, max_skip: int, expected: str
) -> None:
    cache = StepCache(threshold=threshold, max_skip=max_skip, keep_first=0.0, magnitudes=falling(0.95))
    assert planned(cache) == expected


def test_magnitudes_that_do_not_change_let_all_but_the_first_and_the_last_step_be_skipped() -> None:
    cache = StepCache(threshold=1e-9, max_skip=9, keep_first=0.0, magnitudes=falling(1.0))
    assert planned(cache) == "FsssF"
    assert planned(replace(cache, threshold=0.0)) == "FFFFF"


@pytest.mark.parametrize(("keep_first", "expected"), [(0.2, "FsssF"), (0.4, "FFssF"), (0.41, "FFFsF"), (1.0, "FFFFF")])
def test_the_first_steps_are_kept(keep_first: float, expected: str) -> None:
    assert planned(StepCache(threshold=9, max_skip=9, keep_first=keep_first, magnitudes=falling(0.9))) == expected


def test_a_step_whose_conditions_differ_from_those_before_is_full() -> None:
    cache = StepCache(threshold=9, max_skip=9, keep_first=0.0, magnitudes=falling(0.9))
    assert [planned(cache, conditions=text) for text in ("aabbb", "ababa", "aaaab")] == ["FsFsF", "FFFFF", "FsssF"]


def test_a_noise_level_that_was_not_measured_is_full() -> None:
    cache = StepCache(threshold=9, max_skip=9, keep_first=0.0, magnitudes=Magnitudes(points=((0.4, 1.0), (0.8, 1.1))))
    assert planned(cache) == "FFssF"
    assert planned(cache, (0.8, 0.7, 0.5, 0.3, 0.1)) == "FssFF"


def test_between_measured_levels_the_logarithm_of_the_magnitude_is_linear() -> None:
    magnitudes = Magnitudes(points=((0.2, 1.0), (0.6, 4.0)))
    assert magnitudes.ratio(0.2, 0.4) == pytest.approx(2)
    assert magnitudes.ratio(0.6, 0.4) == pytest.approx(1 / 2)
    assert magnitudes.ratio(0.5, 0.5) == 1
    assert magnitudes.ratio(0.6, 0.1) is None


LEVEL = st.floats(0.01, 1.0)
MAGNITUDES = st.builds(
    lambda levels, sizes: Magnitudes(points=tuple(zip(sorted(levels), sizes, strict=False))),
    st.lists(LEVEL, min_size=3, max_size=6, unique=True),
    st.lists(st.floats(0.5, 2.0), min_size=6, max_size=6),
)
CACHES = st.builds(
    StepCache,
    threshold=st.sampled_from([0.0, 0.05, 0.2, 1.0]),
    max_skip=st.integers(0, 4),
    keep_first=st.sampled_from([0.0, 0.2, 0.5]),
    magnitudes=MAGNITUDES,
)


@given(cache=CACHES, levels=st.lists(LEVEL, min_size=1, max_size=30, unique=True), data=st.data())
def test_every_skipped_step_obeys_each_rule_and_every_full_one_has_a_reason(
    cache: StepCache, levels: list[float], data: st.DataObject
) -> None:
    levels.sort(reverse=True)
    conditions = data.draw(st.lists(st.sampled_from("aaaab"), min_size=len(levels), max_size=len(levels)))
    full = cache.full_steps(levels, conditions)
    magnitudes = cache.check_calibrated()
    last_full = 0
    for step, is_full in enumerate(full):
        ratios = [magnitudes.ratio(levels[last_full], levels[later]) for later in range(last_full + 1, step + 1)]
        may_skip = (
            0 < step < len(levels) - 1
            and step / len(levels) >= cache.keep_first
            and conditions[step] == conditions[step - 1]
            and step - last_full <= cache.max_skip
            and all(ratio is not None for ratio in ratios)
        )
        error = sum(abs(1 - (ratio or 0)) for ratio in ratios)
        if not math.isclose(error, cache.threshold, rel_tol=1e-9):
            assert is_full == (not may_skip or error >= cache.threshold)
        last_full = step if is_full else last_full


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0])
@pytest.mark.parametrize("num_steps", [1, 4, 50])
def test_noise_levels_are_those_of_the_schedule(num_steps: int, shift: float) -> None:
    config: dict[str, object] = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
    params = replace(PARAMS, num_inference_steps=num_steps, flow_shift=shift)
    scheduler = sampler.make_schedule(config, params, torch.device("cpu"))
    assert scheduler.sigmas[:-1].tolist() == pytest.approx(noise_levels(num_steps, shift), rel=1e-6)


def test_magnitudes_are_averaged_over_the_ratios_of_clips_and_branches() -> None:
    clips = [[[1.0, 4.0], [2.0, 8.0], [1.0]], [[2.0, 2.0], [1.0, 4.0], [4.0]]]
    magnitudes, spread = average([0.9, 0.5, 0.1], clips)
    changes = [2 ** ((1 + 1 - 1 + 1) / 4), 2 ** ((-1 + 2) / 2)]
    first = 2.0
    expected = (first * changes[0] * changes[1], first * changes[0], first)
    assert [level for level, _ in magnitudes.points] == [0.1, 0.5, 0.9]
    assert [magnitude for _, magnitude in magnitudes.points] == pytest.approx(expected)
    assert spread == pytest.approx(4 / changes[1] - 1)


@pytest.mark.parametrize(
    "points",
    [
        (),
        ((0.5, 1.0),),
        ((0.5, 1.0), (0.5, 2.0)),
        ((0.6, 1.0), (0.5, 2.0)),
        ((0.0, 1.0), (0.5, 2.0)),
        ((0.5, 1.0), (1.1, 2.0)),
        ((0.5, 0.0), (0.6, 1.0)),
        ((0.5, math.nan), (0.6, 1.0)),
        ((math.nan, 1.0), (0.6, 1.0)),
        ((0.5, math.inf), (0.6, 1.0)),
    ],
)
def test_magnitudes_that_cannot_be_are_refused(points: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(InvalidParams, match="points"):
        Magnitudes(points=points)


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "teacache"},
        {"threshold": -0.1},
        {"threshold": math.nan},
        {"threshold": math.inf},
        {"max_skip": -1},
        {"keep_first": 1.1},
        {"keep_first": math.nan},
    ],
    ids=str,
)
def test_a_setting_that_breaks_its_rule_is_named(fault: dict[str, object]) -> None:
    with pytest.raises(InvalidParams, match=f"step_cache.{next(iter(fault))}="):
        StepCache(**fault)


def test_every_setting_and_the_magnitudes_tell_clips_apart() -> None:
    cache = StepCache(magnitudes=falling(0.9))
    others = [{"threshold": 0.13}, {"max_skip": 5}, {"keep_first": 0.25}, {"magnitudes": falling(0.8)}]
    engines = [EngineOptions(), *(EngineOptions(step_cache=replace(cache, **other)) for other in ({}, *others))]
    assert len({engine.numerics for engine in engines}) == len(engines)
    assert EngineOptions(step_cache=replace(cache, threshold=0.12)).numerics == engines[1].numerics


WIDE = Magnitudes(points=((0.001, 1.0), (1.0, 1.05)))
SKIPPING = StepCache(threshold=1.0, max_skip=2, keep_first=0.0, magnitudes=WIDE)


def test_a_clip_has_a_full_step_wherever_branches_or_strengths_change() -> None:
    params = replace(PARAMS, num_inference_steps=10, guidance_until=0.5, ip_start=0.2, ref_end=0.8)
    full = full_steps(params, FULL, replace(SKIPPING, max_skip=9))
    assert [step for step, is_full in enumerate(full) if is_full] == [0, 2, 5, 8, 9]


def test_forwards_are_counted_in_full_steps_alone() -> None:
    params = replace(PARAMS, num_inference_steps=10, guidance_until=0.5)
    assert "".join("sF"[is_full] for is_full in full_steps(params, FULL, SKIPPING)) == "FssFsFssFF"
    assert num_full_forwards(params, FULL, SKIPPING) == 2 * 3 + 3 * 1
    for cache in (None, replace(SKIPPING, max_skip=0)):
        assert num_full_forwards(params, FULL, cache) == num_forwards(params, has_image_guidance=True) == 20


@pytest.mark.parametrize("traits", [FULL, LITE, ODD], ids=["full", "lite", "lite, 5 blocks"])
@settings(deadline=None)
@given(first=REQUESTS, second=REQUESTS)
def test_requests_of_one_form_have_one_plan(traits: ModelTraits, first: RenderParams, second: RenderParams) -> None:
    alike = replace(first, ip_blocks=second.ip_blocks, ref_end=second.ref_end, flow_shift=second.flow_shift)
    for other in (second, alike):
        if form(first, traits) == form(other, traits):
            assert full_steps(first, traits, SKIPPING) == full_steps(other, traits, SKIPPING)


def test_a_cache_without_magnitudes_cannot_plan() -> None:
    with pytest.raises(InvalidParams, match=r"step_cache\.magnitudes=None: must be measured"):
        full_steps(PARAMS, FULL, StepCache())


def test_more_steps_of_one_schedule_are_skipped_in_about_the_same_share() -> None:
    magnitudes = Magnitudes(points=tuple((level / 100, 1 + level / 1000) for level in range(1, 101)))
    cache = StepCache(threshold=0.05, max_skip=3, magnitudes=magnitudes)
    shares = []
    for num_steps in (50, 100):
        full = full_steps(replace(PARAMS, num_inference_steps=num_steps, flow_shift=3.0), FULL, cache)
        shares.append(sum(full) / num_steps)
        longest = max(len(list(group)) for is_full, group in groupby(full) if not is_full)
        assert longest <= 3
        assert any(not former and latter for former, latter in pairwise(full))
    assert shares[1] == pytest.approx(shares[0], abs=0.1)
