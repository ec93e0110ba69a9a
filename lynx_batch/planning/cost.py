"""How long a clip keeps a group busy, and how much memory it takes: shipped figures, refined by what earlier runs took.

seconds of a clip = factor x (forwards x (products + attention) / (GPUs x efficiency) + decoding + a fixed part)

Encoding and upload run beside the next clip.
"""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from statistics import median

from lynx_model.engine.memory import GIB, PUBLISHED_FULL, ClipSize, ModelSize, plan_memory
from lynx_model.geometry import num_tokens
from lynx_model.guidance import num_forwards, plan_branches
from lynx_model.spec import EngineOptions, ParallelPlan, RenderParams

DECODE_S_PER_MPX = 1.00 / 32.35
"""Compiled, in bfloat16, on one H200: 81 frames of 832x480. Source: lynx_model/README.md."""

FIXED_S = 0.3
"""Text and what the adapters attend to, on one H200; the photo was read before. Source: lynx_model/README.md."""

LOAD_S = 60.0
"""From a group's birth to its first clip, compiling included; an estimate: 9 s of loading were seen from files in memory."""

EFFICIENCY = {
    1: (1.0, 1.0, 1.0),
    2: (0.90, 1.0, 0.952),
    3: (0.33, 0.67, 1.0),
    4: (0.885, 0.872, 0.867),
    6: (0.29, 0.58, 0.87),
    8: (0.80, 0.85, 0.83),
}
"""T1 / (N x TN) of a step of one, two and three guidance branches on N GPUs, shared as `ParallelPlan.of_size` does.

Source: 2, 4 and three branches on 3 are measured (lynx_model/README.md). The others are estimates: on 3 and 6 ranks without a branch
idle, 8 is near Wan's own table for 720p on H100s.
"""

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


H200 = GpuType(name="H200", products_tflops=666, attention_tflops=687, memory_gib=139, is_estimate=False)
"""Source: lynx_model/README.md, a compiled forward of 783 + 879 TFLOP in 1176 + 1280 ms."""

GPU_TYPES = (
    H200,
    # Wan's own code reaches 353 TFLOP/s on an H100 and, at 480p, 358 on an H200: 0.98 of it.
    GpuType(name="H100", products_tflops=653, attention_tflops=673, memory_gib=79),
    # 70 % of 312 TFLOP/s; FlashAttention-2's published rate.
    GpuType(name="A100", products_tflops=218, attention_tflops=200, memory_gib=79),
)

OTHER = GpuType(name="other", products_tflops=666, attention_tflops=687, memory_gib=float("inf"))
"""A device without figures, such as a CPU: only ratios between clips mean anything until a run was measured."""


def gpu_type(device: str) -> GpuType:
    """The type of a device by what its driver or Ray calls it, such as "NVIDIA H100 80GB HBM3"; `OTHER` if unknown."""
    return next((gpu for gpu in GPU_TYPES if gpu.name in device), OTHER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What renders: the model, the engine that runs it, and whether it has image guidance. The defaults are Lynx-full as published."""

    size: ModelSize = PUBLISHED_FULL
    options: EngineOptions = field(default_factory=EngineOptions)
    has_image_guidance: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a clip asks of a GPU; clips that differ in words and faces alone are the same work.

    `num_branches` are those of a guided step.
    """

    products_tflop: float
    attention_tflop: float
    num_branches: int
    clip: ClipSize

    @property
    def megapixels(self) -> float:
        return self.clip.width * self.clip.height * self.clip.num_frames / 1e6


KIND = attrgetter(
    *("width", "height", "num_frames", "num_inference_steps"),
    *("guidance_scale", "guidance_scale_image", "guidance_until"),
)
"""What of a clip's parameters its work depends on."""


def work_of(params: RenderParams, engine: Engine) -> Work:
    """The work of one clip. Keys and values of text and subject are computed once a clip, so they do not count."""
    tokens = num_tokens(width=params.width, height=params.height, num_frames=params.num_frames)
    num_branches = len(plan_branches(params, step=0, has_image_guidance=engine.has_image_guidance))
    forwards = num_forwards(params, has_image_guidance=engine.has_image_guidance)
    d, blocks = engine.size.channels, engine.size.num_blocks
    return Work(
        products_tflop=forwards * blocks * 2 * tokens * (6 * d * d + 2 * d * engine.size.ff_width) / 1e12,
        attention_tflop=forwards * blocks * 4 * d * tokens**2 / 1e12,
        num_branches=num_branches,
        clip=ClipSize(
            width=params.width, height=params.height, num_frames=params.num_frames, has_guidance=num_branches > 1
        ),
    )


def works_of(clips: Iterable[RenderParams], engine: Engine) -> list[Work]:
    """The work of each of many clips, most of which are of few kinds."""
    kinds: dict[Hashable, Work] = {}
    works = []
    for params in clips:
        kind = KIND(params)
        if kind not in kinds:
            kinds[kind] = work_of(params, engine)
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

    engine: Engine = Engine()
    factors: Mapping[tuple[str, int], float] = field(default_factory=dict)

    def fitted(self, observations: Iterable[Observation]) -> "CostModel":
        """This model, corrected by the median ratio of each GPU type and group size: outliers do not count."""
        shipped = CostModel(engine=self.engine)
        ratios = sorted(
            ((o.gpu.name, o.group_size), o.seconds / shipped.seconds(o.work, o.group_size, o.gpu)) for o in observations
        )
        groups = groupby(ratios, key=lambda ratio: ratio[0])
        return CostModel(
            engine=self.engine, factors={key: median(ratio for _, ratio in group) for key, group in groups}
        )

    def seconds(self, work: Work, group_size: int, gpu: GpuType) -> float:
        """How long a clip keeps a group busy."""
        others = work.megapixels * DECODE_S_PER_MPX + FIXED_S
        return self._factor(group_size, gpu) * (_denoise_s(work, group_size, gpu) + others)

    def is_known(self, gpu: GpuType) -> bool:
        """Whether there are figures for the device, shipped or measured: else only ratios between clips mean anything."""
        return gpu is not OTHER or any(name == gpu.name for name, _ in self.factors)

    def min_plausible_s(self, work: Work, group_size: int, gpu: GpuType) -> float:
        """Whoever has denoised in less did not denoise; 0 on a device without figures."""
        return 0.0 if gpu is OTHER else IMPOSSIBLE_SHARE * _denoise_s(work, group_size, gpu)

    def fits(self, work: Work, group_size: int, gpu: GpuType) -> bool:
        """Whether a clip of that work, shared by such a group, fits each of its devices."""
        plan = ParallelPlan.of_size(group_size)
        return plan_memory(self.engine.size, work.clip, self.engine.options, plan).fits(gpu.memory_gib * GIB)

    def _factor(self, group_size: int, gpu: GpuType) -> float:
        """Of this size, else that of the measured size nearest to it."""
        sizes = [size for name, size in self.factors if name == gpu.name]
        return self.factors[gpu.name, min(sizes, key=lambda size: abs(size - group_size))] if sizes else 1.0


def _denoise_s(work: Work, group_size: int, gpu: GpuType) -> float:
    on_one_s = work.products_tflop / gpu.products_tflops + work.attention_tflop / gpu.attention_tflops
    return on_one_s / (group_size * EFFICIENCY[group_size][work.num_branches - 1])
