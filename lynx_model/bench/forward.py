"""Measures a forward of the true size, other implementations of it, and its main kernels alone on the same GPU.

All figures of a report come from one process, so their ratios are meaningful.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from torch import Tensor, nn

from lynx_model.bench.baselines import baselines, forward_like
from lynx_model.bench.case import DTYPE, BenchCase, forward_of, random_inputs, random_transformer
from lynx_model.bench.timing import time_ms, time_sustained_ms
from lynx_model.engine.attention import FP8_KERNEL, choose_attention, missing_needs
from lynx_model.engine.precision import quantize_blocks
from lynx_model.fp8_attention import Fp8Attention
from lynx_model.spec import ONE_GPU, EngineOptions

NUM_STEPS = 50
BF16, FP8 = "compiled, bfloat16", "compiled, fp8 linears"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The measurements of one implementation of a forward.

    `ms` is the median of several calls; `first_s` is the first call, including compilation; `error` is relative to our own eager
    forward in bfloat16 (Frobenius norm); `clip_s` is the time to denoise a clip in 50 steps.
    """

    name: str
    ms: float
    first_s: float
    peak_gib: float
    error: float
    tflops: float
    clip_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchReport:
    """`floor_*_ms` are the forward's matrix products and its self-attention in bfloat16, each timed alone with the real shape."""

    device: str
    torch_version: str
    case: BenchCase
    floor_products_ms: float
    floor_attention_ms: float
    measurements: tuple[Measurement, ...]

    @property
    def floor_ms(self) -> float:
        return self.floor_products_ms + self.floor_attention_ms


class ForwardBench:
    """The model of a case, and its measurements so far."""

    def __init__(self, case: BenchCase, device: torch.device, num_runs: int) -> None:
        self.case, self.device, self.num_runs = case, device, num_runs
        self.model = random_transformer(case, device)
        self.inputs = random_inputs(case, self.model, device)
        self.expected = forward_of(self.model, self.inputs)()
        self.measurements: list[Measurement] = []

    def measure(self, name: str, forward: Callable[[], Tensor], after_each: Callable[[], None] = lambda: None) -> None:
        """Adds a row. `after_each` runs after each timed forward."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        first_s = time_ms(forward, self.device) / 1000
        error = (forward().float() - self.expected.float()).norm() / self.expected.float().norm()
        times_ms = []
        for _ in range(self.num_runs):
            times_ms.append(time_ms(forward, self.device))
            after_each()
        ms = median(times_ms)
        self.measurements.append(
            Measurement(
                name=name,
                ms=ms,
                first_s=first_s,
                peak_gib=peak_gib(self.device),
                error=float(error),
                tflops=self.case.flop / ms / 1e9,
                clip_s=NUM_STEPS * self.case.num_branches * ms / 1000,
            )
        )

    def measure_engine(self, name: str, engine: EngineOptions, after_each: Callable[[], None] = lambda: None) -> None:
        self.model.set_up(plan=ONE_GPU, engine=engine)
        self.measure(name, forward_of(self.model, self.inputs), after_each)


@torch.inference_mode()
def bench_forward(case: BenchCase, *, device: torch.device, num_runs: int = 5) -> BenchReport:
    """Measures one guidance branch of one step: the baselines, then ours eager, compiled, and in fp8 if the device supports it."""
    torch.manual_seed(0)
    bench, floor = ForwardBench(case, device, num_runs), Floor(case, device)
    for baseline in baselines(device):
        bench.measure(baseline.name, forward_like(baseline, bench.model, bench.inputs))
    bench.measure_engine("eager, bfloat16", EngineOptions())
    bench.measure_engine(BF16, EngineOptions(compile=True), after_each=floor.measure)
    quantize_blocks(bench.model.blocks, num_bf16_edge_blocks=0, device=device)
    bench.measure_engine(FP8, EngineOptions(compile=True))
    if missing_needs(device=device, dtype=DTYPE, head_dim=case.head_dim)[FP8_KERNEL] is None:
        bench.measure_engine(f"{FP8} and attention", EngineOptions(attention=FP8_KERNEL, compile=True))
        centered = EngineOptions(fp8_attention=Fp8Attention(), compile=True)
        bench.measure_engine(f"{FP8} and smooth attention", centered)
    return BenchReport(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        torch_version=torch.__version__,
        case=case,
        floor_products_ms=floor.products_ms,
        floor_attention_ms=floor.attention_ms,
        measurements=tuple(bench.measurements),
    )


class Floor:
    """Times the matrix products and the self-attention of a forward alone; each call of `measure` adds a sample."""

    def __init__(self, case: BenchCase, device: torch.device) -> None:
        self._case, self._device = case, device
        self._products: list[float] = []
        self._attention: list[float] = []

    def measure(self) -> None:
        case = self._case
        attend = choose_attention("auto", device=self._device, dtype=DTYPE, head_dim=case.head_dim)
        query, key, value = (self._draw(1, case.num_tokens, case.num_heads, case.head_dim) for _ in range(3))
        self._attention.append(time_sustained_ms(lambda: attend(query, key, value), self._device))
        self._products.append(sum(self._product_ms(*shape) for shape in self._shapes()))

    @property
    def products_ms(self) -> float:
        """The matrix products of all blocks."""
        return self._case.num_blocks * median(self._products)

    @property
    def attention_ms(self) -> float:
        """The self-attention of all blocks."""
        return self._case.num_blocks * median(self._attention)

    def _shapes(self) -> list[tuple[int, int, int]]:
        """(inputs, outputs, count) of a block's linear layers that process all tokens."""
        channels, ff_width = self._case.channels, self._case.ff_width
        return [(channels, channels, 6), (channels, ff_width, 1), (ff_width, channels, 1)]

    def _product_ms(self, inputs: int, outputs: int, count: int) -> float:
        layer = nn.Linear(inputs, outputs, device=self._device, dtype=DTYPE)
        return count * time_sustained_ms(partial(layer, self._draw(self._case.num_tokens, inputs)), self._device)

    def _draw(self, *shape: int) -> Tensor:
        return torch.randn(shape, device=self._device, dtype=DTYPE)


def peak_gib(device: torch.device) -> float:
    """Peak memory of tensors since the last reset; 0 on a CPU."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0
