"""What an engine will need is told from headers alone, and agrees with what was loaded and measured."""

from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKLWan
from torch import nn
from transformers import UMT5Config, UMT5EncoderModel

from lynx_model.bench.case import BenchCase, adapters_of, empty_transformer
from lynx_model.engine.memory import (
    FP8_LINEAR,
    GIB,
    PUBLISHED_FULL,
    PUBLISHED_LITE,
    ClipSize,
    ModelSize,
    plan_memory,
    smallest_change,
)
from lynx_model.network.adapters import adapter_layers
from lynx_model.network.resampler import Resampler
from lynx_model.spec import EngineOptions, ModelSource, ParallelPlan
from lynx_model.step_cache import StepCache
from lynx_model.weights import load_model
from tests.models import BASE, MODEL

ONE_BRANCH = ClipSize(num_branches=1)
COMPILED = EngineOptions(compile=True)


def num_params(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


@pytest.mark.parametrize("variant", ["full", "lite"])
def test_headers_tell_the_size_that_is_loaded(variant: str) -> None:
    source = ModelSource.of(str(BASE), str(MODEL / f"lynx_{variant}"))
    size, model = (
        ModelSize.of(source),
        load_model(source, device=torch.device("cpu"), engine=EngineOptions(precision="float32")),
    )
    encoder = model.text_encoder._encoder
    assert size.transformer_params + size.adapter_params == num_params(model.transformer, model.resampler)
    assert (size.vae_params, size.text_encoder_params) == (num_params(model.vae), num_params(encoder))
    assert size.block_params == num_params(model.transformer.blocks)
    assert size.num_blocks == len(model.transformer.blocks)


def test_the_published_size_is_that_of_the_published_configs() -> None:
    case = BenchCase()
    transformer = empty_transformer(case)
    base_params = num_params(transformer)
    linears = [parameter for name, parameter in transformer.named_parameters() if FP8_LINEAR.match(name)]
    with torch.device("meta"):
        layers = adapter_layers(adapters_of(case))
        resampler, vae = Resampler(**adapters_of(case).resampler), AutoencoderKLWan()
        config = UMT5Config(d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, vocab_size=256384)
        encoder = UMT5EncoderModel(config)
    full = PUBLISHED_FULL
    assert full.transformer_params == base_params
    assert full.adapter_params == num_params(*filter(None, layers), resampler)
    assert (full.block_params, len(linears)) == (num_params(transformer.blocks), 40 * 8)
    assert full.fp8_params == sum(parameter.numel() for parameter in linears)
    assert full.vae_params == num_params(vae)
    assert full.text_encoder_params == num_params(encoder)


@pytest.mark.parametrize(("is_compiled", "measured_gib"), [(True, 37.8), (False, 39.0)])
def test_a_forward_takes_what_was_measured_on_an_h200(is_compiled: bool, measured_gib: float) -> None:
    plan = plan_memory(PUBLISHED_FULL, ONE_BRANCH, EngineOptions(compile=is_compiled, text_encoder="cpu"))
    vae_bytes = PUBLISHED_FULL.vae_params * 2
    forward_bytes = plan.weights_bytes - vae_bytes + plan.conditioning_bytes + plan.denoise_bytes
    assert abs(forward_bytes / GIB - measured_gib) < 0.4


def test_each_saving_saves() -> None:
    def peak(engine: EngineOptions, clip: ClipSize = ONE_BRANCH) -> int:
        return plan_memory(PUBLISHED_FULL, clip, engine).peak_bytes

    savings = [
        EngineOptions(precision="float32", compile=True),
        COMPILED,
        EngineOptions(precision="fp8", num_bf16_edge_blocks=5, compile=True),
        EngineOptions(precision="fp8", compile=True),
        EngineOptions(precision="fp8", compile=True, text_encoder="staged"),
        EngineOptions(precision="fp8", compile=True, text_encoder="cpu"),
        EngineOptions(precision="fp8", compile=True, text_encoder="cpu", offload="blocks"),
    ]
    peaks = [peak(engine) for engine in savings]
    assert peaks == sorted(peaks, reverse=True)
    assert len(set(peaks)) == len(peaks)
    large = ClipSize(width=1280, height=720)
    denoise_bytes = [
        plan_memory(PUBLISHED_FULL, large, COMPILED, ParallelPlan(ulysses=n)).denoise_bytes for n in (1, 2)
    ]
    assert denoise_bytes[1] < denoise_bytes[0]
    assert peak(COMPILED, ClipSize(width=1280, height=720)) > peak(COMPILED)
    assert plan_memory(PUBLISHED_LITE, ONE_BRANCH, COMPILED).peak_bytes < peak(COMPILED)


def test_a_step_cache_keeps_the_tokens_of_each_branch_that_a_rank_computes() -> None:
    cached = replace(COMPILED, step_cache=StepCache())

    def kept_bytes(clip: ClipSize, **plan: int) -> int:
        with_cache, without = (
            plan_memory(PUBLISHED_FULL, clip, engine, ParallelPlan(**plan)).denoise_bytes
            for engine in (cached, COMPILED)
        )
        return with_cache - without

    per_branch = 32_760 * 5120 * 2
    assert kept_bytes(ClipSize()) == 3 * per_branch
    assert kept_bytes(ONE_BRANCH) == per_branch
    assert [kept_bytes(ClipSize(), branches=branches) // per_branch for branches in (2, 3)] == [2, 1]
    assert kept_bytes(ClipSize(), branches=3, ulysses=2) == per_branch // 2


def test_what_leaves_the_device_waits_in_host_memory() -> None:
    resident, away = (
        plan_memory(PUBLISHED_FULL, ONE_BRANCH, engine)
        for engine in (EngineOptions(), EngineOptions(text_encoder="cpu", offload="blocks"))
    )
    two_blocks_bytes = PUBLISHED_FULL.block_params * 2 * 2 // PUBLISHED_FULL.num_blocks
    assert resident.host_bytes == 0
    assert resident.peak_bytes - away.peak_bytes == away.host_bytes - two_blocks_bytes


@pytest.mark.parametrize(
    ("free_gib", "expected"),
    [
        (139, COMPILED),
        (48, EngineOptions(compile=True, text_encoder="staged")),
        (24, EngineOptions(compile=True, text_encoder="staged", offload="blocks")),
        (8, None),
    ],
)
def test_the_smallest_change_that_fits_is_found(free_gib: int, expected: EngineOptions | None) -> None:
    assert smallest_change(PUBLISHED_FULL, ClipSize(), COMPILED, free_gib * GIB) == expected
