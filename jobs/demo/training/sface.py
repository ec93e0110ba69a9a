"""The free face pack's recogniser as a differentiable torch module, so that likeness can be a loss.

It runs the nodes of the ONNX graph one by one. Its weights travel in one small file: int8 with a scale per output channel where they are many.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

NUM_INT8_LEVELS = 127
MIN_INT8_SIZE = 300_000
"""Tensors with fewer values become float16: they are the first layers, where errors grow most."""

Attributes = dict[str, Any]


class Node(NamedTuple):
    """One operation of the graph; `inputs` are names of weights or of earlier outputs."""

    operation: str
    inputs: list[str]
    output: str
    attributes: Attributes


class SFace(nn.Module):
    """Aligned faces -> identity embeddings and, if wanted, features. Gradients flow to the faces; the weights are fixed."""

    def __init__(self, nodes: list[Node], weights: dict[str, Tensor]) -> None:
        super().__init__()
        self._nodes = nodes
        self._buffer_names = {name: f"weight_{index}" for index, name in enumerate(weights)}
        for name, tensor in weights.items():
            self.register_buffer(self._buffer_names[name], tensor)

    @property
    def num_prelus(self) -> int:
        return sum(node.operation == "PRelu" for node in self._nodes)

    def forward(self, faces_B3HW: Tensor, taps: tuple[int, ...] = ()) -> tuple[Tensor, list[Tensor]]:
        """Embeds faces.

        Args:
            faces_B3HW: (B, 3, 112, 112) RGB from -1 to 1, aligned for identity.
            taps: Numbers of PReLUs, from 1, whose outputs are wanted.

        Returns:
            Embeddings (B, 512) of unit length, and the wanted features in the graph's order, each (B, C, H, W).
        """
        values = {name: getattr(self, buffer) for name, buffer in self._buffer_names.items()} | {"face": faces_B3HW}
        features, num_prelus = [], 0
        for node in self._nodes:
            result = _run(node, [values[name] for name in node.inputs])
            values[node.output] = result
            if node.operation == "PRelu":
                num_prelus += 1
                if num_prelus in taps:
                    features.append(result)
        return functional.normalize(result.float()), features


def _run(node: Node, inputs: list[Tensor]) -> Tensor:
    """The output of one operation, as ONNX defines it."""
    attributes = node.attributes
    match node.operation:
        case "Conv":
            x, weight = inputs[:2]
            return functional.conv2d(
                x,
                weight,
                inputs[2] if len(inputs) > 2 else None,
                stride=attributes.get("strides", 1),
                padding=attributes.get("pads", [0, 0])[:2],
                groups=attributes.get("group", 1),
            )
        case "BatchNormalization":
            x, weight, bias, mean, variance = inputs
            return functional.batch_norm(x, mean, variance, weight, bias, eps=attributes.get("epsilon", 1e-5))
        case "PRelu":
            return functional.prelu(inputs[0], inputs[1].flatten())
        case "Gemm":
            x, weight, bias = inputs
            return functional.linear(x, weight if attributes.get("transB") else weight.T, bias)
        case "Flatten":
            return inputs[0].flatten(1)
        case "Dropout":
            return inputs[0]
        case "Mul":
            return inputs[0] * inputs[1]
        case "Add":
            return inputs[0] + inputs[1]
        case "Sub":
            return inputs[0] - inputs[1]
        case "MatMul":
            return inputs[0] @ inputs[1]
    raise ValueError(f"{node.operation}: not an operation of this recogniser")


def load_sface(file: Path) -> SFace:
    """Loads the module that `export_sface` saved, on the CPU."""
    with np.load(file) as saved:
        nodes = [Node(*node) for node in json.loads(str(saved["nodes"]))]
        names = json.loads(str(saved["names"]))
        weights = {name: torch.from_numpy(_unpack(saved, index)) for index, name in enumerate(names)}
    return SFace(nodes, weights).eval()


def export_sface(onnx_file: Path, out: Path) -> None:
    """Saves the graph and the weights of `rec_sface512.onnx` in one npz file."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(onnx_file)).graph
    weights = {tensor.name: numpy_helper.to_array(tensor).astype(np.float32) for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        if node.op_type == "Constant":
            weights[node.output[0]] = numpy_helper.to_array(attributes["value"]).astype(np.float32)
        else:
            kept = {name: value for name, value in attributes.items() if isinstance(value, int | float | list)}
            nodes.append(Node(node.op_type, [name for name in node.input if name], node.output[0], kept))
    used = {name for node in nodes for name in node.inputs}
    weights = {name: array for name, array in weights.items() if name in used}
    arrays: dict[str, Any] = {"nodes": json.dumps(nodes), "names": json.dumps(list(weights))}
    for index, array in enumerate(weights.values()):
        arrays |= _pack(array, index)
    np.savez_compressed(out, **arrays)


def _pack(array: NDArray[np.float32], index: int) -> dict[str, NDArray[Any]]:
    """The array as int8 and a scale per row, if it is a large matrix."""
    if array.size < MIN_INT8_SIZE or array.ndim < 2:
        return {f"float_{index}": array.astype(np.float32 if array.ndim < 2 else np.float16)}
    scales = np.abs(array).reshape(len(array), -1).max(1).clip(1e-12) / NUM_INT8_LEVELS
    levels = np.round(array / scales.reshape(-1, *[1] * (array.ndim - 1)))
    return {f"int8_{index}": levels.astype(np.int8), f"scale_{index}": scales.astype(np.float32)}


def _unpack(saved: Any, index: int) -> NDArray[np.float32]:
    if f"float_{index}" in saved:
        return np.asarray(saved[f"float_{index}"], dtype=np.float32)
    levels = saved[f"int8_{index}"].astype(np.float32)
    return np.asarray(levels * saved[f"scale_{index}"].reshape(-1, *[1] * (levels.ndim - 1)))
