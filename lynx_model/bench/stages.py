"""Measures each stage of a clip with modules of the true size and random weights. One stage's modules are freed before the next.

Shapes: B batch, C channels, F frames, H rows, W columns, S tokens of text.
"""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from statistics import median

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import UMT5Config, UMT5EncoderModel

from lynx_model.bench.case import DTYPE, BenchCase, draw_weights
from lynx_model.bench.forward import BF16, BenchReport, peak_gib
from lynx_model.bench.timing import time_ms
from lynx_model.geometry import latent_shape
from lynx_model.network.decoder import VideoDecoder
from lynx_model.network.text import TextEncoder
from lynx_model.network.vae import decode_frames, grey_levels
from lynx_model.spec import NUM_TEXT_TOKENS, TextPlacement
from lynx_model.tokenizer import TokenIds

CONV_GAIN = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTime:
    """One implementation of a stage. `seconds` is the median of several runs, `peak_gib` the stage's peak of device memory."""

    stage: str
    baseline: str
    seconds: float
    peak_gib: float


class StageBench:
    """Measures the stages of a case's clip; `times` has the results so far."""

    def __init__(self, case: BenchCase, device: torch.device, num_runs: int) -> None:
        self._case, self._device, self._num_runs = case, device, num_runs
        self.times: list[StageTime] = []

    def measure(self, stage: str, baseline: str, call: Callable[[], object]) -> None:
        """Adds a row, after a warm-up call."""
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)
        call()
        ms = median(time_ms(call, self._device) for _ in range(self._num_runs))
        self.times.append(StageTime(stage=stage, baseline=baseline, seconds=ms / 1000, peak_gib=peak_gib(self._device)))

    def measure_text(self) -> None:
        """Measures a prompt of maximal length, with the encoder on the device and then in host memory."""
        encoder = random_text_encoder(self._case, self._device)
        self._measure_text(encoder, "resident")
        self._measure_text(encoder.cpu(), "staged")

    def measure_decode(self) -> NDArray[np.uint8]:
        """Measures our decoder on random latents; returns the frames."""
        vae = random_vae(self._case, self._device).bfloat16()
        decode = partial(decode_frames, vae, VideoDecoder(vae, is_compiled=True), self._draw_latents())
        self.measure("decode", "compiled, bfloat16", decode)
        return decode()

    def measure_plain_decode(self) -> None:
        """Measures diffusers' decoder on random latents."""
        vae, latents_BCFHW = random_vae(self._case, self._device).bfloat16(), self._draw_latents().to(DTYPE)
        self.measure("decode", "diffusers, bfloat16", lambda: grey_levels(vae.decode(latents_BCFHW).sample).cpu())

    def _measure_text(self, encoder: UMT5EncoderModel, placement: TextPlacement) -> None:
        tokenizer, unread = _RandomTokens(self._case.vocabulary_size), count()
        text = TextEncoder(tokenizer, encoder, device=self._device, placement=placement)
        self.measure("text", placement, lambda: text.embed(str(next(unread))))

    def _draw_latents(self) -> Tensor:
        case = self._case
        shape = latent_shape(width=case.width, height=case.height, num_frames=case.num_frames)
        return torch.randn(shape, device=self._device)


@torch.inference_mode()
def bench_stages(
    report: BenchReport,
    *,
    device: torch.device,
    num_runs: int = 5,
    read_subject: Callable[[], object] | None = None,
    encode: Callable[[NDArray[np.uint8]], object] | None = None,
) -> list[StageTime]:
    """Measures all stages in order. The first row of a stage is our implementation, a second one is an alternative.

    Args:
        report: Has the time of the case's denoising.
        device: Where the modules are.
        num_runs: Measurements per row.
        read_subject: Turns a photo into a subject; None leaves out the row.
        encode: Encodes uint8 (F, H, W, 3) RGB frames into a file; None leaves out the row.
    """
    torch.manual_seed(0)
    bench = StageBench(report.case, device, num_runs)
    if read_subject is not None:
        bench.measure("subject", "host", read_subject)
    bench.measure_text()
    bench.times.append(_denoise(report))
    frames_FHWC = bench.measure_decode()
    bench.measure_plain_decode()
    if encode is not None:
        bench.measure("encode", "host", lambda: encode(frames_FHWC))
    return bench.times


def own_stages(times: Sequence[StageTime]) -> list[StageTime]:
    """The first row of each stage, which is our implementation. Together they make up a clip."""
    return [time for index, time in enumerate(times) if time.stage not in {other.stage for other in times[:index]}]


def random_vae(case: BenchCase, device: torch.device) -> AutoencoderKLWan:
    """A random VAE in float32. Its convolutions preserve the signal's magnitude, so that the picture is neither flat nor clipped."""
    with device:
        vae = AutoencoderKLWan(base_dim=case.vae_channels)
    for layer in vae.modules():
        if isinstance(layer, (nn.Conv2d, nn.Conv3d)):
            nn.init.normal_(layer.weight, std=(CONV_GAIN / layer.weight[0].numel()) ** 0.5)
    return vae.eval()


def _denoise(report: BenchReport) -> StageTime:
    (compiled,) = [m for m in report.measurements if m.name == BF16]
    return StageTime(stage="denoise", baseline=BF16, seconds=compiled.clip_s, peak_gib=compiled.peak_gib)


class _RandomTokens:
    """A stand-in for a tokenizer: each prompt gets new random tokens, as many as the model reads."""

    def __init__(self, vocabulary_size: int) -> None:
        self._vocabulary_size = vocabulary_size

    def read(self, texts: Sequence[str]) -> list[TokenIds]:
        tokens_BS = torch.randint(self._vocabulary_size, (len(texts), NUM_TEXT_TOKENS))
        return [tuple(tokens_S.tolist()) for tokens_S in tokens_BS]


def random_text_encoder(case: BenchCase, device: torch.device) -> UMT5EncoderModel:
    """A random text encoder in bfloat16, with one token embedding under both its names."""
    config = UMT5Config(
        vocab_size=case.vocabulary_size,
        d_model=case.text_size,
        d_ff=case.text_ff_width,
        num_heads=case.num_text_heads,
        num_layers=case.num_text_blocks,
    )
    with torch.device("meta"):
        encoder = UMT5EncoderModel(config)
    draw_weights(encoder, device)
    encoder.set_input_embeddings(encoder.shared)
    return encoder.eval()
