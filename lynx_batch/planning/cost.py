"""How long a clip keeps a group busy, and how much memory it takes: shipped figures, refined by what earlier runs took.

seconds of a clip = factor x (forwards x (products + attention) / (GPUs x efficiency) + decoding + a fixed part)

Encoding and upload run beside the next clip.
"""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from statistics import median

from lynx_model.geometry import num_tokens
from lynx_model.guidance import num_forwards
from lynx_model.spec import ParallelPlan, RenderParams

DECODE_S_PER_MPX = 1.005 / 32.35
"""Compiled, in bfloat16, on one H200: 81 frames of 832x480. Source: lynx_model/README.md."""

FIXED_S = 1.0
"""Photo, text and the reference picture; an estimate."""

LOAD_S = 60.0
"""From a group's birth to its first clip; an estimate."""

EFFICIENCY = {1: 1.0, 2: 0.88, 3: 0.875, 4: 0.87, 6: 0.83, 8: 0.80}
"""T1 / (N x TN) of a forward on N GPUs. Source: 2 is measured (lynx_model/README.md); 4 is a prototype's, 8 is Wan's own
table for 720p on H100s; 3 and 6 lie between."""

TEXT_AND_VAE_GIB = 11.0
"""UMT5-XXL and Wan's VAE in bfloat16, resident on every GPU."""

ACTIVATION_GIB_PER_TOKEN = 3.2 / 32_760
"""Peak beside the weights during a forward. Source: lynx_model/README.md, 37.8 GiB at 32,760 tokens."""

IMPOSSIBLE_SHARE = 0.1
"""Denoising in less than this share of the predicted time did not happen: no cache and no precision is that fast."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuType:
    """What a forward reaches on a GPU: its matrix products and its attention, in TFLOP/s; `memory_gib` of the device."""

    name: str
    products_tflops: float
    attention_tflops: float
    memory_gib: float
    is_estimate: bool = True


H200 = GpuType(name="H200", products_tflops=657, attention_tflops=680, memory_gib=139, is_estimate=False)
"""Source: lynx_model/README.md, a compiled forward of 783 + 879 TFLOP in 1192 + 1293 ms."""

GPU_TYPES = (
    H200,
    # Wan's own code reaches 353 TFLOP/s on an H100 and, at 480p, 358 on an H200: 0.98 of it.
    GpuType(name="H100", products_tflops=644, attention_tflops=666, memory_gib=79),
    # 70 % of 312 TFLOP/s; FlashAttention-2's published rate.
    GpuType(name="A100", products_tflops=218, attention_tflops=200, memory_gib=79),
)

OTHER = GpuType(name="other", products_tflops=657, attention_tflops=680, memory_gib=float("inf"))
"""A device without figures, such as a CPU: only ratios between clips mean anything until a run was measured."""


def gpu_type(device: str) -> GpuType:
    """The type of a device by what its driver or Ray calls it, such as "NVIDIA H100 80GB HBM3"; `OTHER` if unknown."""
    return next((gpu for gpu in GPU_TYPES if gpu.name in device), OTHER)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """The dimensions of a DiT that decide how long a forward takes. The defaults are Wan2.1-14B's with Lynx-full's."""

    num_layers: int = 40
    channels: int = 5120
    ffn_channels: int = 13_824
    num_adapters: int = 2
    has_image_guidance: bool = True

    @property
    def num_parameters(self) -> int:
        """Of the blocks; each adapter holds a key and a value projection a block."""
        d = self.channels
        return self.num_layers * (8 * d * d + 2 * d * self.ffn_channels + 2 * self.num_adapters * d * d)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a clip asks of a GPU; clips that differ in words and faces alone are the same work."""

    products_tflop: float
    attention_tflop: float
    megapixels: float
    num_tokens: int


KIND = attrgetter(
    *("width", "height", "num_frames", "num_inference_steps"),
    *("guidance_scale", "guidance_scale_image", "guidance_until"),
)
"""What of a clip's parameters its work depends on."""


def work_of(params: RenderParams, model: ModelSize) -> Work:
    """The work of one clip. Keys and values of text and subject are computed once a clip, so they do not count."""
    tokens = num_tokens(width=params.width, height=params.height, num_frames=params.num_frames)
    forwards = num_forwards(params, has_image_guidance=model.has_image_guidance)
    d, layers = model.channels, model.num_layers
    return Work(
        products_tflop=forwards * layers * 2 * tokens * (6 * d * d + 2 * d * model.ffn_channels) / 1e12,
        attention_tflop=forwards * layers * 4 * d * tokens**2 / 1e12,
        megapixels=params.width * params.height * params.num_frames / 1e6,
        num_tokens=tokens,
    )


def works_of(clips: Iterable[RenderParams], model: ModelSize) -> list[Work]:
    """The work of each of many clips, most of which are of few kinds."""
    kinds: dict[Hashable, Work] = {}
    works = []
    for params in clips:
        kind = KIND(params)
        if kind not in kinds:
            kinds[kind] = work_of(params, model)
        works.append(kinds[kind])
    return works


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """For how long a rendered clip kept its group of `group_size` busy."""

    gpu: GpuType
    group_size: int
    work: Work
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CostModel:
    """Predicts seconds and memory. `factors` are measured over predicted seconds, by GPU type and group size."""

    model: ModelSize = ModelSize()
    factors: Mapping[tuple[str, int], float] = field(default_factory=dict)

    def fitted(self, observations: Iterable[Observation]) -> "CostModel":
        """This model, corrected by the median ratio of each GPU type and group size: outliers do not count."""
        shipped = CostModel(model=self.model)
        ratios = sorted(
            ((o.gpu.name, o.group_size), o.seconds / shipped.seconds(o.work, o.group_size, o.gpu)) for o in observations
        )
        groups = groupby(ratios, key=lambda ratio: ratio[0])
        return CostModel(model=self.model, factors={key: median(ratio for _, ratio in group) for key, group in groups})

    def seconds(self, work: Work, group_size: int, gpu: GpuType) -> float:
        """How long a clip keeps a group busy."""
        others = work.megapixels * DECODE_S_PER_MPX + FIXED_S
        return self._factor(group_size, gpu) * (_denoise_s(work, group_size, gpu) + others)

    def is_known(self, gpu: GpuType) -> bool:
        """Whether there are figures for the device, shipped or measured: else only ratios between clips mean anything."""
        return gpu is not OTHER or any(name == gpu.name for name, _ in self.factors)

    def impossible_s(self, work: Work, group_size: int, gpu: GpuType) -> float:
        """Whoever has denoised in less did not denoise; 0 on a device without figures."""
        return 0.0 if gpu is OTHER else IMPOSSIBLE_SHARE * _denoise_s(work, group_size, gpu)

    def fits(self, work: Work, group_size: int, gpu: GpuType) -> bool:
        """Whether the weights, which every rank holds, and a rank's share of the tokens fit the device."""
        weights_gib = self.model.num_parameters * 2 / 2**30
        activations_gib = ACTIVATION_GIB_PER_TOKEN * work.num_tokens / ParallelPlan.of_size(group_size).ulysses
        return weights_gib + TEXT_AND_VAE_GIB + activations_gib <= gpu.memory_gib

    def _factor(self, group_size: int, gpu: GpuType) -> float:
        """Of this size, else that of the measured size nearest to it."""
        sizes = [size for name, size in self.factors if name == gpu.name]
        return self.factors[gpu.name, min(sizes, key=lambda size: abs(size - group_size))] if sizes else 1.0


def _denoise_s(work: Work, group_size: int, gpu: GpuType) -> float:
    on_one_s = work.products_tflop / gpu.products_tflops + work.attention_tflop / gpu.attention_tflops
    return on_one_s / (group_size * EFFICIENCY[group_size])
