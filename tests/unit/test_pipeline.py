"""What LynxPipeline promises beyond the reference cases, on the tiny model."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lynx_model import sampler
from lynx_model.errors import EncoderMismatch, Interrupted, InvalidParams
from lynx_model.pipeline import LynxPipeline
from tests.builders import PARAMS, make_subject
from tests.models import MODEL, load_tiny


@pytest.fixture(scope="module")
def full() -> LynxPipeline:
    return load_tiny("full")


@pytest.fixture(scope="module")
def lite() -> LynxPipeline:
    return load_tiny("lite")


def test_the_same_clip_gives_identical_latents_twice(full: LynxPipeline) -> None:
    first, second = (full.denoise(make_subject(), PARAMS) for _ in range(2))
    assert torch.equal(first, second)


def test_a_clip_does_not_depend_on_the_clips_before_it(full: LynxPipeline) -> None:
    alone = full.denoise(make_subject(), PARAMS)
    full.denoise(make_subject(1), replace(PARAMS, prompt="another", seed=8, num_frames=5))
    assert torch.equal(full.denoise(make_subject(), PARAMS), alone)


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "another"},
        {"negative_prompt": "another"},
        {"seed": 8},
        {"guidance_scale": 3.0},
        {"guidance_scale_image": 1.0},
        {"guidance_scale_image": None},
        {"ip_scale": 0.5},
        {"ref_scale": 0.0},
        {"num_inference_steps": 3},
        {"flow_shift": 8.0},
        {"ip_start": 0.5},
        {"ip_end": 0.5},
        {"ip_blocks": "0-1"},
        {"ref_start": 0.5},
        {"ref_end": 0.5},
        {"ref_blocks": "1-1"},
        {"guidance_until": 0.5},
        {"image_guidance_every": 2},
    ],
    ids=str,
)
def test_every_parameter_changes_the_picture(full: LynxPipeline, change: dict[str, object]) -> None:
    subject = make_subject()
    changed = full.denoise(subject, replace(PARAMS, **change))
    assert (changed - full.denoise(subject, PARAMS)).abs().max() > 1e-4


def test_a_strength_of_zero_switches_an_adapter_off(full: LynxPipeline) -> None:
    off = replace(PARAMS, ip_scale=0.0, ref_scale=0.0)
    assert torch.equal(full.denoise(make_subject(0), off), full.denoise(make_subject(1), off))


def test_ranges_that_hold_everything_change_nothing(full: LynxPipeline) -> None:
    weak = replace(PARAMS, ip_scale=0.7, ref_scale=0.6)
    everything = replace(weak, ip_blocks="0-3", ref_blocks="0-3", ip_end=1.0, ref_end=0.99, guidance_until=0.51)
    assert torch.equal(full.denoise(make_subject(), everything), full.denoise(make_subject(), weak))


@pytest.mark.parametrize(
    "nowhere", [{"ip_end": 0.0, "ref_start": 1.0}, {"ip_start": 0.6, "ip_end": 0.6, "ref_end": 0.0}]
)
def test_a_range_without_steps_is_a_strength_of_zero(full: LynxPipeline, nowhere: dict[str, float]) -> None:
    off = full.denoise(make_subject(), replace(PARAMS, ip_scale=0.0, ref_scale=0.0))
    assert torch.equal(full.denoise(make_subject(), replace(PARAMS, **nowhere)), off)


def test_strengths_outside_their_blocks_are_zero(full: LynxPipeline) -> None:
    clip = full.prepare(make_subject(), replace(PARAMS, ip_blocks="1-2", ref_blocks="3-3"))
    for branch in clip.steps[0]:
        assert [bool(block.cross.identity.value.any()) for block in branch.blocks] == [False, True, True, False]
        assert [bool(block.reference.value.any()) for block in branch.blocks] == [False, False, False, True]


def test_steps_with_the_same_branches_and_strengths_share_their_conditioning(full: LynxPipeline) -> None:
    clip = full.prepare(make_subject(), replace(PARAMS, num_inference_steps=8, ip_end=0.5, guidance_until=0.25))
    assert [len(step) for step in clip.steps] == [3, 3, 1, 1, 1, 1, 1, 1]
    assert len({id(branch) for step in clip.steps for branch in step}) == 4


def test_guidance_until_half_equals_a_loop_that_drops_the_other_branches_there(full: LynxPipeline) -> None:
    params = replace(PARAMS, num_inference_steps=4, guidance_until=0.5)
    clip = full.prepare(make_subject(), replace(params, guidance_until=1.0))
    scheduler = sampler.make_schedule(full._model.scheduler_config, params, torch.device("cpu"))
    latents = sampler.draw_noise(params, torch.device("cpu"))
    for step, timestep in enumerate(scheduler.timesteps):
        with torch.inference_mode():
            text, nothing, subject = full._model.transformer.predict(latents, timestep[None], clip.steps[0])
        guided = nothing + 2.0 * (subject - nothing) + 5.0 * (text - subject)
        latents = scheduler.step(guided if step < 2 else text, timestep, latents, return_dict=False)[0]
    assert (full.denoise(make_subject(), params) - latents).abs().max() < 1e-5


def test_as_many_steps_as_are_allowed_can_be_made(full: LynxPipeline) -> None:
    params = replace(PARAMS, num_inference_steps=1000)
    scheduler = sampler.make_schedule(full._model.scheduler_config, params, torch.device("cpu"))
    latents = sampler.denoise(lambda latents, *_: 0.1 * latents, torch.randn(1, 16, 2, 6, 8), scheduler)
    assert latents.isfinite().all()


def test_blocks_that_the_model_lacks_are_refused(lite: LynxPipeline) -> None:
    with pytest.raises(InvalidParams, match="ip_blocks='0-4': must lie within the model's blocks, 0-3"):
        lite.prepare(make_subject(), replace(PARAMS, ip_blocks="0-4"))


def test_lite_ignores_the_image_guidance(lite: LynxPipeline) -> None:
    with_two = lite.denoise(make_subject(), replace(PARAMS, guidance_scale_image=None))
    assert torch.equal(lite.denoise(make_subject(), PARAMS), with_two)


def test_guidance_of_one_reads_no_negative_prompt(full: LynxPipeline) -> None:
    one = replace(PARAMS, guidance_scale=1.0)
    other = replace(one, negative_prompt="another", guidance_scale_image=None)
    assert torch.equal(full.denoise(make_subject(), one), full.denoise(make_subject(), other))


def test_the_mix_of_lite_identity_and_reference_is_lite_when_the_reference_is_off(lite: LynxPipeline) -> None:
    mix = load_tiny({"id": str(MODEL / "lynx_lite"), "ref": str(MODEL / "lynx_full")})
    two_branches = replace(PARAMS, guidance_scale_image=None)

    off = mix.denoise(make_subject(), replace(two_branches, ref_scale=0.0))
    on = mix.denoise(make_subject(), two_branches)

    expected = lite.denoise(make_subject(), two_branches)
    assert (off - expected).abs().max() < 1e-5
    assert (on - expected).abs().max() > 1e-3


def test_bfloat16_is_close_to_float32(full: LynxPipeline) -> None:
    low = load_tiny("full", dtype="bfloat16").denoise(make_subject(), PARAMS)
    assert low.dtype == torch.float32
    assert (low - full.denoise(make_subject(), PARAMS)).abs().mean() < 0.05


def test_progress_is_reported_after_each_step_and_can_stop_the_clip(full: LynxPipeline) -> None:
    seen = []

    def stop_after_two(step: int, num_steps: int) -> None:
        seen.append((step, num_steps))
        if step == 2:
            raise Interrupted("enough")

    with pytest.raises(Interrupted):
        full.denoise(make_subject(), replace(PARAMS, num_inference_steps=5), stop_after_two)
    assert seen == [(1, 5), (2, 5)]


@pytest.mark.parametrize("num_steps_done", [1, 2, 3, 5])
def test_a_clip_that_was_paused_comes_out_as_if_it_had_not_been(full: LynxPipeline, num_steps_done: int) -> None:
    """Through every phase of the scheduler: its warm-up, its steady state and its last steps of lower order."""
    params = replace(PARAMS, num_inference_steps=6, guidance_until=0.5)
    pauses = iter([*[False] * (num_steps_done - 1), True])
    with pytest.raises(sampler.Paused) as paused:
        full.sample(full.prepare(make_subject(), params), is_to_pause=lambda: next(pauses))
    state = paused.value.state
    assert state.num_steps_done == num_steps_done

    seen: list[int] = []
    resumed = full.sample(full.prepare(make_subject(), params), lambda step, num_steps: seen.append(step), state=state)
    assert torch.equal(resumed, full.denoise(make_subject(), params))
    assert seen == list(range(num_steps_done + 1, 7))


def test_frames_have_the_size_that_was_asked_for(full: LynxPipeline) -> None:
    frames = full.decode(full.denoise(make_subject(), replace(PARAMS, width=80, height=32, num_frames=5)))
    assert frames.shape == (5, 32, 80, 3)
    assert frames.dtype == np.uint8


def test_an_embedding_of_an_undeclared_encoder_is_refused(full: LynxPipeline) -> None:
    with pytest.raises(EncoderMismatch, match="arcface-ir-se50"):
        full.denoise(make_subject(encoder="arcface-ir-se50"), PARAMS)
    full.denoise(make_subject(encoder="sface-512"), replace(PARAMS, num_inference_steps=1))


def test_the_reference_adapter_needs_an_aligned_face(full: LynxPipeline, lite: LynxPipeline) -> None:
    faceless = replace(make_subject(), aligned_face=None)
    with pytest.raises(InvalidParams, match="aligned_face"):
        full.denoise(faceless, PARAMS)
    lite.denoise(faceless, PARAMS)


def test_unknown_adapter_roles_are_refused() -> None:
    with pytest.raises(InvalidParams, match="adapters"):
        load_tiny({"id": str(MODEL / "lynx_lite"), "reference": str(MODEL / "lynx_full")})
