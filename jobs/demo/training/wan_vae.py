"""Encodes and decodes whole clips with the weights of an AutoencoderKLWan, fast and with gradients.

diffusers sends a clip through its VAE in pieces of four frames and caches what the next piece needs. Here all frames go at once: a
3-D causal convolution becomes a 2-D convolution over each frame stacked with the frames before it, which a GPU does several times
faster. The results are the same (`tests/unit/test_demo_training.py`).

Shapes: B clips, F frames, N = B F frames of all clips, C channels, H rows, W columns.
"""

from collections.abc import Callable
from functools import cache, partial

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    WanAttentionBlock,
    WanCausalConv3d,
    WanMidBlock,
    WanResample,
    WanResidualBlock,
    WanRMS_norm,
)
from torch import Tensor, nn
from torch.nn import functional

LATENT_CHANNELS = 16


def encode(vae: AutoencoderKLWan, pixels_BCFHW: Tensor) -> Tensor:
    """(B, 3, 1 + 4 n, H, W) in -1..1 -> the posterior's mean and log-variance, (B, 2 x 16, 1 + n, H/8, W/8)."""
    num_clips, encoder = len(pixels_BCFHW), vae.encoder
    x_NCHW = _conv(encoder.conv_in, _frames(pixels_BCFHW), num_clips)
    for layer in [*encoder.down_blocks, *_mid_layers(encoder.mid_block)]:
        x_NCHW = _apply(layer, x_NCHW, num_clips)
    x_NCHW = _conv(encoder.conv_out, _norm_silu(encoder.norm_out, x_NCHW), num_clips)
    return _clips(_conv(vae.quant_conv, x_NCHW, num_clips), num_clips)


def decode(vae: AutoencoderKLWan, latents_BCFHW: Tensor) -> Tensor:
    """(B, 16, 1 + n, H/8, W/8) latents, not normalised -> (B, 3, 1 + 4 n, H, W), not clamped."""
    num_clips, decoder = len(latents_BCFHW), vae.decoder
    x_NCHW = _conv(vae.post_quant_conv, _frames(latents_BCFHW), num_clips)
    x_NCHW = _conv(decoder.conv_in, x_NCHW, num_clips)
    up_layers = [layer for block in decoder.up_blocks for layer in (*block.resnets, *(block.upsamplers or ()))]
    for layer in [*_mid_layers(decoder.mid_block), *up_layers]:
        x_NCHW = _apply(layer, x_NCHW, num_clips)
    x_NCHW = _conv(decoder.conv_out, _norm_silu(decoder.norm_out, x_NCHW), num_clips)
    return _clips(x_NCHW, num_clips)


@torch.no_grad()
def start_as_pictures(vae: AutoencoderKLWan) -> None:
    """Lets a new VAE treat each frame as a picture of its own: the rate is halved by leaving out, and doubled by repeating.

    So what it learns from pictures still holds when the first clips come.
    """
    for conv in vae.modules():
        if isinstance(conv, WanCausalConv3d) and conv.kernel_size[0] > 1:
            conv.weight[:, :, :-1] = 0
    for layer in vae.modules():
        if isinstance(layer, WanResample) and layer.mode.endswith("3d"):
            out, channels = layer.time_conv.weight.shape[:2]
            identity = torch.eye(channels, device=layer.time_conv.weight.device)
            layer.time_conv.weight[:, :, -1, 0, 0] = identity.repeat(out // channels, 1)
            layer.time_conv.bias.zero_()


def _frames(x_BCFHW: Tensor) -> Tensor:
    frames: Tensor = x_BCFHW.transpose(1, 2).flatten(0, 1)
    return frames.contiguous(memory_format=torch.channels_last)


def _clips(x_NCHW: Tensor, num_clips: int) -> Tensor:
    clips: Tensor = x_NCHW.unflatten(0, (num_clips, -1))
    return clips.transpose(1, 2)


def _mid_layers(block: WanMidBlock) -> list[nn.Module]:
    first, second = block.resnets
    return [first, *block.attentions, second]


def _apply(layer: nn.Module, x_NCHW: Tensor, num_clips: int) -> Tensor:
    kinds = {WanResidualBlock: _residual, WanResample: _resample, WanAttentionBlock: _attend}
    return kinds[type(layer)](layer, x_NCHW, num_clips)


def _residual(block: WanResidualBlock, x_NCHW: Tensor, num_clips: int) -> Tensor:
    shortcut = block.conv_shortcut
    kept = x_NCHW if isinstance(shortcut, nn.Identity) else _conv(shortcut, x_NCHW, num_clips)
    x_NCHW = _conv(block.conv1, _norm_silu(block.norm1, x_NCHW), num_clips)
    return kept + _conv(block.conv2, _norm_silu(block.norm2, x_NCHW), num_clips)


def _norm_silu(norm: WanRMS_norm, x_NCHW: Tensor) -> Tensor:
    normalise = _compiled_rms_norm_silu() if x_NCHW.is_cuda else _rms_norm_silu
    return normalise(x_NCHW, norm.gamma.view(1, -1, 1, 1))  # as a parameter, its size would be compiled in


def _rms_norm(x_NCHW: Tensor, gamma_1C11: Tensor) -> Tensor:
    x = x_NCHW.float()
    scale = x.square().mean(1, keepdim=True).clamp_min(1e-24).rsqrt()
    return (x * scale * gamma_1C11).type_as(x_NCHW)


def _rms_norm_silu(x_NCHW: Tensor, gamma_1C11: Tensor) -> Tensor:
    return functional.silu(_rms_norm(x_NCHW, gamma_1C11))


@cache
def _compiled_rms_norm_silu() -> Callable[[Tensor, Tensor], Tensor]:
    """Without compiling, these five passes over the frames take longer than the convolutions."""
    return torch.compile(_rms_norm_silu, dynamic=True)


def _attend(block: WanAttentionBlock, x_NCHW: Tensor, num_clips: int) -> Tensor:
    """Attention among the pixels of each frame, with one head."""
    projected = block.to_qkv(_rms_norm(x_NCHW, block.norm.gamma.view(1, -1, 1, 1)))
    query, key, value = projected.flatten(2).transpose(1, 2).unsqueeze(1).chunk(3, dim=-1)
    attended = functional.scaled_dot_product_attention(query, key, value)
    change: Tensor = block.proj(attended.squeeze(1).transpose(1, 2).reshape(x_NCHW.shape))
    return x_NCHW + change


def _resample(layer: WanResample, x_NCHW: Tensor, num_clips: int) -> Tensor:
    if layer.mode == "upsample3d":
        x_NCHW = _after_first(partial(_double_rate, layer.time_conv), x_NCHW, num_clips)
    x_NCHW = layer.resample(x_NCHW)
    if layer.mode == "downsample3d":
        x_NCHW = _after_first(partial(_halve_rate, layer.time_conv), x_NCHW, num_clips)
    return x_NCHW


def _after_first(change: Callable[[Tensor], Tensor], x_NCHW: Tensor, num_clips: int) -> Tensor:
    """The clips with their first frame as it is; `change` makes the frames after it from all frames (B, F, C, H, W)."""
    x_BFCHW = x_NCHW.unflatten(0, (num_clips, -1))
    if x_BFCHW.shape[1] == 1:
        return x_NCHW
    return torch.cat([x_BFCHW[:, :1], change(x_BFCHW)], dim=1).flatten(0, 1)


def _double_rate(conv: WanCausalConv3d, x_BFCHW: Tensor) -> Tensor:
    """Two frames for each but the first, which the convolution does not see."""
    rest_NCHW = x_BFCHW[:, 1:].flatten(0, 1)
    both_NCHW = _conv(conv, rest_NCHW, len(x_BFCHW))
    by_clip: Tensor = both_NCHW.unflatten(1, (2, -1)).unflatten(0, (len(x_BFCHW), -1))
    return by_clip.flatten(1, 2)


def _halve_rate(conv: WanCausalConv3d, x_BFCHW: Tensor) -> Tensor:
    """One frame from each two after the first, and from the one before them."""
    taps = [x_BFCHW[:, :-2:2], x_BFCHW[:, 1:-1:2], x_BFCHW[:, 2::2]]
    halved: Tensor = _conv_taps(conv, taps).unflatten(0, (len(x_BFCHW), -1))
    return halved


def _conv(conv: WanCausalConv3d, x_NCHW: Tensor, num_clips: int) -> Tensor:
    num_taps = conv.kernel_size[0]
    if num_taps == 1 or len(x_NCHW) == num_clips:  # a clip of one frame: only zeros come before it
        return functional.conv2d(x_NCHW, conv.weight[:, :, -1], conv.bias, padding=conv.kernel_size[1] // 2)
    x_BFCHW = x_NCHW.unflatten(0, (num_clips, -1))
    num_frames = x_BFCHW.shape[1]
    padded = torch.cat([torch.zeros_like(x_BFCHW[:, :1])] * (num_taps - 1) + [x_BFCHW], dim=1)
    return _conv_taps(conv, [padded[:, tap : tap + num_frames] for tap in range(num_taps)])


def _conv_taps(conv: WanCausalConv3d, taps_BFCHW: list[Tensor]) -> Tensor:
    """The 3-D convolution of frames, one tensor for each of its taps in time, as a 2-D convolution -> (N, C, H, W)."""
    stacked_NCHW = torch.cat(taps_BFCHW, dim=2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
    weight = conv.weight.transpose(1, 2).flatten(1, 2)
    return functional.conv2d(stacked_NCHW, weight, conv.bias, padding=conv.kernel_size[1] // 2)
