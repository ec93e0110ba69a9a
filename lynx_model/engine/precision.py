"""fp8: a bfloat16 model whose blocks multiply large matrices in float8_e4m3.

Scales are row-wise: one per output channel of a weight, and one per token, computed at every call. Everything is plain torch, so a
compiled block fuses quantisation into the kernel that computes the numbers. Layers that run once per clip (the adapters, and the
keys and values of text) stay bfloat16.

Shapes: T tokens, I input channels, O output channels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lynx_model.errors import InvalidParams

FP8 = torch.float8_e4m3fn
LARGEST_FP8 = torch.finfo(FP8).max
SMALLEST_MAGNITUDE = 1e-12  # keeps the scale of an all-zero row above zero
FIRST_CAPABLE = (8, 9)

FP8_LAYERS = ("attn1.to_qkv", "attn1.to_out.0", "attn2.to_q", "attn2.to_out.0", "ffn.net.0.proj", "ffn.net.2")
"""The linear layers that process every token at every step, by their names in a block."""


def quantize(x: Tensor, dim: int | tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """`x` in fp8, and the float32 scales to multiply it with: one for all values along `dim`, which is kept with size 1."""
    magnitude = x.abs().amax(dim, keepdim=True).float().clamp(min=SMALLEST_MAGNITUDE)
    scale = magnitude / LARGEST_FP8
    return (x.float() / scale).to(FP8), scale


class Fp8Linear(nn.Module):
    """`linear` with its weight in fp8: (..., I) -> (..., O), in the dtype of the input.

    The weight is quantised on `device`, wherever it is stored, because a CPU rounds some numbers differently from a GPU.
    """

    def __init__(self, linear: nn.Linear, device: torch.device) -> None:
        super().__init__()
        home = linear.weight.device
        weight_OI, scale_O1 = quantize(linear.weight.to(device), dim=1)
        self.weight = nn.Parameter(weight_OI.to(home), requires_grad=False)
        self.scale = nn.Parameter(scale_O1.to(home), requires_grad=False)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        x_TI, scale_T1 = quantize(x.flatten(0, -2), dim=1)
        product_TO = torch._scaled_mm(
            x_TI,
            self.weight.t(),
            scale_a=scale_T1,
            scale_b=self.scale.t(),
            bias=self.bias,
            out_dtype=x.dtype,
            use_fast_accum=True,
        )
        return product_TO.unflatten(0, x.shape[:-1])  # type: ignore[no-any-return]


def quantize_blocks(blocks: Sequence[nn.Module], *, num_bf16_edge_blocks: int, device: torch.device) -> None:
    """Converts the large linear layers of `blocks` to fp8 in place, one by one, so at most one layer exists twice at a time.

    The first and last `num_bf16_edge_blocks` blocks are left unchanged.
    """
    for block in blocks[num_bf16_edge_blocks : len(blocks) - num_bf16_edge_blocks]:
        for name in FP8_LAYERS:
            linear = block.get_submodule(name)
            assert isinstance(linear, nn.Linear)
            block.set_submodule(name, Fp8Linear(linear, device))


def check_fp8(capability: tuple[int, int] | None) -> None:
    """Raises InvalidParams unless a device of that CUDA compute capability (None for a CPU) can multiply fp8."""
    need = None if capability is None else missing_fp8_need(capability)
    if need is not None:
        raise InvalidParams("precision", "fp8", f"needs {need}")


def missing_fp8_need(capability: tuple[int, int]) -> str | None:
    """What fp8 multiplication needs that a GPU of that CUDA compute capability does not have; None if it works."""
    if capability >= FIRST_CAPABLE:
        return None
    major, minor = capability
    return f"a GPU of compute capability 8.9 (Ada, Hopper) or later, but this one has {major}.{minor}"
