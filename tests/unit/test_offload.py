"""Weights packed into one piece of memory are the same weights; `tests/gpu` streams them."""

import copy

import pytest
import torch
from torch import nn

from lynx_model.engine.offload import call_on_device_of, linear_layers, move_into, num_packed_bytes, pack
from lynx_model.engine.precision import Fp8Linear
from lynx_model.errors import InvalidParams
from lynx_model.network.adapters import RefAdapterLayer
from lynx_model.spec import EngineOptions
from tests.models import load_tiny


def make_block() -> nn.Module:
    """A block of layers in both precisions, with sizes that do not fill whole pieces."""
    first, second = (nn.Linear(48, 48, dtype=torch.bfloat16) for _ in range(2))
    return nn.Sequential(first, nn.GELU(), Fp8Linear(second, torch.device("cpu"))).requires_grad_(False)


def test_a_block_computes_the_same_from_packed_weights() -> None:
    torch.manual_seed(0)
    blocks = [make_block() for _ in range(3)]
    x = torch.randn(5, 48, dtype=torch.bfloat16)
    expected = [block(x) for block in blocks]

    size = num_packed_bytes(linear_layers(blocks[0]))
    host, slot = torch.empty(3, size, dtype=torch.uint8), torch.zeros(size, dtype=torch.uint8)
    for block, packed in zip(blocks, host, strict=True):
        pack(linear_layers(block), packed)
        move_into(linear_layers(block), slot)

    for block, packed, result in zip(blocks, host, expected, strict=True):
        slot.copy_(packed)
        assert torch.equal(block(x), result)


def test_packing_is_dense() -> None:
    layers = linear_layers(make_block())
    assert num_packed_bytes(layers) == 2 * 48 * 48 + 48 * 48


def test_a_module_called_beside_its_input_computes_the_same_and_stays_where_it_is() -> None:
    attention = load_tiny("full")._model.transformer.blocks[0].attn1
    layer = RefAdapterLayer(96)
    weights = copy.deepcopy(layer.state_dict())
    features = torch.randn(1, 3, 96)
    for found, expected in zip(call_on_device_of(layer, features, attention), layer(features, attention), strict=True):
        assert torch.equal(found, expected)
    assert layer.state_dict().keys() == weights.keys()
    assert all(isinstance(parameter, nn.Parameter) for parameter in layer.parameters())


def test_offload_needs_a_gpu() -> None:
    with pytest.raises(InvalidParams, match="needs a CUDA device"):
        load_tiny("lite", engine=EngineOptions(offload="blocks"))


def test_an_unknown_offload_is_refused() -> None:
    with pytest.raises(InvalidParams, match="must be one of none, blocks"):
        EngineOptions(offload="layers")
