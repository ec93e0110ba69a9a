"""The numbers of the original: every reference case in float32 on the CPU."""

import json

import numpy as np
import pytest

from lynx_model.spec import RenderParams, Subject
from tests.models import GOLDEN, load_tiny

CASES = sorted(path.stem for path in GOLDEN.glob("*.json"))

MAX_LATENT_DIFFERENCE = 2e-5
MAX_GREY_LEVEL_DIFFERENCE = 1


def load_case(name: str) -> tuple[str, RenderParams, dict[str, np.ndarray]]:
    case = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    params = RenderParams(
        prompt=case["prompt"],
        negative_prompt=case["negative_prompt"],
        seed=case["seed"],
        width=case["width"],
        height=case["height"],
        num_frames=case["num_frames"],
        num_inference_steps=case["steps"],
        guidance_scale=case["guidance_scale"],
        guidance_scale_image=case.get("guidance_scale_image"),
        ip_scale=case["ip_scale"],
        ref_scale=case.get("ref_scale", 1.0),
    )
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return case["variant"], params, dict(arrays)


@pytest.mark.parametrize("name", CASES)
def test_latents_and_frames_equal_the_originals(name: str) -> None:
    variant, params, expected = load_case(name)
    pipe = load_tiny(variant)
    subject = Subject(face_embedding=expected["face_embedding"], aligned_face=expected.get("aligned_face"))

    latents = pipe.denoise(subject, params)
    frames = pipe.decode(latents)

    assert np.abs(latents.numpy() - expected["latents"]).max() < MAX_LATENT_DIFFERENCE
    assert np.abs(frames.astype(int) - expected["frames"]).max() <= MAX_GREY_LEVEL_DIFFERENCE
