"""Wan's VAE decoder with fewer passes over memory: diffusers' layers and weights, in channels-last order.

A clip is decoded a few latent frames at a time. The decoder is causal, and each convolution caches the frames that it will look
back at. So the chunk boundaries do not change the picture, and memory does not grow with the clip's length.

Shapes: B batch, C channels, F frames, H rows, W columns, P pixels of all frames.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, MutableMapping

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanResidualBlock, WanRMS_norm, WanUpBlock
from torch import Tensor, nn
from torch.nn import functional

from lynx_model.engine.graphs import allow_many_graphs

LATENTS_AT_ONCE = 2
"""Latent frames per pass. The first latent frame is decoded alone: it gives one frame instead of four."""

NUM_FRAMES_BEHIND = 2
"""Frames that a convolution looks back at."""

Activate = Callable[[Tensor, Tensor, Tensor], Tensor]
Cache = MutableMapping[int, Tensor | None]
"""The last frames that each convolution saw, by its number. Diffusers' own layers use it, too."""


class VideoDecoder:
    """Decodes with the layers of `vae`, which it modifies in place; on the device and in the dtype of `vae`."""

    def __init__(self, vae: AutoencoderKLWan, *, is_compiled: bool) -> None:
        allow_many_graphs()
        act: Activate = torch.compile(activate, fullgraph=True, dynamic=True) if is_compiled else activate
        self._vae, decoder = vae, vae.decoder
        for block in (decoder.mid_block, *decoder.up_blocks):
            block.resnets = nn.ModuleList(ResidualBlock(resnet, act) for resnet in block.resnets)
        for block in decoder.up_blocks:
            _replace_upsampling(block)
        self._head = NormedConv(decoder.norm_out, decoder.conv_out, act)
        _to_channels_last(decoder)

    def pixels(self, latents_BCFHW: Tensor, latents_at_once: int = LATENTS_AT_ONCE) -> Iterator[Tensor]:
        """Pixels of the VAE's own (denormalised) latents, chunk by chunk: (B, 3, F, H, W), about -1..1."""
        decoder = self._vae.decoder
        x_BCFHW = decoder.conv_in(self._vae.post_quant_conv(latents_BCFHW))
        x_BCFHW = decoder.mid_block(x_BCFHW, _new_cache(), [0])
        first, later = x_BCFHW[:, :, :1], x_BCFHW[:, :, 1:]
        cache = _new_cache()
        for piece in (first, *(later.split(latents_at_once, dim=2) if later.shape[2] else ())):
            yield self._upsample(piece, cache)

    def _upsample(self, x_BCFHW: Tensor, cache: Cache) -> Tensor:
        index = [0]
        for block in self._vae.decoder.up_blocks:
            x_BCFHW = block(x_BCFHW, cache, index)
        return self._head(x_BCFHW, cache, index)  # type: ignore[no-any-return]


class NormedConv(nn.Module):
    """A norm, SiLU and the causal convolution after them.

    One kernel writes the activations right after the cached frames; the convolution pads height and width itself.
    """

    def __init__(self, norm: WanRMS_norm, conv: WanCausalConv3d, activate: Activate) -> None:
        super().__init__()
        self.norm, self.conv, self._activate = norm, conv, activate

    def forward(self, x_BCFHW: Tensor, feat_cache: Cache, feat_idx: list[int]) -> Tensor:
        """`feat_cache` and `feat_idx` are diffusers' protocol: the cache, and the number of the next convolution."""
        (index,) = feat_idx
        batch, channels, _, height, width = x_BCFHW.shape
        num_behind = NUM_FRAMES_BEHIND * height * width
        behind_BPC = feat_cache[index]
        if behind_BPC is None:
            behind_BPC = x_BCFHW.new_zeros(batch, num_behind, channels)
        activated_BPC = self._activate(x_BCFHW.movedim(1, -1).flatten(1, 3).contiguous(), behind_BPC, self.norm.gamma)
        feat_cache[index], feat_idx[0] = activated_BPC[:, -num_behind:].clone(), index + 1
        activated_BCFHW = activated_BPC.view(batch, -1, height, width, channels).movedim(-1, 1)
        return functional.conv3d(activated_BCFHW, self.conv.weight, self.conv.bias, padding=(0, 1, 1))


class ResidualBlock(nn.Module):
    """Diffusers' WanResidualBlock, built from two `NormedConv`."""

    def __init__(self, block: WanResidualBlock, activate: Activate) -> None:
        super().__init__()
        self.first = NormedConv(block.norm1, block.conv1, activate)
        self.second = NormedConv(block.norm2, block.conv2, activate)
        self.conv_shortcut = block.conv_shortcut

    def forward(self, x_BCFHW: Tensor, feat_cache: Cache, feat_idx: list[int]) -> Tensor:
        inner = self.first(x_BCFHW, feat_cache, feat_idx)
        return self.second(inner, feat_cache, feat_idx) + self.conv_shortcut(x_BCFHW)  # type: ignore[no-any-return]


class Upsample(nn.Upsample):
    """Doubles rows and columns by repeating pixels. That is exact in any dtype, so it needs no float32 copy as in diffusers."""

    def __init__(self) -> None:
        super().__init__(scale_factor=2.0, mode="nearest-exact")

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return super().forward(x_BCHW.contiguous(memory_format=torch.channels_last))


def activate(x_BPC: Tensor, behind_BPC: Tensor, gamma: Tensor) -> Tensor:
    """The pixels `behind`, followed by SiLU of the RMS norm of `x`, which is computed in float32 and rounded once."""
    weight_C = gamma.float().flatten() * x_BPC.shape[-1] ** 0.5
    activated_BPC = functional.silu(functional.normalize(x_BPC.float(), dim=-1) * weight_C).to(x_BPC.dtype)
    return torch.cat([behind_BPC, activated_BPC], dim=1)


def _new_cache() -> Cache:
    return defaultdict(lambda: None)


def _replace_upsampling(block: WanUpBlock) -> None:
    for upsampler in block.upsamplers or ():
        upsampler.resample[0] = Upsample()


def _to_channels_last(decoder: nn.Module) -> None:
    for layer in decoder.modules():
        if isinstance(layer, (nn.Conv2d, nn.Conv3d)):
            order = torch.channels_last_3d if isinstance(layer, nn.Conv3d) else torch.channels_last
            layer.weight = nn.Parameter(layer.weight.contiguous(memory_format=order), requires_grad=False)
