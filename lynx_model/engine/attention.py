"""Softmax attention of one sequence, through a kernel that is chosen by name.

Shapes: B batch, T queries, S keys, H heads, D head size. No kernel needs a mask: there is one sequence and no padding.
"""

from collections.abc import Callable
from importlib.util import find_spec

import structlog
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from lynx_model.engine.precision import quantize
from lynx_model.errors import InvalidParams
from lynx_model.spec import AttentionChoice

log = structlog.get_logger()

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(query (B, T, H, D), key (B, S, H, D), value (B, S, H, D)) -> (B, T, H, D)."""

HOPPER = 9
AMPERE = 8


def attend_sdpa(query_BTHD: Tensor, key_BSHD: Tensor, value_BSHD: Tensor) -> Tensor:
    """Torch's own choice among its kernels; runs anywhere."""
    query, key, value = (x.transpose(1, 2) for x in (query_BTHD, key_BSHD, value_BSHD))
    return scaled_dot_product_attention(query, key, value).transpose(1, 2)


def attend_cudnn(query_BTHD: Tensor, key_BSHD: Tensor, value_BSHD: Tensor) -> Tensor:
    """CuDNN's kernel, called by its own name: torch's choice would not take it first."""
    query, key, value = (x.transpose(1, 2) for x in (query_BTHD, key_BSHD, value_BSHD))
    attended: Tensor = torch.ops.aten._scaled_dot_product_cudnn_attention(query, key, value, None, False)[0]
    return attended.transpose(1, 2)


@torch.library.custom_op("lynx_model::flash_attention_3", mutates_args=(), device_types="cuda")
def attend_flash3(query_BTHD: Tensor, key_BSHD: Tensor, value_BSHD: Tensor) -> Tensor:
    """FlashAttention-3 of the package fa3-fwd; one op, so that a compiled graph stays whole."""
    from fa3_fwd_interface import flash_attn_func  # type: ignore[import-not-found]

    return flash_attn_func(query_BTHD, key_BSHD, value_BSHD)  # type: ignore[no-any-return]


@torch.library.custom_op("lynx_model::flash_attention_2", mutates_args=(), device_types="cuda")
def attend_flash2(query_BTHD: Tensor, key_BSHD: Tensor, value_BSHD: Tensor) -> Tensor:
    """FlashAttention-2 of the package flash-attn, for chips before Hopper."""
    from flash_attn import flash_attn_func  # type: ignore[import-not-found]

    return flash_attn_func(query_BTHD, key_BSHD, value_BSHD)  # type: ignore[no-any-return]


@attend_flash3.register_fake
@attend_flash2.register_fake
def _like_the_query(query_BTHD: Tensor, key_BSHD: Tensor, value_BSHD: Tensor) -> Tensor:
    return torch.empty_like(query_BTHD, memory_format=torch.contiguous_format)


def attend_flash3_fp8(query_BTHD: Tensor, key_BSHD: Tensor, value_BSHD: Tensor) -> Tensor:
    """FlashAttention-3 on fp8, with a scale for each head; the result is bfloat16.

    Scales and quantisation stay outside the op, where a compiled graph fuses them with what comes before.
    """
    quantized, scales = zip(*(quantize(x, dim=(1, 3)) for x in (query_BTHD, key_BSHD, value_BSHD)), strict=True)
    scales_BH = (scale_B1H1.flatten(1) for scale_B1H1 in scales)
    return _flash_attention_3_fp8(*quantized, *scales_BH)  # type: ignore[no-any-return]


@torch.library.custom_op("lynx_model::flash_attention_3_fp8", mutates_args=(), device_types="cuda")
def _flash_attention_3_fp8(
    query_BTHD: Tensor, key_BSHD: Tensor, value_BSHD: Tensor, query_BH: Tensor, key_BH: Tensor, value_BH: Tensor
) -> Tensor:
    """Attention of fp8 tensors, each with its heads' scales."""
    from fa3_fwd_interface import flash_attn_func

    return flash_attn_func(  # type: ignore[no-any-return]
        query_BTHD, key_BSHD, value_BSHD, q_descale=query_BH, k_descale=key_BH, v_descale=value_BH
    )


@_flash_attention_3_fp8.register_fake
def _bfloat16_like_the_query(query_BTHD: Tensor, *_: Tensor) -> Tensor:
    return torch.empty(query_BTHD.shape, dtype=torch.bfloat16, device=query_BTHD.device)


KERNELS: dict[str, Attend] = {
    "fa3": attend_flash3,
    "cudnn": attend_cudnn,
    "fa2": attend_flash2,
    "sdpa": attend_sdpa,
}
"""By name, fastest first: 29.6, 37.4, 60.0 ms for 32,760 tokens of 40 heads of 128 on an H200."""

FP8_KERNEL: AttentionChoice = "fa3_fp8"
"""Lossy, so never taken by "auto", and for base self-attention only; 21.2 ms beside the times of `KERNELS`."""

EXACT_COUNTERPART: AttentionChoice = "fa3"
"""What serves the other attentions of a model whose base self-attention is `FP8_KERNEL`."""


def check_attention(name: AttentionChoice, *, device: torch.device, dtype: torch.dtype, head_dim: int) -> None:
    """Raises InvalidParams if the kernel of that name cannot work here; says what it needs."""
    need = None if name == "auto" else _lack(name, device, dtype, head_dim)
    if need is not None:
        raise InvalidParams("attention", name, f"needs {need}")


def choose_attention(name: AttentionChoice, *, device: torch.device, dtype: torch.dtype, head_dim: int) -> Attend:
    """The kernel of that name, or for "auto" the fastest that works here; logs which. Raises as `check_attention` does."""
    check_attention(name, device=device, dtype=dtype, head_dim=head_dim)
    working = (kernel for kernel in KERNELS if _lack(kernel, device, dtype, head_dim) is None)
    chosen = next(working) if name == "auto" else name
    log.info("attention_chosen", kernel=chosen, asked=name)
    return (KERNELS | {FP8_KERNEL: attend_flash3_fp8})[chosen]


def missing_needs(*, device: torch.device, dtype: torch.dtype, head_dim: int) -> dict[str, str | None]:
    """By kernel: what it needs and does not find here; None if it works."""
    return {kernel: _lack(kernel, device, dtype, head_dim) for kernel in (*KERNELS, FP8_KERNEL)}


def _lack(kernel: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """What `kernel` needs and does not find."""
    if kernel == "sdpa":
        return None
    if device.type != "cuda":
        return "a CUDA device"
    if dtype is not torch.bfloat16:
        return "bfloat16"
    generation, _ = torch.cuda.get_device_capability(device)
    if kernel in ("fa3", FP8_KERNEL):
        return _first_lack(
            (find_spec("fa3_fwd_interface") is not None, "the package fa3-fwd"),
            (generation == HOPPER, "a Hopper GPU"),
            (64 <= head_dim <= 256, "heads of 64 to 256 channels"),
        )
    if kernel == "fa2":
        return _first_lack(
            (find_spec("flash_attn") is not None, "the package flash-attn"),
            (generation >= AMPERE, "an Ampere GPU or a later one"),
        )
    return _first_lack(
        (generation >= AMPERE, "an Ampere GPU or a later one"), (head_dim % 8 == 0, "heads of a multiple of 8 channels")
    )


def _first_lack(*needs: tuple[bool, str]) -> str | None:
    return next((need for is_met, need in needs if not is_met), None)
