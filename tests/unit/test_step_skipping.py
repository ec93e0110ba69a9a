"""A pipeline with a step cache, on the tiny model: what skipped steps compute, and that everything else stays as it is."""

from dataclasses import replace

import pytest
import torch

from lynx_model import sampler
from lynx_model.errors import InvalidParams
from lynx_model.guidance import combine
from lynx_model.pipeline import LynxPipeline
from lynx_model.spec import EngineOptions, RenderParams
from lynx_model.step_cache import Magnitudes, StepCache, average, noise_levels
from lynx_model.step_plan import full_steps
from tests.builders import PARAMS, make_subject
from tests.models import load_tiny
from tests.requests import FULL

LONG = replace(PARAMS, num_inference_steps=8)
SKIPPING = StepCache(
    threshold=1.0, max_skip=2, keep_first=0.2, magnitudes=Magnitudes(points=((0.001, 1.0), (1.0, 1.05)))
)
FULL_STEPS = (True, True, False, False, True, False, False, True)


def load(cache: StepCache | None = SKIPPING, adapters: str = "full") -> LynxPipeline:
    return load_tiny(adapters, engine=EngineOptions(step_cache=cache))


@pytest.fixture(scope="module")
def exact() -> LynxPipeline:
    return load(None)


@pytest.fixture(scope="module")
def skipping() -> LynxPipeline:
    return load()


def test_skipped_steps_add_what_the_blocks_added_in_the_last_full_one(
    exact: LynxPipeline, skipping: LynxPipeline
) -> None:
    """By a loop of its own around the transformer, whose blocks are wrapped to record what they add."""
    clip = exact.prepare(make_subject(), LONG)
    transformer = exact._model.transformer
    residuals: dict[int, torch.Tensor] = {}
    outputs: list[torch.Tensor] = []
    hook = transformer.blocks[-1].register_forward_hook(lambda _, args, output: outputs.append(output))
    latents = sampler.draw_noise(LONG, torch.device("cpu"))
    scheduler = sampler.make_schedule(exact._model.scheduler_config, LONG, torch.device("cpu"))
    with torch.inference_mode():
        for step, timestep in enumerate(scheduler.timesteps):
            velocities = []
            for branch, conditioning in enumerate(clip.steps[step]):
                tokens = transformer.patch_embedding(latents).flatten(2).transpose(1, 2)
                if FULL_STEPS[step]:
                    velocities += transformer.predict(latents, timestep[None], [conditioning])
                    residuals[branch] = outputs.pop() - tokens
                else:
                    time, _ = transformer._embed_time(timestep[None], tokens.dtype)
                    projected = transformer._project(tokens + residuals[branch], time)
                    velocities.append(transformer._unpatchify(projected, latents.shape))
            latents = scheduler.step(combine(velocities, LONG), timestep, latents, return_dict=False)[0]
    hook.remove()
    assert skipping.prepare(make_subject(), LONG).full_steps == FULL_STEPS
    assert torch.equal(skipping.denoise(make_subject(), LONG), latents)


def test_skipping_changes_the_picture_a_little(exact: LynxPipeline, skipping: LynxPipeline) -> None:
    with_cache, without = (pipe.denoise(make_subject(), LONG) for pipe in (skipping, exact))
    assert 1e-4 < (with_cache - without).abs().mean() < 0.2


def test_blocks_run_in_full_steps_alone(skipping: LynxPipeline) -> None:
    params = replace(LONG, guidance_until=0.5)
    clip = skipping.prepare(make_subject(), params)
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    hook = skipping._model.transformer.blocks[0].register_forward_pre_hook(count)
    skipping.sample(clip)
    hook.remove()
    full = [len(branches) for branches, is_full in zip(clip.steps, clip.full_steps, strict=True) if is_full]
    assert calls == sum(full) < sum(map(len, clip.steps))
    assert clip.share_left(0) == 1
    assert clip.share_left(4) == sum(full[-2:]) / sum(full), "the fifth step begins the part without guidance"


def test_a_cache_that_skips_nothing_changes_no_bit(exact: LynxPipeline) -> None:
    idle = [replace(SKIPPING, max_skip=0), replace(SKIPPING, threshold=0.0), replace(SKIPPING, keep_first=1.0)]
    assert all(all(full_steps(LONG, FULL, cache)) for cache in idle)
    assert torch.equal(load(idle[0]).denoise(make_subject(), LONG), exact.denoise(make_subject(), LONG))


def test_a_clip_does_not_depend_on_the_clips_before_it(skipping: LynxPipeline) -> None:
    alone = load().denoise(make_subject(), LONG)
    skipping.denoise(make_subject(1), replace(LONG, seed=8, guidance_scale=1.0, num_inference_steps=5))
    assert torch.equal(skipping.denoise(make_subject(), LONG), alone)


@pytest.mark.parametrize("guidance_until", [1.0, 0.5])
@pytest.mark.parametrize("wanted_after", range(1, 8))
def test_a_clip_pauses_before_a_full_step_and_comes_out_as_if_it_had_not(
    skipping: LynxPipeline, wanted_after: int, guidance_until: float
) -> None:
    params = replace(LONG, guidance_until=guidance_until)
    clip = skipping.prepare(make_subject(), params)
    steps_done: list[int] = []
    with pytest.raises(sampler.Paused) as paused:
        skipping.sample(
            clip,
            lambda step, _: steps_done.append(step),
            is_to_pause=lambda: len(steps_done) >= wanted_after,
        )
    state = paused.value.state
    first_possible = next(step for step in range(wanted_after, 8) if clip.full_steps[step])
    assert state.num_steps_done == first_possible
    resumed = load().sample(clip, state=state) if wanted_after == 2 else skipping.sample(clip, state=state)
    assert torch.equal(resumed, skipping.sample(clip))


def test_the_magnitudes_of_a_model_are_measured_at_every_step_and_branch(exact: LynxPipeline) -> None:
    clip = exact.prepare(make_subject(), replace(LONG, guidance_until=0.5))
    measured = exact.measure_magnitudes(clip)
    assert [len(branches) for branches in measured] == [3] * 4 + [1] * 4
    magnitudes, spread = average(noise_levels(8, 3.0), [measured])
    assert len(magnitudes.points) == 8
    assert 0 < spread < 1


def test_the_size_of_a_residual_is_the_mean_length_over_its_tokens(exact: LynxPipeline) -> None:
    transformer, added = exact._model.transformer, []
    clip = exact.prepare(make_subject(), replace(PARAMS, guidance_scale=1.0, num_inference_steps=1))
    hooks = [
        transformer.blocks[0].register_forward_pre_hook(lambda _, args: added.append(args[0])),
        transformer.blocks[-1].register_forward_hook(lambda _, args, output: added.append(output)),
    ]
    ((measured,),) = exact.measure_magnitudes(clip)
    for hook in hooks:
        hook.remove()
    before, after = added
    assert measured == pytest.approx(float((after - before).norm(dim=-1).mean()))


def test_lite_skips_too() -> None:
    params = RenderParams(prompt="a person waves", width=64, height=48, num_frames=5, num_inference_steps=8)
    assert load(adapters="lite").prepare(make_subject(), params).full_steps == FULL_STEPS


def test_a_cache_without_the_models_magnitudes_is_refused_before_a_weight_is_read() -> None:
    with pytest.raises(InvalidParams, match=r"step_cache\.magnitudes=None: must be measured"):
        load(StepCache())
