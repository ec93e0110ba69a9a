"""Decoding at the true size: 81 frames of 832x480 through a VAE of the published shape with random weights."""

from collections.abc import Callable
from statistics import median

import pytest
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from lynx_model.bench.case import BenchCase
from lynx_model.bench.stages import random_vae
from lynx_model.bench.timing import time_ms
from lynx_model.geometry import latent_shape
from lynx_model.network.decoder import VideoDecoder
from tests.models import forbid_tf32

CUDA = torch.device("cuda")
NUM_RUNS = 3


def same_vae() -> AutoencoderKLWan:
    torch.manual_seed(0)
    return random_vae(BenchCase(), CUDA)


def error(decode: Callable[[], Tensor], exact: Tensor) -> float:
    return float((decode().float().cpu() - exact).abs().mean())


@pytest.mark.gpu(1)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@torch.inference_mode()
def test_a_compiled_decode_is_faster_than_diffusers_own_and_closer_to_float32() -> None:
    forbid_tf32()
    latents = torch.randn(latent_shape(width=832, height=480, num_frames=81), device=CUDA).bfloat16()
    exact = same_vae().decode(latents.float()).sample.cpu()
    vae, decoder = same_vae().bfloat16(), VideoDecoder(same_vae().bfloat16(), is_compiled=True)

    def plain() -> Tensor:
        return vae.decode(latents).sample

    def own() -> Tensor:
        return torch.cat([pixels.clamp(-1, 1) for pixels in decoder.pixels(latents)], dim=2)

    assert error(own, exact) <= error(plain, exact)
    plain_ms, own_ms = (median(time_ms(run, CUDA) for _ in range(NUM_RUNS)) for run in (plain, own))
    assert plain_ms / own_ms >= 1.65
