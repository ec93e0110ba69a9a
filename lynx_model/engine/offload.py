"""Weights kept in host memory: a block's are copied to the device one block ahead of their use, an adapter's when it is called.

The device has two slots. While a block computes from one slot, the next block's weights are copied into the other on a separate
stream. A weight's address in its slot never changes, so a compiled block keeps its graph.
"""

import weakref
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lynx_model.engine.precision import Fp8Linear
from lynx_model.errors import InvalidParams

ALIGNMENT_BYTES = 256
"""The same alignment as torch's own device allocations."""

Layers: TypeAlias = Sequence[nn.Linear | Fp8Linear]
"""The linear layers of one block, which hold nearly all of its weights."""


class BlockStream:
    """Iterates over the blocks; a block's weights are on the device until the iterator moves on.

    Only the weights of linear layers are streamed; everything else moves to the device for good. Takes as much device memory as
    two blocks and as much page-locked host memory as all blocks. Supports one iteration at a time.
    """

    def __init__(self, blocks: Sequence[nn.Module], device: torch.device) -> None:
        self._blocks = blocks
        layers = [linear_layers(block) for block in blocks]
        sizes = [num_packed_bytes(block_layers) for block_layers in layers]
        self._host = torch.empty(sum(sizes), dtype=torch.uint8)
        self._packed = self._host.split(sizes)
        self._slots = torch.empty(2, max(sizes), dtype=torch.uint8, device=device)
        self._copies = torch.cuda.Stream(device)
        for index, block in enumerate(blocks):
            pack(layers[index], self._packed[index])
            move_into(layers[index], self._slots[index % 2])
            block.to(device)
        _lock_pages(self._host)

    def __iter__(self) -> Iterator[nn.Module]:
        self._fetch(0)
        for index, block in enumerate(self._blocks):
            torch.cuda.current_stream(self._slots.device).wait_stream(self._copies)
            if index + 1 < len(self._blocks):
                self._fetch(index + 1)
            yield block

    def _fetch(self, index: int) -> None:
        """Starts copying a block's weights, after all work queued on the device so far, because the slot's last user is part of it."""
        packed = self._packed[index]
        self._copies.wait_stream(torch.cuda.current_stream(self._slots.device))
        with torch.cuda.stream(self._copies):
            self._slots[index % 2, : len(packed)].copy_(packed, non_blocking=True)


def linear_layers(block: nn.Module) -> Layers:
    """All linear layers below `block`, always in the same order."""
    return [layer for layer in block.modules() if isinstance(layer, nn.Linear | Fp8Linear)]


def num_packed_bytes(layers: Layers) -> int:
    """The memory that the layers' weights take when packed."""
    return _offsets(layers)[-1]


def pack(layers: Layers, memory: Tensor) -> None:
    """Copies the layers' weights into `memory` (uint8)."""
    for layer, place in zip(layers, _places(layers, memory), strict=True):
        place.copy_(layer.weight)


def move_into(layers: Layers, memory: Tensor) -> None:
    """Makes the layers use `memory` (uint8), in the layout of `pack`, as their weights, and drops their old ones."""
    for layer, place in zip(layers, _places(layers, memory), strict=True):
        layer.weight = nn.Parameter(place, requires_grad=False)


def _places(layers: Layers, memory: Tensor) -> list[Tensor]:
    """Each layer's weight as a view of `memory`."""
    return [
        memory[start : start + layer.weight.nbytes].view(layer.weight.dtype).view(layer.weight.shape)
        for layer, (start, _) in zip(layers, pairwise(_offsets(layers)), strict=True)
    ]


def _offsets(layers: Layers) -> list[int]:
    """The byte at which each layer's weight begins, and the one at which the last ends."""
    offsets = [0]
    for layer in layers:
        offsets.append(offsets[-1] + -(-layer.weight.nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES)
    return offsets


def _lock_pages(memory: Tensor) -> None:
    """Page-locks `memory`, so copies overlap with computation. Torch's pinned allocator would round its size up to a power of two."""
    runtime, address = torch.cuda.cudart(), memory.data_ptr()
    torch.cuda.check_error(runtime.cudaHostRegister(address, memory.nbytes, 0))
    weakref.finalize(memory, runtime.cudaHostUnregister, address)


def call_on_device_of(module: nn.Module, x: Tensor, *others: object) -> Any:
    """`module(x, *others)`, with weights copied to the device of `x` for this call only."""
    weights = {name: weight.to(x.device) for name, weight in module.named_parameters()}
    return functional_call(module, weights, (x, *others))


def check_offload(device: torch.device) -> None:
    """Raises InvalidParams unless weights can be streamed to `device`."""
    if device.type != "cuda":
        raise InvalidParams("offload", "blocks", "needs a CUDA device")
