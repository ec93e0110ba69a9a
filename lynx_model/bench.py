"""How fast a forward of the true size is, beside what its matrix products and self-attention take alone on the same card.

Weights and inputs are random and never zeros (zeros draw less power, so a card runs faster on them). All figures of a report
come from one process, so they can be divided by each other.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed
from torch import Tensor, nn

from lynx_model.adapters import CrossAttentionInputs
from lynx_model.attention import choose_attention
from lynx_model.geometry import latent_shape, num_tokens
from lynx_model.headers import AdapterSpec, ResamplerShape
from lynx_model.spec import ALIGNED_FACE_PX, EngineOptions, ParallelPlan
from lynx_model.text import NUM_TEXT_TOKENS
from lynx_model.transformer import BlockConditioning, Conditioning, LynxTransformer

WEIGHT_STD = 0.02
TIMESTEP = 900
NUM_IDENTITY_TOKENS = 16
DTYPE = torch.bfloat16
CALLS_IN_A_ROW = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchCase:
    """The model's size and the clip's; the defaults are what was published."""

    num_blocks: int = 40
    num_heads: int = 40
    head_dim: int = 128
    ff_width: int = 13824
    text_size: int = 4096
    width: int = 832
    height: int = 480
    num_frames: int = 81

    @property
    def channels(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def num_tokens(self) -> int:
        return num_tokens(width=self.width, height=self.height, num_frames=self.num_frames)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One way to carry out a forward.

    `ms` is the median of several; `first_s` is the first call, compilation included; `error` is relative to the eager
    forward through torch's own attention (Frobenius norm).
    """

    name: str
    ms: float
    first_s: float
    peak_gib: float
    error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchReport:
    """`floor_*_ms`: the forward's matrix products and its self-attention, each timed alone at its own shape."""

    device: str
    torch_version: str
    num_tokens: int
    floor_products_ms: float
    floor_attention_ms: float
    measurements: tuple[Measurement, ...]

    @property
    def floor_ms(self) -> float:
        return self.floor_products_ms + self.floor_attention_ms


@torch.inference_mode()
def bench_forward(case: BenchCase, *, device: torch.device, num_runs: int = 5) -> BenchReport:
    """Measures one guidance branch of one step of Lynx-full in bfloat16: eager and compiled, on each kernel of interest."""
    torch.manual_seed(0)
    model = random_transformer(case, device)
    model.set_up(plan=ParallelPlan(), engine=EngineOptions(attention="sdpa"))
    forward = _random_forward(case, model, device)
    expected = forward()
    measurements = []
    for engine in _engines(case, device):
        model.set_up(plan=ParallelPlan(), engine=engine)
        measurements.append(_measure(engine, forward, expected, device, num_runs))
    return BenchReport(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        torch_version=torch.__version__,
        num_tokens=case.num_tokens,
        floor_products_ms=_time_products(case, device, num_runs),
        floor_attention_ms=_time_attention(case, device, num_runs),
        measurements=tuple(measurements),
    )


def random_transformer(case: BenchCase, device: torch.device) -> LynxTransformer:
    """Lynx-full of the size of `case` with random weights on `device`; what diffusers keeps in float32 is float32."""
    with torch.device("meta"):
        model = LynxTransformer(
            num_layers=case.num_blocks,
            num_attention_heads=case.num_heads,
            attention_head_dim=case.head_dim,
            ffn_dim=case.ff_width,
            text_dim=case.text_size,
        )
        model.attach_adapters(_adapters(case))
    kept = set(model._keep_in_fp32_modules)
    for name, parameter in list(model.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        dtype = torch.float32 if kept & set(name.split(".")) else DTYPE
        weight = torch.empty(parameter.shape, device=device, dtype=dtype).normal_(std=WEIGHT_STD)
        setattr(model.get_submodule(owner), leaf, nn.Parameter(weight, requires_grad=False))
    model.rope = WanRotaryPosEmbed(case.head_dim, model.config.patch_size, model.config.rope_max_seq_len).to(device)
    model.arrange_weights(EngineOptions(), device)
    return model.eval()  # type: ignore[no-any-return]


def _adapters(case: BenchCase) -> AdapterSpec:
    resampler = ResamplerShape(
        depth=4,
        width=1280,
        inner_width=1280,
        ff_width=5120,
        num_queries=16,
        embedding_size=512,
        token_size=case.channels,
    )
    return AdapterSpec(
        token_size=case.channels,
        channels=case.channels,
        num_id_layers=case.num_blocks,
        has_id_bias=True,
        num_registers=16,
        num_ref_layers=case.num_blocks,
        resampler=resampler,
        identity_encoder="none",
    )


def _random_forward(case: BenchCase, model: LynxTransformer, device: torch.device) -> Callable[[], Tensor]:
    """A forward of `model` on inputs that stay the same."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, dtype=DTYPE)

    face = latent_shape(width=ALIGNED_FACE_PX, height=ALIGNED_FACE_PX, num_frames=1)
    text = model.text_keys_values(draw(1, NUM_TEXT_TOKENS, case.text_size))
    identity = model.identity_keys_values(draw(1, NUM_IDENTITY_TOKENS, case.channels))
    reference = model.reference_keys_values(draw(*face), text)
    blocks = zip(text, identity, reference, strict=True)
    conditioning = Conditioning(tuple(BlockConditioning(CrossAttentionInputs(t, i), r) for t, i, r in blocks))
    latents = draw(*latent_shape(width=case.width, height=case.height, num_frames=case.num_frames))
    timestep = torch.tensor([TIMESTEP], device=device)
    return lambda: model.predict(latents, timestep, [conditioning])[0]


def _engines(case: BenchCase, device: torch.device) -> list[EngineOptions]:
    """Torch's own attention and the fastest that works here, eager and compiled."""
    own, best = (
        choose_attention(name, device=device, dtype=DTYPE, head_dim=case.head_dim) for name in ("sdpa", "auto")
    )
    names = ["sdpa"] if own is best else ["sdpa", "auto"]
    return [EngineOptions(attention=name, compile=is_compiled) for is_compiled in (False, True) for name in names]


def _measure(
    engine: EngineOptions, forward: Callable[[], Tensor], expected: Tensor, device: torch.device, num_runs: int
) -> Measurement:
    is_cuda = device.type == "cuda"
    if is_cuda:
        torch.cuda.reset_peak_memory_stats(device)
    first_s = _time_ms(forward, device) / 1000
    error = (forward().float() - expected.float()).norm() / expected.float().norm()
    return Measurement(
        name=f"{'compiled' if engine.compile else 'eager'}, attention {engine.attention}",
        ms=median(_time_ms(forward, device) for _ in range(num_runs)),
        first_s=first_s,
        peak_gib=torch.cuda.max_memory_allocated(device) / 2**30 if is_cuda else 0.0,
        error=float(error),
    )


def _time_products(case: BenchCase, device: torch.device, num_runs: int) -> float:
    """The blocks' linear layers on all tokens: six of channels to channels, and the two of the feed-forward network."""
    shapes = {(case.channels, case.channels): 6, (case.channels, case.ff_width): 1, (case.ff_width, case.channels): 1}
    total_ms = 0.0
    for (inputs, outputs), number in shapes.items():
        tokens = torch.randn(case.num_tokens, inputs, device=device, dtype=DTYPE)
        layer = nn.Linear(inputs, outputs, device=device, dtype=DTYPE)
        total_ms += number * _median_ms(partial(layer, tokens), device, num_runs)
    return case.num_blocks * total_ms


def _time_attention(case: BenchCase, device: torch.device, num_runs: int) -> float:
    attend = choose_attention("auto", device=device, dtype=DTYPE, head_dim=case.head_dim)
    shape = (1, case.num_tokens, case.num_heads, case.head_dim)
    query, key, value = (torch.randn(shape, device=device, dtype=DTYPE) for _ in range(3))
    return case.num_blocks * _median_ms(lambda: attend(query, key, value), device, num_runs)


def _median_ms(call: Callable[[], Tensor], device: torch.device, num_runs: int) -> float:
    """Median time of one call among as many in a row as a forward has, so that the card is as warm as in a forward."""

    def sustained() -> None:
        for _ in range(CALLS_IN_A_ROW):
            call()

    sustained()
    return median(_time_ms(sustained, device) for _ in range(num_runs)) / CALLS_IN_A_ROW


def _time_ms(call: Callable[[], object], device: torch.device) -> float:
    if device.type != "cuda":
        started_s = time.perf_counter()
        call()
        return (time.perf_counter() - started_s) * 1000
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    torch.cuda.synchronize(device)
    return float(start.elapsed_time(end))
