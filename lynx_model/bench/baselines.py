"""Forwards as other implementations run them, on the same modules and weights: eager, and without caching between steps.

`_diffusers` rotates queries and keys like diffusers' eager Wan model. `_original` reimplements bytedance/lynx at 3a6a91a
(modules/full/attention_processor.py, modules/common/flash_attention.py): rotation in complex float64, variable-length attention
whose lengths are read back from the device, queries normalised again for each attention, and multiplication by strengths at every
step. Its RMSNorm makes several passes over memory, like that of diffusers 0.33.1, which bytedance/lynx requires
(models/normalization.py, RMSNorm); diffusers 0.42.1 uses torch's fused norm.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, cast

import torch
from diffusers.models.transformers.transformer_wan import WanAttention
from torch import Tensor, nn

from lynx_model.bench.case import ForwardInputs
from lynx_model.engine.attention import Attend, attend_flash3, attend_sdpa
from lynx_model.network.adapters import (
    IdAdapterLayer,
    KeysValues,
    RefAdapterLayer,
    SelfAttentionInputs,
    text_keys_values,
)
from lynx_model.network.transformer import BlockConditioning, Conditioning, LynxTransformer

STRENGTH = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """A baseline's attention, rotation and norm. If `is_wasteful`, the adapters' attention normalises queries again and multiplies its
    result by a strength.
    """

    name: str
    attend: Attend
    rotate: Callable[[Tensor, Tensor, Tensor], Tensor]
    norm: Callable[[nn.RMSNorm, Tensor], Tensor]
    is_wasteful: bool


def baselines(device: torch.device) -> list[Baseline]:
    """The baselines that this device can run, slowest first."""
    if device.type != "cuda":
        return [_original("original-like, torch", attend_sdpa), _diffusers("diffusers, eager, torch", attend_sdpa)]
    if find_spec("fa3_fwd_interface") is None:
        return [_original("original-like, FA2", _varlen_fa2)]
    return [
        _original("original-like, FA2", _varlen_fa2),
        _original("original-like, FA3", _varlen_fa3),
        _diffusers("diffusers, eager, FA3", attend_flash3),
    ]


def forward_like(baseline: Baseline, model: LynxTransformer, inputs: ForwardInputs) -> Callable[[], Tensor]:
    """A call that runs one guidance branch of `model` as `baseline` does. Replaces the model's processors until its next `set_up`."""
    layers: list[Any] = list(model.ref_adapter or [None] * len(model.blocks))
    for index, (block, ref_layer) in enumerate(zip(model.blocks, layers, strict=True)):
        has_id_layer = index % model.id_stride == 0
        id_layer: Any = model.id_adapter[index // model.id_stride] if has_id_layer else None
        block.attn1.set_processor(_SelfAttention(baseline, ref_layer))
        block.attn2.set_processor(_CrossAttention(baseline, id_layer))
    raw = [BlockConditioning(cast(Any, inputs), cast(Any, feature)) for feature in inputs.features or layers]
    branch = Conditioning(tuple(raw))
    return lambda: model.predict(inputs.latents, inputs.timestep, [branch])[0]


def _original(name: str, attend: Attend) -> Baseline:
    return Baseline(name=name, attend=attend, rotate=rotate_in_float64, norm=norm_in_passes, is_wasteful=True)


def _diffusers(name: str, attend: Attend) -> Baseline:
    return Baseline(name=name, attend=attend, rotate=rotate_strided, norm=nn.RMSNorm.forward, is_wasteful=False)


def rotate_strided(x_BTHD: Tensor, cos_1T1d: Tensor, sin_1T1d: Tensor) -> Tensor:
    even, odd = x_BTHD.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.empty_like(x_BTHD)
    turned[..., 0::2] = even * cos_1T1d - odd * sin_1T1d
    turned[..., 1::2] = even * sin_1T1d + odd * cos_1T1d
    return turned


def rotate_in_float64(x_BTHD: Tensor, cos_1T1d: Tensor, sin_1T1d: Tensor) -> Tensor:
    turns = torch.complex(cos_1T1d.double(), sin_1T1d.double())
    pairs = torch.view_as_complex(x_BTHD.double().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns).flatten(-2).type_as(x_BTHD)


def norm_in_passes(norm: nn.RMSNorm, x_BTC: Tensor) -> Tensor:
    mean_square = x_BTC.float().pow(2).mean(-1, keepdim=True)
    return (x_BTC * torch.rsqrt(mean_square + cast(float, norm.eps))).type_as(norm.weight) * norm.weight


@dataclass(frozen=True, slots=True)
class _SelfAttention:
    baseline: Baseline
    layer: RefAdapterLayer | None

    def __call__(
        self, attn: WanAttention, hidden_states: Tensor, _text: None, _mask: None, rotary_emb: SelfAttentionInputs
    ) -> Tensor:
        inputs, baseline = rotary_emb, self.baseline
        weights, biases = attn.to_qkv.weight.chunk(3), attn.to_qkv.bias.chunk(3)
        query, key, value = (nn.functional.linear(hidden_states, *layer) for layer in zip(weights, biases, strict=True))
        normed = baseline.norm(attn.norm_q, query)
        keys = baseline.norm(attn.norm_k, key)
        rotated = [baseline.rotate(_split(x, attn), inputs.cos, inputs.sin) for x in (normed, keys)]
        attended = baseline.attend(rotated[0], rotated[1], _split(value, attn))
        if self.layer is not None:
            seen = self.layer(cast(Tensor, inputs.reference), attn)
            attended = attended + _attend_to_adapter(baseline, attn, query, normed, seen)
        return attn.to_out[0](attended.flatten(2))  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class _CrossAttention:
    baseline: Baseline
    layer: IdAdapterLayer | None

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: Tensor,
        encoder_hidden_states: ForwardInputs,
        _mask: None,
        _rotary: None,
    ) -> Tensor:
        inputs, baseline = encoder_hidden_states, self.baseline
        query = attn.to_q(hidden_states)
        normed = baseline.norm(attn.norm_q, query)
        attended = baseline.attend(_split(normed, attn), *text_keys_values(inputs.text, attn))
        if self.layer is not None:
            seen = self.layer(inputs.identity, attn)
            attended = attended + _attend_to_adapter(baseline, attn, query, normed, seen)
        return attn.to_out[0](attended.flatten(2))  # type: ignore[no-any-return]


def _attend_to_adapter(
    baseline: Baseline, attn: WanAttention, query: Tensor, normed: Tensor, seen: KeysValues
) -> Tensor:
    if not baseline.is_wasteful:
        return baseline.attend(_split(normed, attn), *seen)
    return STRENGTH * baseline.attend(_split(baseline.norm(attn.norm_q, query), attn), *seen)


def _split(x_BTC: Tensor, attn: WanAttention) -> Tensor:
    x_BTHD: Tensor = x_BTC.unflatten(2, (attn.heads, -1))
    return x_BTHD


def _varlen_fa3(query_BTHD: Tensor, key_BSHD: Tensor, value_BSHD: Tensor) -> Tensor:
    from fa3_fwd_interface import flash_attn_varlen_func  # type: ignore[import-not-found]

    packed, starts, lengths = _pack(query_BTHD, key_BSHD, value_BSHD)
    return flash_attn_varlen_func(*packed, *starts, *lengths)[None]  # type: ignore[no-any-return]


def _varlen_fa2(query_BTHD: Tensor, key_BSHD: Tensor, value_BSHD: Tensor) -> Tensor:
    """The FlashAttention-2 that torch includes."""
    packed, starts, lengths = _pack(query_BTHD, key_BSHD, value_BSHD)
    attended: Tensor = torch.ops.aten._flash_attention_forward(*packed, *starts, *lengths, 0.0, False, False)[0]
    return attended[None]


def _pack(query: Tensor, key: Tensor, value: Tensor) -> tuple[list[Tensor], list[Tensor], list[int]]:
    """Sequences without batch, their starts, and their longest lengths, which are read from the device and so wait for it."""
    lengths = [torch.tensor([x.shape[1]], dtype=torch.int32).to(x.device) for x in (query, key)]
    starts = [torch.cat([x.new_zeros(1), x]).cumsum(0, dtype=torch.int32) for x in lengths]
    return [x.flatten(0, 1) for x in (query, key, value)], starts, [int(x.max().item()) for x in lengths]
