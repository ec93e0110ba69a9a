"""Predicts how much memory a clip will take, from configs and tensor headers alone; free of torch.

A prediction sums what is on the device at the same time. Denoising and decoding alternate, so the larger of the two counts.
Measured on one H200 for Lynx-full at 81 frames of 832x480 in bfloat16, one guidance branch, without text encoder and VAE:
37.8 GiB compiled (predicted 37.7), 39.0 GiB eager (39.0); its compiled decode takes 5.1 GiB (5.3).
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lynx_model.checkpoints.adapter_spec import ID_FILE, RESAMPLER_FILE, describe_adapters
from lynx_model.checkpoints.base import read_base
from lynx_model.checkpoints.checkpoint import read_tensors
from lynx_model.checkpoints.safetensors_header import TensorHeader, read_header
from lynx_model.geometry import num_tokens
from lynx_model.spec import (
    ALIGNED_FACE_PX,
    NUM_TEXT_TOKENS,
    ONE_GPU,
    REF_FILE,
    EngineOptions,
    ModelSource,
    ParallelPlan,
)

GIB = 2**30
NUM_BLOCKS_VISITING = 2
"""Offloaded blocks on the device at the same time: the one that computes and the one that is being copied."""

RESERVE_BYTES = 3 * GIB // 2
"""Memory beside tensors: CUDA's context, cuDNN's workspaces, gaps between allocations."""

FP8_LINEAR = re.compile(
    r"^blocks\.\d+\.(attn1\.(to_[qkv]|to_out\.0)|attn2\.(to_q|to_out\.0)|ffn\.net\.(0\.proj|2))\.weight$"
)

DECODE_BYTES_PER_PX = {False: 16_000, True: 13_700}
"""Memory per pixel of one frame in bfloat16, eager and compiled: the live tensors of `decoder.VideoDecoder` for two latent frames."""

DECODED_BYTES_PER_PX = 6
"""Memory per pixel of each decoded frame: RGB in uint8, once in chunks and once joined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """The sizes of a model that decide its memory: parameters, and tokens whose keys and values all blocks together keep."""

    num_blocks: int
    channels: int
    ff_width: int
    transformer_params: int
    block_params: int
    fp8_params: int
    adapter_params: int
    vae_params: int
    text_encoder_params: int
    largest_text_layer_params: int
    num_conditioning_tokens: int

    @classmethod
    def of(cls, source: ModelSource) -> "ModelSize":
        """The size of the model at `source`, from its configs and headers.

        Raises:
            MissingFile: If a file is not there.
            WeightsMismatch: If a file is damaged.
        """
        base, adapters = Path(source.base), describe_adapters(source.id_adapter, source.ref_adapter)
        spec = read_base(base)
        transformer, text_encoder = read_tensors(base / "transformer"), read_tensors(base / "text_encoder")
        if "shared.weight" in text_encoder:
            text_encoder.pop("encoder.embed_tokens.weight", None)
        adapter_files = [
            Path(source.id_adapter, ID_FILE),
            Path(source.id_adapter, RESAMPLER_FILE),
            *([Path(source.ref_adapter, REF_FILE)] if source.ref_adapter else []),
        ]
        identity = adapters.resampler["num_queries"] + adapters.num_registers
        return cls(
            num_blocks=spec.num_blocks,
            channels=spec.channels,
            ff_width=spec.ff_width,
            transformer_params=_count(transformer),
            block_params=_count({name: t for name, t in transformer.items() if name.startswith("blocks.")}),
            fp8_params=_count({name: t for name, t in transformer.items() if FP8_LINEAR.match(name)}),
            adapter_params=sum(_count(read_header(file)) for file in adapter_files),
            vae_params=_count(read_tensors(base / "vae")),
            text_encoder_params=_count(text_encoder),
            largest_text_layer_params=max(math.prod(tensor.shape) for tensor in text_encoder.values()),
            num_conditioning_tokens=spec.num_blocks * NUM_TEXT_TOKENS
            + adapters.num_id_layers * identity
            + adapters.num_ref_layers * num_tokens(width=ALIGNED_FACE_PX, height=ALIGNED_FACE_PX, num_frames=1),
        )


PUBLISHED_FULL = ModelSize(
    num_blocks=40,
    channels=5120,
    ff_width=13824,
    transformer_params=14_288_491_584,
    block_params=14_055_772_160,
    fp8_params=11_953_766_400,
    adapter_params=4_284_320_000,
    vae_params=126_892_531,
    text_encoder_params=5_680_910_336,
    largest_text_layer_params=1_050_148_864,
    num_conditioning_tokens=40 * (NUM_TEXT_TOKENS + 32 + 256),
)
PUBLISHED_LITE = replace(
    PUBLISHED_FULL,
    adapter_params=501_409_024,
    num_conditioning_tokens=40 * NUM_TEXT_TOKENS + 20 * 16,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSize:
    """The sizes of a clip that decide its memory. Guidance, which takes several branches, doubles the conditioning of text and subject."""

    width: int = 832
    height: int = 480
    num_frames: int = 81
    num_branches: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Bytes on each GPU by purpose, and `host_bytes` in the host memory of each worker."""

    weights_bytes: int
    text_encoder_bytes: int
    conditioning_bytes: int
    denoise_bytes: int
    decode_bytes: int
    host_bytes: int

    @property
    def peak_bytes(self) -> int:
        kept = self.weights_bytes + self.text_encoder_bytes + self.conditioning_bytes
        return kept + max(self.denoise_bytes, self.decode_bytes)

    def fits(self, free_bytes: float) -> bool:
        return self.peak_bytes + RESERVE_BYTES <= free_bytes


def plan_memory(model: ModelSize, clip: ClipSize, engine: EngineOptions, plan: ParallelPlan = ONE_GPU) -> MemoryPlan:
    """The memory that rendering clips of that size takes on each rank of `plan`."""
    bytes_per_element = _bytes_per_element(engine)
    is_offloaded = engine.offload == "blocks"
    num_fp8_blocks = model.num_blocks - 2 * engine.num_bf16_edge_blocks if engine.precision == "fp8" else 0
    block_bytes = model.block_params * bytes_per_element - model.fp8_params * num_fp8_blocks // model.num_blocks
    adapter_bytes = model.adapter_params * bytes_per_element
    other_bytes = (model.transformer_params - model.block_params + model.vae_params) * bytes_per_element
    visiting_bytes = block_bytes * NUM_BLOCKS_VISITING // model.num_blocks
    text_params = {
        "resident": model.text_encoder_params,
        "staged": model.largest_text_layer_params,
        "cpu": 0,
    }[engine.text_encoder]
    text_in_host = 0 if engine.text_encoder == "resident" else model.text_encoder_params
    return MemoryPlan(
        weights_bytes=other_bytes + (visiting_bytes if is_offloaded else block_bytes + adapter_bytes),
        text_encoder_bytes=text_params * bytes_per_element,
        conditioning_bytes=model.num_conditioning_tokens
        * 2
        * model.channels
        * bytes_per_element
        * (2 if clip.num_branches > 1 else 1),
        denoise_bytes=_denoise_bytes(model, clip, engine, plan) + _residual_bytes(model, clip, engine, plan),
        decode_bytes=_decode_bytes(clip, engine),
        host_bytes=text_in_host * bytes_per_element + (block_bytes + adapter_bytes if is_offloaded else 0),
    )


def smallest_change(
    model: ModelSize, clip: ClipSize, engine: EngineOptions, free_bytes: int, plan: ParallelPlan = ONE_GPU
) -> EngineOptions | None:
    """`engine`, or the first variant of it that fits; each needs less memory and more time than the one before. None if none fits."""
    staged = replace(engine, text_encoder="staged" if engine.text_encoder == "resident" else engine.text_encoder)
    candidates = (engine, staged, replace(staged, offload="blocks"))
    return next((each for each in candidates if plan_memory(model, clip, each, plan).fits(free_bytes)), None)


def _denoise_bytes(model: ModelSize, clip: ClipSize, engine: EngineOptions, plan: ParallelPlan) -> int:
    """Memory peaks in a block's feed-forward network: its hidden layer twice and three times the tokens.

    Eager norms add two float32 copies of the tokens.
    """
    per_token = _bytes_per_element(engine) * (2 * model.ff_width + 3 * model.channels) + (
        0 if engine.compile else 8 * model.channels
    )
    return _tokens_per_rank(clip, plan) * per_token


def _residual_bytes(model: ModelSize, clip: ClipSize, engine: EngineOptions, plan: ParallelPlan) -> int:
    """A step cache keeps as much as the tokens of each branch that a rank computes."""
    if engine.step_cache is None:
        return 0
    num_residuals = math.ceil(clip.num_branches / plan.branches)
    return num_residuals * _tokens_per_rank(clip, plan) * model.channels * _bytes_per_element(engine)


def _tokens_per_rank(clip: ClipSize, plan: ParallelPlan) -> int:
    tokens = num_tokens(width=clip.width, height=clip.height, num_frames=clip.num_frames)
    return math.ceil(tokens / (plan.ulysses * plan.ring))


def _decode_bytes(clip: ClipSize, engine: EngineOptions) -> int:
    per_px = (
        DECODE_BYTES_PER_PX[engine.compile] * _bytes_per_element(engine) // 2 + DECODED_BYTES_PER_PX * clip.num_frames
    )
    return clip.width * clip.height * per_px


def _bytes_per_element(engine: EngineOptions) -> int:
    return 4 if engine.dtype == "float32" else 2


def _count(tensors: Mapping[str, TensorHeader]) -> int:
    return sum(math.prod(tensor.shape) for tensor in tensors.values())
