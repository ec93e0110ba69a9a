"""Requests that differ in everything that decides what the model computes, and their canonical forms."""

from dataclasses import replace

from hypothesis import strategies as st

from lynx_model.canonical import ModelTraits, canonicalize
from lynx_model.spec import ModelSource, RenderParams
from tests.models import BASE, MODEL

FULL, LITE = (ModelTraits.of(ModelSource.of(str(BASE), str(MODEL / f"lynx_{name}"))) for name in ("full", "lite"))
ODD = replace(LITE, num_blocks=5)

SCALES = st.sampled_from([0.0, -0.0, 0.7, 1.0, 1, 2.0])
FRACTIONS = st.sampled_from([0.0, 0.2, 0.25, 0.3, 0.5, 1.0])
BLOCKS = st.sampled_from([None, "0-0", "0-1", "1-1", "0-2", "2-3", "0-3"])
REQUESTS = st.fixed_dictionaries(
    {
        "negative_prompt": st.sampled_from(["", "blurred"]),
        "num_inference_steps": st.sampled_from([1, 3, 4]),
        "guidance_scale": SCALES,
        "guidance_scale_image": st.none() | SCALES,
        "guidance_until": FRACTIONS,
        "image_guidance_every": st.sampled_from([1, 2, 3, 4, 9]),
        "flow_shift": st.sampled_from([None, 3, 3.0, 5.0]),
        "ip_scale": SCALES,
        "ip_start": st.just(0.0) | FRACTIONS.filter(lambda start: start <= 0.3),
        "ip_end": FRACTIONS.filter(lambda end: end >= 0.3),
        "ip_blocks": BLOCKS,
        "ref_scale": SCALES,
        "ref_end": FRACTIONS,
        "ref_blocks": BLOCKS,
    }
).map(lambda values: RenderParams(prompt="waves", **values))


def form(params: RenderParams, traits: ModelTraits) -> object:
    return canonicalize(params, traits, {text: text for text in (params.prompt, params.negative_prompt)})
