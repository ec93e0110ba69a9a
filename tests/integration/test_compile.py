"""A compiled engine: the same picture, compiled once for each shape and for nothing else."""

from dataclasses import replace
from typing import Literal

import pytest
import torch
from diffusers import AutoencoderKLWan
from torch._dynamo.utils import counters

from lynx_model.fp8_attention import Fp8Attention
from lynx_model.network.decoder import VideoDecoder
from lynx_model.spec import EngineOptions
from tests.builders import PARAMS, make_subject
from tests.models import BASE, load_tiny


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("variant", "precision", "bound"),
    [("full", "float32", 1e-5), ("lite", "float32", 1e-5), ("full", "fp8", 0.08)],
    ids=["full", "lite", "full-fp8"],
)
def test_a_compiled_engine_renders_the_same_and_compiles_once_a_shape(
    variant: str, precision: Literal["float32", "fp8"], bound: float
) -> None:
    torch._dynamo.reset()
    counters.clear()
    engines = [EngineOptions(compile=is_compiled, precision=precision) for is_compiled in (False, True)]
    eager, compiled = (load_tiny(variant, dtype=engine.dtype, engine=engine) for engine in engines)

    expected, found = (pipe.denoise(make_subject(), PARAMS) for pipe in (eager, compiled))
    num_graphs = counters["stats"]["unique_graphs"]
    for other in (
        replace(PARAMS, prompt="another", negative_prompt="", seed=8),
        replace(PARAMS, ip_scale=0.3, ref_scale=0.0, guidance_scale=3.0),
        replace(PARAMS, ip_end=0.5, ref_start=0.5, ip_blocks="1-2", ref_blocks="0-1", guidance_until=0.5),
        replace(PARAMS, num_inference_steps=3),
    ):
        compiled.denoise(make_subject(1), other)
    clip = compiled.prepare(make_subject(), replace(PARAMS, num_inference_steps=4))
    compiled.sample(replace(clip, full_steps=(True, False, False, True)))

    assert (found - expected).norm() < bound * expected.norm(), "fusing moves numbers across roundings, of fp8 too"
    assert counters["stats"]["unique_graphs"] == num_graphs
    assert 1 <= num_graphs <= 2, "one graph for all blocks, or two where only every second one has an ID-adapter"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_blocks_that_attend_in_fp8_are_a_second_graph_whatever_the_steps() -> None:
    torch._dynamo.reset()
    counters.clear()
    attention = Fp8Attention(blocks=(0.25, 1.0), steps=(0.25, 0.75))
    engines = [EngineOptions(compile=is_compiled, fp8_attention=attention) for is_compiled in (False, True)]
    eager, compiled = (load_tiny("full", dtype="bfloat16", engine=engine) for engine in engines)
    params = replace(PARAMS, num_inference_steps=4, image_guidance_every=2)
    expected, found = (pipe.denoise(make_subject(), params) for pipe in (eager, compiled))
    assert (found - expected).norm() < 0.08 * expected.norm(), "fusing moves numbers across roundings, of fp8 too"
    assert counters["stats"]["unique_graphs"] == 2
    compiled.denoise(make_subject(1), replace(params, num_inference_steps=8, guidance_until=0.5))
    assert counters["stats"]["unique_graphs"] == 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_run_may_hold_more_shapes_than_torch_compiles_by_default() -> None:
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=1):
        pipe = load_tiny("lite", engine=EngineOptions(compile=True))
        for width in (32, 48, 64):
            pipe.denoise(make_subject(), replace(PARAMS, width=width, num_inference_steps=1, guidance_scale=1.0))


@torch.inference_mode()
@torch._dynamo.config.patch(recompile_limit=1)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_decoder_gives_the_same_pixels_and_compiles_once_for_all_sizes() -> None:
    torch._dynamo.reset()
    counters.clear()

    def decoder(*, is_compiled: bool) -> VideoDecoder:
        return VideoDecoder(AutoencoderKLWan.from_pretrained(BASE / "vae").eval(), is_compiled=is_compiled)

    eager, compiled, num_graphs = decoder(is_compiled=False), decoder(is_compiled=True), []
    for num_latents, height, width in ((4, 6, 5), (3, 8, 10)):
        latents = torch.randn(1, 16, num_latents, height, width)
        for expected, pixels in zip(eager.pixels(latents), compiled.pixels(latents), strict=True):
            assert (pixels - expected).abs().max() < 1e-5
        num_graphs.append(counters["stats"]["unique_graphs"])
    assert num_graphs[0] == num_graphs[1]
