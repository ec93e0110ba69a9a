"""The decoder gives the pictures of diffusers' own, however it is run."""

from collections.abc import Callable

import pytest
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from lynx_model.network.decoder import VideoDecoder
from tests.models import BASE

LATENTS = (1, 16, 4, 6, 5)


@pytest.fixture
def vae() -> AutoencoderKLWan:
    return AutoencoderKLWan.from_pretrained(BASE / "vae").eval()


def decode(decoder: VideoDecoder, latents: Tensor, **options: int) -> Tensor:
    return torch.cat(list(decoder.pixels(latents, **options)), dim=2)


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
@pytest.mark.parametrize("num_latents", [1, 2, 4])
def test_the_pixels_are_those_of_diffusers(vae: AutoencoderKLWan, num_latents: int) -> None:
    latents = draw(2, 16, num_latents, 6, 5)
    expected = vae.decode(latents).sample
    pixels = decode(VideoDecoder(vae, is_compiled=False), latents)
    assert pixels.std() > 0.05, "a flat picture would prove nothing"
    assert (pixels.clamp(-1, 1) - expected).abs().max() < 1e-5


@torch.inference_mode()
def test_where_a_clip_is_cut_does_not_change_it(vae: AutoencoderKLWan) -> None:
    decoder, latents = VideoDecoder(vae, is_compiled=False), draw(*LATENTS)
    one, two, all_later = (decode(decoder, latents, latents_at_once=number) for number in (1, 2, 3))
    assert (one - two).abs().max() < 1e-5
    assert (one - all_later).abs().max() < 1e-5


@torch.inference_mode()
def test_bfloat16_is_closer_to_float32_than_diffusers_own(vae: AutoencoderKLWan) -> None:
    latents = draw(*LATENTS)
    exact = vae.decode(latents).sample
    vae.to(torch.bfloat16)

    def error(run: Callable[[Tensor], Tensor]) -> float:
        return float((run(latents.bfloat16()).float().clamp(-1, 1) - exact).abs().mean())

    plain = error(lambda low: vae.decode(low).sample)
    decoder = VideoDecoder(vae, is_compiled=False)
    assert error(lambda low: decode(decoder, low)) < plain
