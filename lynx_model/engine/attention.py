"""Softmax attention over one sequence, with a kernel chosen by name.

Shapes: B batch, T queries, S keys, H heads, D head size. No kernel needs a mask: there is one sequence and no padding.
"""

from collections.abc import Callable
from importlib.metadata import distributions

import structlog
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from lynx_model.engine.attention_fp8 import SmoothAttention, attend_flash3_fp8, emulate_fp8
from lynx_model.errors import InvalidParams
from lynx_model.spec import AttentionChoice

log = structlog.get_logger()

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(query (B, T, H, D), key (B, S, H, D), value (B, S, H, D)) -> (B, T, H, D)."""

HOPPER = 9
AMPERE = 8


def attend_sdpa(query_BTHD: Tensor, key_BSHD: Tensor, value_BSHD: Tensor) -> Tensor:
    """Lets torch choose among its kernels; works everywhere."""
    query, key, value = (x.transpose(1, 2) for x in (query_BTHD, key_BSHD, value_BSHD))
    return scaled_dot_product_attention(query, key, value).transpose(1, 2)


def attend_cudnn(query_BTHD: Tensor, key_BSHD: Tensor, value_BSHD: Tensor) -> Tensor:
    """CuDNN's kernel, called directly because torch would prefer another one."""
    query, key, value = (x.transpose(1, 2) for x in (query_BTHD, key_BSHD, value_BSHD))
    attended: Tensor = torch.ops.aten._scaled_dot_product_cudnn_attention(query, key, value, None, False)[0]
    return attended.transpose(1, 2)


@torch.library.custom_op("lynx_model::flash_attention_3", mutates_args=(), device_types="cuda")
def attend_flash3(query_BTHD: Tensor, key_BSHD: Tensor, value_BSHD: Tensor) -> Tensor:
    """FlashAttention-3 from the package fa3-fwd; one custom op, so that it does not break a compiled graph."""
    from fa3_fwd_interface import flash_attn_func  # type: ignore[import-not-found]

    return flash_attn_func(query_BTHD, key_BSHD, value_BSHD)  # type: ignore[no-any-return]


@torch.library.custom_op("lynx_model::flash_attention_2", mutates_args=(), device_types="cuda")
def attend_flash2(query_BTHD: Tensor, key_BSHD: Tensor, value_BSHD: Tensor) -> Tensor:
    """FlashAttention-2 from the package flash-attn, for GPUs before Hopper."""
    from flash_attn import flash_attn_func  # type: ignore[import-not-found]

    return flash_attn_func(query_BTHD, key_BSHD, value_BSHD)  # type: ignore[no-any-return]


@torch.library.custom_op("lynx_model::flash_attention_4", mutates_args=(), device_types="cuda")
def attend_flash4(query_BTHD: Tensor, key_BSHD: Tensor, value_BSHD: Tensor) -> Tensor:
    """FlashAttention-4 from the package flash-attn-4, which compiles its kernels at the first call of each kind."""
    from flash_attn.cute import flash_attn_func  # type: ignore[import-not-found]

    return flash_attn_func(query_BTHD, key_BSHD, value_BSHD)[0]  # type: ignore[no-any-return]


@attend_flash3.register_fake
@attend_flash2.register_fake
@attend_flash4.register_fake
def _like_the_query(query_BTHD: Tensor, key_BSHD: Tensor, value_BSHD: Tensor) -> Tensor:
    return torch.empty_like(query_BTHD, memory_format=torch.contiguous_format)


KERNELS: dict[str, Attend] = {
    "fa3": attend_flash3,
    "fa4": attend_flash4,
    "cudnn": attend_cudnn,
    "fa2": attend_flash2,
    "sdpa": attend_sdpa,
}
"""Exact kernels by name, fastest first: for 32,760 tokens and 40 heads of 128, fa3 takes 32.1, fa4 33.5 and cudnn 39.3 ms on an H200; on an
H100 fa3 takes 31.8, cudnn 39.0 and fa2 57.8. Source: lynx_model/MEASURED.md.
"""

FP8_KERNEL: AttentionChoice = "fa3_fp8"
"""Lossy, so "auto" never takes it; only base self-attention uses it. 21.2 ms on an H200 where fa3 took 29.6."""

EXACT_COUNTERPART: AttentionChoice = "fa3"
"""The kernel of all other attention in a model whose base self-attention uses `FP8_KERNEL`."""


def check_attention(name: AttentionChoice, *, device: torch.device, dtype: torch.dtype, head_dim: int) -> None:
    """Raises InvalidParams, which says what is missing, if the kernel of that name does not work on `device`."""
    need = None if name == "auto" else _missing_need(name, device, dtype, head_dim)
    if need is not None:
        raise InvalidParams("attention", name, f"needs {need}")


def choose_attention(name: AttentionChoice, *, device: torch.device, dtype: torch.dtype, head_dim: int) -> Attend:
    """The kernel of that name, or the fastest exact one that works if it is "auto"; logs the choice.

    Raises:
        InvalidParams: As `check_attention` does.
    """
    check_attention(name, device=device, dtype=dtype, head_dim=head_dim)
    working = (kernel for kernel in KERNELS if _missing_need(kernel, device, dtype, head_dim) is None)
    chosen = next(working) if name == "auto" else name
    log.info("attention_chosen", kernel=chosen, asked=name)
    return (KERNELS | {FP8_KERNEL: attend_flash3_fp8})[chosen]


def check_fp8_attention(*, device: torch.device, dtype: torch.dtype, head_dim: int) -> None:
    """Raises InvalidParams, which says what is missing, if attention cannot compute in fp8 on `device`. A CPU emulates it, slowly."""
    need = None if device.type == "cpu" else _missing_need(FP8_KERNEL, device, dtype, head_dim)
    if need is not None:
        raise InvalidParams("fp8_attention", True, f"needs {need}")


def choose_fp8_attention(*, device: torch.device, dtype: torch.dtype, head_dim: int) -> Attend:
    """Attention in fp8 with less loss than `FP8_KERNEL` alone. Raises InvalidParams as `check_fp8_attention` does."""
    check_fp8_attention(device=device, dtype=dtype, head_dim=head_dim)
    attend = emulate_fp8 if device.type == "cpu" else attend_flash3_fp8
    return SmoothAttention(attend, head_dim=head_dim, device=device)


def missing_needs(*, device: torch.device, dtype: torch.dtype, head_dim: int) -> dict[str, str | None]:
    """For each kernel, the first requirement that is not met on `device`; None if the kernel works."""
    return {kernel: _missing_need(kernel, device, dtype, head_dim) for kernel in (*KERNELS, FP8_KERNEL)}


def _missing_need(kernel: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """The first requirement of `kernel` that is not met."""
    if kernel == "sdpa":
        return None
    if device.type != "cuda":
        return "a CUDA device"
    if dtype is not torch.bfloat16:
        return "bfloat16"
    generation, _ = torch.cuda.get_device_capability(device)
    if kernel in ("fa3", FP8_KERNEL):
        return _first_unmet(
            (_is_installed("fa3-fwd"), "the package fa3-fwd"),
            (generation == HOPPER, "a Hopper GPU"),
            (64 <= head_dim <= 256, "heads of 64 to 256 channels"),
        )
    if kernel == "fa2":
        return _first_unmet(
            (_is_installed("flash-attn"), "the package flash-attn"),
            (generation >= AMPERE, "an Ampere GPU or a later one"),
        )
    if kernel == "fa4":
        return _first_unmet(
            (_is_installed("flash-attn-4"), "the package flash-attn-4"),
            (
                not _is_installed("flash-attn"),
                "an environment without flash-attn, which overwrites parts of flash-attn-4",
            ),
            (generation >= HOPPER, "a Hopper GPU or a later one"),
            (head_dim % 8 == 0 and head_dim <= 128, "heads of a multiple of 8 channels, at most 128"),
        )
    return _first_unmet(
        (generation >= AMPERE, "an Ampere GPU or a later one"), (head_dim % 8 == 0, "heads of a multiple of 8 channels")
    )


def _is_installed(package: str) -> bool:
    """Looks the package up by its own name, because flash-attn and flash-attn-4 have modules of the same names."""
    return any(distributions(name=package))


def _first_unmet(*needs: tuple[bool, str]) -> str | None:
    return next((need for is_met, need in needs if not is_met), None)
