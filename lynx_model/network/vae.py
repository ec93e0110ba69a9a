"""Pixels <-> latents through Wan's VAE. Latents are normalised per channel, as the DiT expects them.

Shapes: B batch, C channels, F frames, H rows, W columns.
"""

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from numpy.typing import NDArray
from torch import Tensor

from lynx_model.network.decoder import VideoDecoder


def encode_picture(vae: AutoencoderKLWan, picture_CHW: Tensor) -> DiagonalGaussianDistribution:
    """The posterior of one picture with values in -1..1; `draw_latents` samples from it."""
    pixels_BCFHW = picture_CHW.to(vae.device, vae.dtype)[None, :, None]
    return vae.encode(pixels_BCFHW).latent_dist


def draw_latents(vae: AutoencoderKLWan, posterior: DiagonalGaussianDistribution, *, seed: int) -> Tensor:
    """(1, C, 1, H/8, W/8) latents of an encoded picture, sampled with a CPU generator seeded with `seed`.

    Source: bytedance/lynx modules/full/lynx_pipeline.py:114-138 at 3a6a91a.
    """
    latents_BCFHW = posterior.sample(torch.Generator("cpu").manual_seed(seed))
    mean, std = _statistics(vae, latents_BCFHW)
    return (latents_BCFHW - mean) * (1 / std)  # type: ignore[no-any-return]


def decode_frames(vae: AutoencoderKLWan, decoder: VideoDecoder, latents_BCFHW: Tensor) -> NDArray[np.uint8]:
    """uint8 (F, H, W, 3) RGB frames of one clip, in host memory; `decoder` must belong to `vae`."""
    mean, std = _statistics(vae, latents_BCFHW)
    own_BCFHW = (latents_BCFHW * std + mean).to(vae.device, vae.dtype)
    return torch.cat([grey_levels(pixels) for pixels in decoder.pixels(own_BCFHW)]).cpu().numpy()


def grey_levels(pixels_BCFHW: Tensor) -> Tensor:
    """One clip's pixels in -1..1 as uint8 (F, H, W, 3), on the same device."""
    levels = ((pixels_BCFHW[0].float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return levels.permute(1, 2, 3, 0)


def _statistics(vae: AutoencoderKLWan, like: Tensor) -> tuple[Tensor, Tensor]:
    shape = (1, -1, 1, 1, 1)
    return (
        torch.tensor(vae.config.latents_mean, device=like.device, dtype=like.dtype).view(shape),
        torch.tensor(vae.config.latents_std, device=like.device, dtype=like.dtype).view(shape),
    )
