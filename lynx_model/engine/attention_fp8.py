"""Attention in fp8: FlashAttention-3's kernel, what it computes in plain torch, and how to lose less by it.

Queries, keys and values are quantised to float8_e4m3 with one scale per head, because the kernel takes no finer ones. Before that they are
changed in ways that attention undoes:

- Keys lose their mean over the tokens: softmax(q (k - m)) = softmax(q k - q m) = softmax(q k), as q m is the same for all keys.
- Values lose theirs, too: the weights of a query sum to 1, so the mean comes back by addition.
- Queries and keys are rotated by one orthogonal matrix, which leaves their products as they are. Each of fp8's roundings is relative to its
  number, so what a few large channels lose decides the error of a product. Rotated, all channels are of about one size.

Source: SageAttention (arXiv 2410.02367, section 4.2) for keys, SageAttention2 (arXiv 2411.10958, section 3.3) for values, FlashAttention-3
(arXiv 2407.08608, section 3.3) for the rotation.
Shapes: B batch, T queries, S keys, H heads, D head size.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lynx_model.engine.precision import FP8, quantize

LARGEST_WEIGHT = 256.0
"""The kernel multiplies the largest weight of each query up to this before it rounds weights to fp8.

Source: `Max_offset` of hopper/flash_fwd_kernel_sm90.h of FlashAttention-3.
"""

QUERIES_AT_ONCE = 512
"""Of the emulation, which holds the weights of so many queries in memory."""


def quantize_heads(*tensors_BTHD: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The tensors in fp8 with one scale per head, and the float32 scales (B, H) to multiply them with."""
    quantized = [quantize(x, dim=(1, 3)) for x in tensors_BTHD]
    return [x for x, _ in quantized], [scale_B1H1.flatten(1) for _, scale_B1H1 in quantized]


def center(x_BSHD: Tensor) -> tuple[Tensor, Tensor]:
    """`x_BSHD` less its mean over the tokens, and that mean (B, 1, H, D), in its dtype. All tokens must be there, and no padding."""
    mean_B1HD = x_BSHD.mean(1, keepdim=True, dtype=torch.float32).type_as(x_BSHD)
    return x_BSHD - mean_B1HD, mean_B1HD


def rotation(head_dim: int) -> tuple[Tensor, int]:
    """A matrix R (D, D) of 1, -1 and 0, float32, and the number n for which R R' = n. So R and n have no rounding in any dtype.

    R is a Hadamard matrix whose rows have random signs. If the head size is no power of two, it mixes as many channels at a time as
    the largest power of two that divides it.
    """
    size = head_dim & -head_dim
    hadamard = np.ones((1, 1))
    while len(hadamard) < size:
        hadamard = np.kron(np.array([[1, 1], [1, -1]]), hadamard)
    signs = np.random.RandomState(0).choice([-1.0, 1.0], head_dim)
    blocks = np.kron(np.eye(head_dim // size), hadamard)
    return torch.from_numpy(signs[:, None] * blocks).float(), size


class SmoothAttention:
    """`attend`, which computes in fp8, of queries, keys and values that were made smooth. Results have the query's dtype."""

    def __init__(
        self, attend: Callable[[Tensor, Tensor, Tensor], Tensor], *, head_dim: int, device: torch.device
    ) -> None:
        rotation_DD, self._size = rotation(head_dim)
        self._attend, self._rotation_DD = attend, rotation_DD.to(device)

    def __call__(self, query_BTHD: Tensor, key_BSHD: Tensor, value_BSHD: Tensor) -> Tensor:
        rotation_DD = self._rotation_DD.type_as(query_BTHD)
        (key, _), (value, mean_B1HD) = center(key_BSHD), center(value_BSHD)
        query = query_BTHD @ (rotation_DD / self._size)
        attended = self._attend(query, key @ rotation_DD, value)
        return (attended + mean_B1HD).type_as(query)


def attend_flash3_fp8(query_BTHD: Tensor, key_BSHD: Tensor, value_BSHD: Tensor) -> Tensor:
    """FlashAttention-3 in fp8 of the tensors as they are; the result is bfloat16.

    Quantisation stays outside the custom op, so that a compiled graph can fuse it with the preceding computation.
    """
    quantized, scales = quantize_heads(query_BTHD, key_BSHD, value_BSHD)
    attended: Tensor = _flash_attention_3_fp8(*quantized, *scales)
    return attended


def emulate_fp8(query_BTHD: Tensor, key_BSHD: Tensor, value_BSHD: Tensor) -> Tensor:
    """What `attend_flash3_fp8` computes, on any device and slowly; the result is float32.

    Weights are rounded to fp8 as in the kernel, relative to the largest of their query. The kernel does so relative to the largest one
    that it has met yet, and adds products in another order.
    """
    quantized, scales = quantize_heads(query_BTHD, key_BSHD, value_BSHD)
    query, key, value = (
        (x.float() * scale_BH[:, None, :, None]).transpose(1, 2) for x, scale_BH in zip(quantized, scales, strict=True)
    )
    parts = [_attend_with_fp8_weights(part, key, value) for part in query.split(QUERIES_AT_ONCE, dim=2)]
    return torch.cat(parts, dim=2).transpose(1, 2)


def _attend_with_fp8_weights(query_BHTD: Tensor, key_BHSD: Tensor, value_BHSD: Tensor) -> Tensor:
    scores_BHTS = query_BHTD @ key_BHSD.mT / query_BHTD.shape[-1] ** 0.5
    weights_BHTS = LARGEST_WEIGHT * (scores_BHTS - scores_BHTS.amax(-1, keepdim=True)).exp()
    attended_BHTD: Tensor = weights_BHTS.to(FP8).float() @ value_BHSD / weights_BHTS.sum(-1, keepdim=True)
    return attended_BHTD


@torch.library.custom_op("lynx_model::flash_attention_3_fp8", mutates_args=(), device_types="cuda")
def _flash_attention_3_fp8(
    query_BTHD: Tensor, key_BSHD: Tensor, value_BSHD: Tensor, query_BH: Tensor, key_BH: Tensor, value_BH: Tensor
) -> Tensor:
    """Attention of fp8 tensors, each with one scale per head."""
    from fa3_fwd_interface import flash_attn_func  # type: ignore[import-not-found]

    return flash_attn_func(  # type: ignore[no-any-return]
        query_BTHD, key_BSHD, value_BSHD, q_descale=query_BH, k_descale=key_BH, v_descale=value_BH
    )


@_flash_attention_3_fp8.register_fake
def _bfloat16_like_the_query(query_BTHD: Tensor, *_: Tensor) -> Tensor:
    return torch.empty(query_BTHD.shape, dtype=torch.bfloat16, device=query_BTHD.device)
