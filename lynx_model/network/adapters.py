"""The ID- and Ref-adapter: their weights, and the attention processors that read them on diffusers' WanAttention.

Each adapter adds a second attention beside one of the base model's, before its output projection: the Ref-adapter beside
self-attention, the ID-adapter beside text attention. Their keys and values are the same at every step, so the processors receive
them ready-made, with the strength already multiplied into the values.

Shapes: B batch, T tokens of the clip, S tokens attended to, H heads, D head size, C channels (H D).
Source: bytedance/lynx modules/full/attention_processor.py and modules/lite/attention_processor.py at 3a6a91a.
"""

from typing import NamedTuple

import torch
from diffusers.models.transformers.transformer_wan import WanAttention
from torch import Tensor, nn
from torch.nn.functional import rms_norm

from lynx_model.checkpoints.adapter_spec import AdapterSpec
from lynx_model.engine.attention import Attend
from lynx_model.engine.sharding import TokenSharding

LITE_KEY_NORM_EPS = 1e-5


class KeysValues(NamedTuple):
    """Keys and values from outside the clip that one block attends to; both (B, S, H, D)."""

    key: Tensor
    value: Tensor

    def scaled(self, strength: float) -> "KeysValues":
        """The same keys, with values multiplied by `strength`."""
        return self if strength == 1 else KeysValues(self.key, self.value * strength)


class SelfAttentionInputs(NamedTuple):
    """What a block's self-attention needs besides the tokens. `cos` and `sin` are float32 (1, T, 1, D/2)."""

    cos: Tensor
    sin: Tensor
    sharding: TokenSharding
    reference: KeysValues | None


class CrossAttentionInputs(NamedTuple):
    """What a block's text attention needs besides the tokens."""

    text: KeysValues
    identity: KeysValues | None


class IdAdapterLayer(nn.Module):
    """Computes keys and values of the identity tokens for one block.

    Full has biases and learned register tokens, and normalises keys with the base model's norm. Lite has neither, and its key
    norm has no weight.
    """

    def __init__(self, *, token_size: int, channels: int, has_bias: bool, num_registers: int) -> None:
        super().__init__()
        self.to_k_ip = nn.Linear(token_size, channels, bias=has_bias)
        self.to_v_ip = nn.Linear(token_size, channels, bias=has_bias)
        self.registers = nn.Parameter(torch.empty(1, num_registers, token_size)) if num_registers else None
        self.has_own_key_norm = not has_bias

    def forward(self, tokens_BSC: Tensor, attention: WanAttention) -> KeysValues:
        if self.registers is not None:
            tokens_BSC = torch.cat([tokens_BSC, self.registers.expand(len(tokens_BSC), -1, -1)], dim=1)
        key = self.to_k_ip(tokens_BSC)
        key = rms_norm(key, key.shape[-1:], eps=LITE_KEY_NORM_EPS) if self.has_own_key_norm else attention.norm_k(key)
        return _by_head(key, self.to_v_ip(tokens_BSC), attention.heads)


class RefAdapterLayer(nn.Module):
    """Computes keys and values of the reference picture's features for one block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.to_k_ref = nn.Linear(channels, channels)
        self.to_v_ref = nn.Linear(channels, channels)

    def forward(self, features_BSC: Tensor, attention: WanAttention) -> KeysValues:
        return _by_head(attention.norm_k(self.to_k_ref(features_BSC)), self.to_v_ref(features_BSC), attention.heads)


def adapter_layers(spec: AdapterSpec) -> tuple[nn.ModuleList, nn.ModuleList | None]:
    """The layers of the ID-adapter and, if there is one, of the Ref-adapter; their weights are uninitialised."""
    id_layers = nn.ModuleList(
        IdAdapterLayer(
            token_size=spec.token_size,
            channels=spec.channels,
            has_bias=spec.has_id_bias,
            num_registers=spec.num_registers,
        )
        for _ in range(spec.num_id_layers)
    )
    if not spec.has_ref:
        return id_layers, None
    return id_layers, nn.ModuleList(RefAdapterLayer(spec.channels) for _ in range(spec.num_ref_layers))


def text_keys_values(text_BSC: Tensor, attention: WanAttention) -> KeysValues:
    """Keys and values of the base model's own text attention."""
    return _by_head(attention.norm_k(attention.to_k(text_BSC)), attention.to_v(text_BSC), attention.heads)


class SelfAttentionProcessor:
    """Base self-attention over all tokens, plus the Ref-adapter's over the reference features, which has no rotary embedding."""

    def __init__(self, attend: Attend) -> None:
        self._attend = attend

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: Tensor,
        encoder_hidden_states: None,
        attention_mask: None,
        rotary_emb: SelfAttentionInputs,
    ) -> Tensor:
        inputs = rotary_emb
        query, key, value = attn.to_qkv(hidden_states).chunk(3, dim=-1)
        query, key, value = (_split_heads(x, attn.heads) for x in (attn.norm_q(query), attn.norm_k(key), value))
        rotated_query, rotated_key = (rotate(x, inputs.cos, inputs.sin) for x in (query, key))
        all_to_all = inputs.sharding.all_to_all
        attended = inputs.sharding.attend(all_to_all(rotated_query), all_to_all(rotated_key), all_to_all(value))
        if inputs.reference is not None:
            attended = attended + self._attend(query, *inputs.reference)
        return attn.to_out[0](attended.flatten(2))  # type: ignore[no-any-return]


class CrossAttentionProcessor:
    """Base text attention, plus the ID-adapter's over the identity tokens."""

    def __init__(self, attend: Attend) -> None:
        self._attend = attend

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: Tensor,
        encoder_hidden_states: CrossAttentionInputs,
        attention_mask: None,
        rotary_emb: None,
    ) -> Tensor:
        inputs = encoder_hidden_states
        query = _split_heads(attn.norm_q(attn.to_q(hidden_states)), attn.heads)
        attended = self._attend(query, *inputs.text)
        if inputs.identity is not None:
            attended = attended + self._attend(query, *inputs.identity)
        return attn.to_out[0](attended.flatten(2))  # type: ignore[no-any-return]


def rotate(x_BTHD: Tensor, cos_1T1d: Tensor, sin_1T1d: Tensor) -> Tensor:
    """Rotary position embedding: rotates each adjacent pair of channels by its token's angle, in float32."""
    even, odd = x_BTHD.float().unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([even * cos_1T1d - odd * sin_1T1d, even * sin_1T1d + odd * cos_1T1d], dim=-1)
    return turned.flatten(-2).type_as(x_BTHD)


def _by_head(key_BSC: Tensor, value_BSC: Tensor, num_heads: int) -> KeysValues:
    return KeysValues(_split_heads(key_BSC, num_heads), _split_heads(value_BSC, num_heads))


def _split_heads(x_BTC: Tensor, num_heads: int) -> Tensor:
    x_BTHD: Tensor = x_BTC.unflatten(2, (num_heads, -1))
    return x_BTHD
