"""The image branch at every n-th step: which steps compute it, what those between reuse, and where such a clip pauses."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from lynx_model import sampler
from lynx_model.guidance import split_subject_only
from lynx_model.pipeline import LynxPipeline
from lynx_model.spec import EngineOptions, RenderParams
from lynx_model.step_cache import Magnitudes, StepCache
from lynx_model.step_plan import full_steps, num_full_forwards, plan_steps
from tests.builders import PARAMS, make_subject
from tests.models import load_tiny
from tests.requests import FULL, LITE

LONG = replace(PARAMS, num_inference_steps=8, image_guidance_every=3)
CACHE = StepCache(threshold=1.0, max_skip=1, keep_first=0.3, magnitudes=Magnitudes(points=((0.001, 1.0), (1.0, 1.05))))


@pytest.fixture(scope="module")
def exact() -> LynxPipeline:
    return load_tiny("full")


@pytest.fixture(scope="module")
def skipping() -> LynxPipeline:
    return load_tiny("full", engine=EngineOptions(step_cache=CACHE))


def counts(params: RenderParams, cache: StepCache | None = None) -> list[int]:
    return [len(step.branches) for step in plan_steps(params, FULL, EngineOptions(step_cache=cache))]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"image_guidance_every": 1}, [3, 3, 3, 3, 3, 3, 3, 3]),
        ({}, [3, 2, 2, 3, 2, 2, 3, 2]),
        ({"image_guidance_every": 9}, [3, 2, 2, 2, 2, 2, 2, 2]),
        ({"guidance_until": 0.5}, [3, 2, 2, 3, 1, 1, 1, 1]),
        ({"guidance_scale_image": None}, [2, 2, 2, 2, 2, 2, 2, 2]),
        ({"guidance_scale": 1.0}, [1, 1, 1, 1, 1, 1, 1, 1]),
        ({"ip_end": 0.5}, [3, 2, 2, 3, 3, 2, 2, 3]),
        ({"ref_start": 0.25, "ip_scale": 0.0, "ip_end": 0.5}, [3, 2, 3, 2, 2, 3, 2, 2]),
    ],
    ids=str,
)
def test_the_image_branch_is_computed_every_n_steps_and_where_an_adapter_changes(
    change: dict[str, object], expected: list[int]
) -> None:
    params = replace(LONG, **change)
    assert counts(params) == expected
    assert num_full_forwards(params, FULL, None) == sum(expected)


def test_lite_has_no_image_branch() -> None:
    assert [len(step.branches) for step in plan_steps(LONG, LITE, EngineOptions())] == [2] * 8


def test_steps_that_skip_the_blocks_have_the_branches_of_the_last_full_step() -> None:
    params = replace(LONG, num_inference_steps=10)
    assert "".join("sF"[is_full] for is_full in full_steps(params, FULL, CACHE)) == "FFFsFsFsFF"
    assert counts(params, CACHE) == [3, 2, 2, 2, 3, 3, 2, 2, 3, 2]
    assert num_full_forwards(params, FULL, CACHE) == 3 + 2 + 2 + 3 + 2 + 3 + 2


def denoise_by_hand(pipe: LynxPipeline, params: RenderParams, image_steps: Sequence[int]) -> torch.Tensor:
    """A loop of its own around the transformer, which computes the image branch at `image_steps` alone."""
    clip = pipe.prepare(make_subject(), replace(params, image_guidance_every=1))
    scheduler = sampler.make_schedule(pipe._model.scheduler_config, params, torch.device("cpu"))
    latents = sampler.draw_noise(params, torch.device("cpu"))
    share, rest = torch.zeros(()), torch.zeros(())
    for step, timestep in enumerate(scheduler.timesteps):
        with torch.inference_mode():
            text, nothing, subject = pipe._model.transformer.predict(latents, timestep[None], clip.steps[step])
            if step in image_steps:
                share = torch.sum((text - nothing) * (subject - nothing)) / torch.sum((text - nothing) ** 2)
                rest = subject - nothing - share * (text - nothing)
            by_photo = share * (text - nothing) + rest
            velocity = nothing + 2.0 * by_photo + 5.0 * (text - nothing - by_photo)
            latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
    return latents


def test_steps_between_reuse_what_the_photo_changed_before(exact: LynxPipeline) -> None:
    expected = denoise_by_hand(exact, LONG, image_steps=(0, 3, 6))
    found = exact.denoise(make_subject(), LONG)
    assert (found - expected).abs().max() < 1e-5
    assert (found - exact.denoise(make_subject(), replace(LONG, image_guidance_every=1))).abs().max() > 1e-4


def test_a_prediction_is_split_into_its_share_of_the_way_and_a_rest_across_it() -> None:
    torch.manual_seed(0)
    text, nothing, across = (torch.randn(1, 16, 2, 6, 8) for _ in range(3))
    way = text - nothing
    across -= way * (across * way).sum() / way.square().sum()
    share, rest = split_subject_only(text, nothing, nothing + 0.7 * way + across)
    assert float(share) == pytest.approx(0.7, rel=1e-5)
    assert torch.allclose(rest, across, atol=1e-5)
    share, rest = split_subject_only(nothing, nothing, text)
    assert float(share) == 0
    assert torch.equal(rest, way)


def test_a_clip_does_not_depend_on_the_clips_before_it(exact: LynxPipeline) -> None:
    first = exact.denoise(make_subject(), LONG)
    exact.denoise(make_subject(1), replace(LONG, seed=8))
    assert torch.equal(exact.denoise(make_subject(), LONG), first)


@pytest.mark.parametrize(
    ("has_cache", "params", "possible"),
    [
        (False, LONG, (1, 2, 3, 4, 5, 6, 7)),
        (False, replace(LONG, guidance_until=0.6, image_guidance_every=1000), (1, 2, 3, 4, 5, 6, 7)),
        (True, LONG, (1, 2, 4, 6, 7)),
        (True, replace(LONG, guidance_until=0.6), (1, 2, 4, 5, 7)),
    ],
    ids=["exact", "exact, guidance until 0.6", "step cache", "step cache, guidance until 0.6"],
)
def test_a_clip_that_pauses_where_it_reuses_the_image_branch_comes_out_as_if_it_had_not(
    exact: LynxPipeline, skipping: LynxPipeline, has_cache: bool, params: RenderParams, possible: tuple[int, ...]
) -> None:
    pipe = skipping if has_cache else exact
    clip = pipe.prepare(make_subject(), params)
    assert tuple(step for step in range(1, 8) if clip.can_start_at(step)) == possible
    assert any(clip.reuses_image[step] for step in possible)
    uninterrupted = pipe.sample(clip)
    for wanted_after in possible:
        states = pause(pipe, params, wanted_after)
        assert states.num_steps_done == min(step for step in possible if step >= wanted_after)
        assert torch.equal(pipe.sample(clip, state=states), uninterrupted)


def pause(pipe: LynxPipeline, params: RenderParams, wanted_after: int) -> sampler.SamplerState:
    done: list[int] = []
    with pytest.raises(sampler.Paused) as paused:
        pipe.sample(
            pipe.prepare(make_subject(), params),
            lambda step, _: done.append(step),
            is_to_pause=lambda: len(done) >= wanted_after,
        )
    return paused.value.state


def test_what_is_left_of_a_clip_is_counted_in_the_forwards_that_it_makes(exact: LynxPipeline) -> None:
    clip = exact.prepare(make_subject(), LONG)
    assert clip.share_left(6) == pytest.approx(5 / 19)
