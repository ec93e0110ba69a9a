"""How long a clip keeps a group busy, and how much memory it needs: shipped figures, corrected by timings of earlier runs.

seconds of a clip = factor x (forwards x (products + attention) / (GPUs x efficiency) + decoding + a fixed part)

Forwards in which a step cache skips the blocks count almost nothing. How well GPUs share a step depends on the number of its branches.

Encoding and upload do not count, because they run in parallel with the next clip.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from statistics import median

from lynx_model.canonical import ModelTraits
from lynx_model.engine.memory import GIB, PUBLISHED_FULL, ClipSize, ModelSize, plan_memory
from lynx_model.geometry import num_tokens
from lynx_model.spec import EngineOptions, ParallelPlan, RenderParams
from lynx_model.step_plan import PlannedStep, plan_steps

DECODE_S_PER_MPX = 1.00 / 32.35
"""Compiled, in bfloat16, on one H200: 81 frames of 832x480. Source: lynx_model/MEASURED.md."""

FIXED_S = 0.3
"""Encoding the text and the adapters' inputs, on one H200; the photo has been read before. Source: lynx_model/MEASURED.md."""

LOAD_S = 60.0
"""From forming a group to its first clip, compilation included. An estimate: loading took 9 s from files in memory."""

EFFICIENCY = {
    1: (1.0, 1.0, 1.0),
    2: (0.90, 1.0, 0.952),
    3: (0.33, 0.67, 1.0),
    4: (0.895, 0.872, 0.89),
    6: (0.29, 0.58, 0.87),
    8: (0.80, 0.85, 0.83),
}
"""T1 / (N x TN) of a step with one, two and three guidance branches on N GPUs, split as `ParallelPlan.of_size` does.

Source: 2, 4 and three branches on 3 are measured (lynx_model/MEASURED.md). The others are estimates: on 3 and 6, ranks
without a branch are idle, and 8 is close to Wan's own table for 720p on H100s.
"""

IMPOSSIBLE_SHARE = 0.1
"""Denoising that took less than this share of the predicted time did not happen: no precision is that fast."""

SKIPPED_COST = 0.005
"""A forward that skips the blocks, in full ones: 0.003 to 0.007 on an H100. Source: lynx_model/MEASURED.md."""

PUBLISHED_TRAITS = ModelTraits(num_blocks=40, id_stride=1, has_ref=True, has_image_guidance=True, flow_shift=3.0)
"""Of Lynx-full as published."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuType:
    """The speed of a forward on a GPU, in TFLOP/s for its matrix products and its attention, and the memory of the device.

    `fp8_products` and `fp8_attention` say how many times as fast they are in fp8. `capability` is CUDA's compute capability.
    """

    name: str
    products_tflops: float
    attention_tflops: float
    memory_gib: float
    fp8_products: float = 1.0
    fp8_attention: float = 1.0
    capability: tuple[int, int] = (9, 0)
    is_estimate: bool = True


H200 = GpuType(
    name="H200",
    products_tflops=666,
    attention_tflops=687,
    memory_gib=139,
    fp8_products=1.60,
    fp8_attention=1.23,
    is_estimate=False,
)
"""A compiled forward of 783 + 879 TFLOP took 1176 + 1280 ms, in fp8 733 + 1043 ms. Source: lynx_model/MEASURED.md."""

H100 = GpuType(
    name="H100",
    products_tflops=635,
    attention_tflops=684,
    memory_gib=79,
    fp8_products=1.51,
    fp8_attention=1.17,
    is_estimate=False,
)
"""As `H200`: 1234 + 1286 ms, in fp8 818 + 1095 ms. Source: lynx_model/MEASURED.md."""

GPU_TYPES = (
    H200,
    H100,
    # 70 % of 312 TFLOP/s; FlashAttention-2's published rate.
    GpuType(name="A100", products_tflops=218, attention_tflops=200, memory_gib=79, capability=(8, 0)),
)

OTHER = GpuType(name="other", products_tflops=666, attention_tflops=687, memory_gib=float("inf"))
"""A device without figures, for example a CPU. Until a run has been measured, only ratios between clips are meaningful."""


def gpu_type(device: str) -> GpuType:
    """The type of a device from its name in the driver or Ray, for example "NVIDIA H100 80GB HBM3"; `OTHER` if unknown."""
    return next((gpu for gpu in GPU_TYPES if gpu.name in device), OTHER)


def named_gpu_types() -> dict[str, GpuType]:
    """The types that a run file may name, by their names in lower case; `OTHER` is the last."""
    return {gpu.name.lower(): gpu for gpu in (*GPU_TYPES, OTHER)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """The model, and the options of the engine that runs it. The defaults are Lynx-full as published."""

    size: ModelSize = PUBLISHED_FULL
    options: EngineOptions = field(default_factory=EngineOptions)
    traits: ModelTraits = PUBLISHED_TRAITS

    @property
    def fp8_share(self) -> float:
        """The share of the blocks whose products are in fp8."""
        if self.options.precision != "fp8":
            return 0.0
        return 1 - 2 * self.options.num_bf16_edge_blocks / self.size.num_blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The work of rendering a clip. Clips that differ only in prompt or face have equal work.

    `branch_shares` are the shares of its forwards in steps with one, two and three branches, `fp8_share` is that of those in steps that
    attend in fp8. `shares_left` has the share of its forwards that is left after each number of steps.
    """

    products_tflop: float
    attention_tflop: float
    fp8_share: float
    branch_shares: tuple[float, float, float]
    shares_left: tuple[float, ...]
    clip: ClipSize

    @property
    def megapixels(self) -> float:
        return self.clip.width * self.clip.height * self.clip.num_frames / 1e6

    def share_left(self, num_steps_done: int) -> float:
        """The share of its forwards that comes after its first steps."""
        return self.shares_left[min(num_steps_done, len(self.shares_left) - 1)]


WORK_FIELDS = attrgetter(
    *("width", "height", "num_frames", "num_inference_steps"),
    *("guidance_scale", "guidance_scale_image", "guidance_until", "image_guidance_every"),
)
"""The parameters of a clip that determine its work."""

STEPS_FIELDS = attrgetter(
    *("flow_shift", "ip_scale", "ip_start", "ip_end", "ip_blocks"),
    *("ref_scale", "ref_start", "ref_end", "ref_blocks"),
)
"""The parameters that do so only if some steps reuse what earlier ones computed, because they determine which steps may."""


def work_of(params: RenderParams, engine: Engine) -> Work:
    """The work of one clip. Keys and values of text and subject are computed once per clip, so they are left out."""
    tokens = num_tokens(width=params.width, height=params.height, num_frames=params.num_frames)
    steps = plan_steps(params, engine.traits, engine.options)
    forwards = sum(map(_forwards, steps))
    d, blocks = engine.size.channels, engine.size.num_blocks
    num_branches = max(len(step.branches) for step in steps)
    return Work(
        products_tflop=forwards * blocks * 2 * tokens * (6 * d * d + 2 * d * engine.size.ff_width) / 1e12,
        attention_tflop=forwards * blocks * 4 * d * tokens**2 / 1e12,
        fp8_share=sum(_forwards(step) for step in steps if step.is_attending_in_fp8) / forwards,
        branch_shares=_branch_shares(steps),
        shares_left=tuple(sum(map(_forwards, steps[done:])) / forwards for done in range(len(steps) + 1)),
        clip=ClipSize(
            width=params.width, height=params.height, num_frames=params.num_frames, num_branches=num_branches
        ),
    )


def _forwards(step: PlannedStep) -> float:
    """How many forwards a step costs, in full ones."""
    return len(step.branches) * (1.0 if step.is_full else SKIPPED_COST)


def _branch_shares(steps: Sequence[PlannedStep]) -> tuple[float, float, float]:
    total = sum(map(_forwards, steps))
    one, two, three = (sum(_forwards(step) for step in steps if len(step.branches) == n) / total for n in (1, 2, 3))
    return one, two, three


def works_of(clips: Iterable[RenderParams], engine: Engine) -> list[Work]:
    """The work of many clips, computed once for each kind. Equal works are one object."""
    has_cache = engine.options.step_cache is not None
    kinds: dict[Hashable, Work] = {}
    distinct: dict[Work, Work] = {}
    works = []
    for params in clips:
        is_reusing = has_cache or params.image_guidance_every > 1
        kind = (WORK_FIELDS(params), STEPS_FIELDS(params)) if is_reusing else WORK_FIELDS(params)
        if kind not in kinds:
            work = work_of(params, engine)
            kinds[kind] = distinct.setdefault(work, work)
        works.append(kinds[kind])
    return works


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """How long a rendered clip kept its group busy."""

    gpu: GpuType
    group_size: int
    work: Work
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CostModel:
    """Predicts seconds and memory. `factors`: measured / predicted seconds, by GPU type and group size."""

    engine: Engine = Engine()
    factors: Mapping[tuple[str, int], float] = field(default_factory=dict)

    def fitted(self, observations: Iterable[Observation]) -> "CostModel":
        """This model, corrected by the median ratio for each GPU type and group size, which outliers do not affect."""
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
        fixed_s = work.megapixels * DECODE_S_PER_MPX + FIXED_S
        return self._factor(group_size, gpu) * (self._denoise_s(work, group_size, gpu) + fixed_s)

    def is_known(self, gpu: GpuType) -> bool:
        """Whether there are figures for the device, shipped or measured. If not, only ratios between clips are meaningful."""
        return gpu is not OTHER or any(name == gpu.name for name, _ in self.factors)

    def min_plausible_s(self, work: Work, group_size: int, gpu: GpuType) -> float:
        """The shortest time in which denoising is plausible; 0 on a device without figures."""
        return 0.0 if gpu is OTHER else IMPOSSIBLE_SHARE * self._denoise_s(work, group_size, gpu)

    def fits(self, work: Work, group_size: int, gpu: GpuType) -> bool:
        """Whether the clip, split over a group of this size, fits the memory of each device."""
        plan = ParallelPlan.of_size(group_size)
        return plan_memory(self.engine.size, work.clip, self.engine.options, plan).fits(gpu.memory_gib * GIB)

    def _factor(self, group_size: int, gpu: GpuType) -> float:
        """The factor of this size, else of the nearest measured size, else 1."""
        sizes = [size for name, size in self.factors if name == gpu.name]
        return self.factors[gpu.name, min(sizes, key=lambda size: abs(size - group_size))] if sizes else 1.0

    def _denoise_s(self, work: Work, group_size: int, gpu: GpuType) -> float:
        fp8_share, share = self.engine.fp8_share, self._fp8_attention_share(work)
        products_s = work.products_tflop / gpu.products_tflops * (1 - fp8_share + fp8_share / gpu.fp8_products)
        attention_s = work.attention_tflop / gpu.attention_tflops * (1 - share + share / gpu.fp8_attention)
        slowdown = sum(
            branches / efficiency
            for branches, efficiency in zip(work.branch_shares, EFFICIENCY[group_size], strict=True)
        )
        return (products_s + attention_s) * slowdown / group_size

    def _fp8_attention_share(self, work: Work) -> float:
        """The share of the attention that is computed in fp8."""
        options = self.engine.options
        if options.fp8_attention is None:
            return 1.0 if options.attention == "fa3_fp8" else 0.0
        return work.fp8_share * options.fp8_attention.share_of_blocks(self.engine.traits.num_blocks)
