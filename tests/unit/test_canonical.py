"""Requests that a model renders alike have one canonical form, and only those."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lynx_model.canonical import ModelTraits, canonicalize, texts_read
from lynx_model.errors import WeightsMismatch
from lynx_model.pipeline import LynxPipeline
from lynx_model.spec import EngineOptions, ModelSource, RenderParams
from lynx_model.step_plan import plan_steps
from lynx_model.tokenizer import Tokenizer
from tests.builders import PARAMS, make_subject
from tests.models import BASE, MODEL, load_tiny
from tests.requests import FULL, LITE, ODD, REQUESTS, form


def computed(params: RenderParams, traits: ModelTraits) -> object:
    """What the pipeline is going to do, step by step, from the functions that it plans with."""
    steps, is_negative_read = [], False
    for step in plan_steps(params, traits, EngineOptions()):
        ip = [strength for block, strength in enumerate(step.strengths.ip) if block % traits.id_stride == 0]
        num_scales = 2 if step.reuses_image else len(step.branches) - 1
        scales = [params.guidance_scale, params.guidance_scale_image][:num_scales]
        ref = step.strengths.ref if traits.has_ref else ()
        steps.append((step.branches, step.reuses_image, scales, ip, ref))
        is_negative_read |= any(not branch.has_prompt for branch in step.branches)
    shift = traits.flow_shift if params.flow_shift is None else params.flow_shift
    return steps, params.negative_prompt if is_negative_read else None, shift


@pytest.mark.parametrize("traits", [FULL, LITE, ODD], ids=["full", "lite", "lite, 5 blocks"])
@given(first=REQUESTS, second=REQUESTS)
def test_requests_share_a_form_exactly_if_the_pipeline_computes_the_same(
    traits: ModelTraits, first: RenderParams, second: RenderParams
) -> None:
    assert (form(first, traits) == form(second, traits)) == (computed(first, traits) == computed(second, traits))


@pytest.mark.parametrize("traits", [FULL, LITE], ids=["full", "lite"])
@given(
    params=REQUESTS,
    change=st.sampled_from(["guidance_until", "image_guidance_every", "ip_end", "ip_blocks", "ref_blocks"]),
    data=st.data(),
)
def test_one_field_is_part_of_the_form_exactly_if_it_changes_what_is_computed(
    traits: ModelTraits, params: RenderParams, change: str, data: st.DataObject
) -> None:
    other = replace(params, **{change: getattr(data.draw(REQUESTS), change)})
    assert (form(params, traits) == form(other, traits)) == (computed(params, traits) == computed(other, traits))


@pytest.mark.parametrize("field", ["width", "height", "num_frames", "fps"])
def test_size_and_speed_are_part_of_the_form(field: str) -> None:
    changed = {"width": 96, "height": 96, "num_frames": 5, "fps": 24}
    assert form(replace(PARAMS, **{field: changed[field]}), FULL) != form(PARAMS, FULL)


ALIKE: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "scales of one branch": (
        {"guidance_scale": 0.5},
        {"guidance_scale": 1, "guidance_scale_image": 7.0, "negative_prompt": "x", "guidance_until": 0.5},
    ),
    "guidance of no step": ({"guidance_until": 0.0}, {"guidance_scale": 0.0}),
    "guidance of the same steps": ({"guidance_until": 0.2}, {"guidance_until": 0.5}),
    "image guidance of the first step alone": ({"image_guidance_every": 2}, {"image_guidance_every": 1000}),
    "image guidance where an adapter changes at every step": (
        {"image_guidance_every": 9, "ip_end": 0.5},
        {"ip_end": 0.5},
    ),
    "image guidance of a branch that is not there": (
        {"image_guidance_every": 2, "guidance_scale_image": None},
        {"guidance_scale_image": None},
    ),
    "all blocks": ({"ip_blocks": "0-3", "ref_blocks": "0-3"}, {}),
    "the base's own flow shift": ({"flow_shift": 3}, {}),
    "ranges of the same steps": ({"ip_start": 0.2, "ref_end": 0.6}, {"ip_start": 0.5, "ref_end": 1.0}),
    "an adapter of strength zero": (
        {"ip_scale": 0, "ip_blocks": "2-3", "ref_scale": -0.0, "ref_start": 0.5},
        {"ip_scale": 0.0, "ref_scale": 0.0},
    ),
    "an adapter at no step": ({"ip_start": 0.6, "ip_end": 0.7}, {"ip_scale": 0.0}),
    "normal forms of Unicode, and blanks": ({"prompt": "a cafe\u0301 "}, {"prompt": " a  caf\u00e9"}),
}

ALIKE_TO_LITE: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "an adapter that is not there": ({"ref_scale": 0.3, "ref_end": 0.5, "ref_blocks": "1-2"}, {}),
    "a scale of a branch that is not there": ({"guidance_scale_image": None}, {"guidance_scale_image": 4.0}),
    "blocks with the same layers": ({"ip_blocks": "0-1"}, {"ip_blocks": "0-0"}),
    "blocks without a layer": ({"ip_blocks": "1-1"}, {"ip_scale": 0.0}),
}


@pytest.fixture(scope="module")
def pipes() -> dict[ModelTraits, LynxPipeline]:
    return {FULL: load_tiny("full"), LITE: load_tiny("lite")}


@pytest.mark.parametrize(
    ("traits", "first", "second"),
    [*((FULL, *pair) for pair in ALIKE.values()), *((LITE, *pair) for pair in ALIKE_TO_LITE.values())],
    ids=[*ALIKE, *ALIKE_TO_LITE],
)
def test_requests_of_one_form_give_identical_latents(
    pipes: dict[ModelTraits, LynxPipeline], traits: ModelTraits, first: dict[str, object], second: dict[str, object]
) -> None:
    requests = [replace(PARAMS, **changes) for changes in (first, second)]
    texts = Tokenizer.load(BASE).describe(text for r in requests for text in (r.prompt, r.negative_prompt))
    digests = {text: reading.sha256 for text, reading in texts.items()}
    forms = [canonicalize(request, traits, digests) for request in requests]
    assert forms[0] == forms[1]
    latents = [pipes[traits].denoise(make_subject(), request) for request in requests]
    assert torch.equal(*latents)
    assert requests[0] != requests[1]


def test_what_is_equal_by_arithmetic_alone_stays_apart() -> None:
    same_scales = replace(PARAMS, guidance_scale=4.0, guidance_scale_image=4.0)
    assert form(same_scales, FULL) != form(replace(same_scales, guidance_scale_image=None), FULL)


def test_texts_that_no_branch_reads_are_not_read() -> None:
    assert texts_read(PARAMS) == {"prompt": PARAMS.prompt, "negative_prompt": PARAMS.negative_prompt}
    assert texts_read(replace(PARAMS, guidance_scale=1.0)) == {"prompt": PARAMS.prompt}


def test_a_schedule_without_a_flow_shift_has_that_of_diffusers_and_another_must_be_a_number(tmp_path: Path) -> None:
    (tmp_path / "transformer").symlink_to(BASE / "transformer")
    (tmp_path / "scheduler").mkdir()
    file = tmp_path / "scheduler" / "scheduler_config.json"
    source = ModelSource.of(str(tmp_path), str(MODEL / "lynx_full"))
    file.write_text("{}")
    assert ModelTraits.of(source).flow_shift == 1.0
    file.write_text('{"flow_shift": "3"}')
    with pytest.raises(WeightsMismatch, match="flow_shift='3': must be a number"):
        ModelTraits.of(source)
