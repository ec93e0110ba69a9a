"""Describes adapters from their tensor headers, without reading a weight; free of torch.

The headers give the variant of an adapter folder and all its dimensions; the folder's name means nothing.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from lynx_model.checkpoints.json_file import read_json
from lynx_model.checkpoints.published import PUBLISHED_IDENTITY_ENCODER
from lynx_model.checkpoints.safetensors_header import Shape, TensorHeader, compare_tensors, read_header
from lynx_model.errors import WeightsMismatch
from lynx_model.spec import EMBEDDING_SIZE, REF_FILE

RESAMPLER_FILE = "resampler.safetensors"
ID_FILE = "ip_layers.safetensors"

DECLARATION_FILE = "lynx-adapter.json"
"""Optional, beside the ID-adapter: `{"identity_encoder": NAME}`, if it is not the encoder of the published adapters."""

HEAD_DIM = 64
"""Head size of the resampler's attention, which no tensor shape reveals. Source: bytedance/lynx modules/common/resampler.py at 3a6a91a."""


class ResamplerShape(TypedDict):
    """All dimensions of a resampler: the keyword arguments of `Resampler`."""

    depth: int
    width: int
    inner_width: int
    ff_width: int
    num_queries: int
    embedding_size: int
    token_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSpec:
    """The contents of one or two adapter folders, in enough detail to build the modules.

    Args:
        token_size: Size of an identity token: the output of the resampler and input of the ID-adapter.
        channels: Channels of the base model that the adapters were made for.
        num_id_layers: Layers of the ID-adapter.
        has_id_bias: True for full, False for lite.
        num_registers: Learned tokens beside the identity tokens, per layer of the ID-adapter.
        num_ref_layers: Layers of the Ref-adapter; 0 if there is none.
        identity_encoder: The encoder whose embeddings the ID-adapter takes.
    """

    token_size: int
    channels: int
    num_id_layers: int
    has_id_bias: bool
    num_registers: int
    num_ref_layers: int
    resampler: ResamplerShape
    identity_encoder: str

    @property
    def id_stride(self) -> int:
        """Blocks per layer of the ID-adapter: layer i belongs to block i (full) or 2 i (lite).

        Source: bytedance/lynx modules/full/ and modules/lite/ at 3a6a91a.
        """
        return 1 if self.has_id_bias else 2

    @property
    def has_ref(self) -> bool:
        return self.num_ref_layers > 0

    @property
    def has_image_guidance(self) -> bool:
        """Whether the subject can have a guidance branch of its own; lite was trained without one."""
        return self.has_id_bias or self.has_ref


def describe_adapters(id_adapter: str | Path, ref_adapter: str | Path | None) -> AdapterSpec:
    """Describes the adapters in one or two folders from their headers.

    Args:
        id_adapter: Folder with the ID-adapter and its resampler.
        ref_adapter: Folder with the Ref-adapter; None leaves it out.

    Raises:
        MissingFile: If a file is not there.
        WeightsMismatch: If a tensor is missing, surplus or misshapen; names file, tensor, expected and found.
    """
    resampler = _describe_resampler(Path(id_adapter, RESAMPLER_FILE))
    file, token_size = Path(id_adapter, ID_FILE), resampler["token_size"]
    tensors = read_header(file)
    channels, _ = _shape(file, tensors, "0.to_k_ip.weight", rank=2)
    has_bias = "0.to_k_ip.bias" in tensors
    num_registers = _shape(file, tensors, "0.registers", rank=3)[1] if "0.registers" in tensors else 0
    layer: dict[str, Shape] = _pair("ip", channels, token_size, has_bias=has_bias)
    if num_registers:
        layer["registers"] = (1, num_registers, token_size)
    num_layers = _count_layers(tensors)
    compare_tensors(file, _repeated(layer, num_layers), tensors)
    return AdapterSpec(
        token_size=token_size,
        channels=channels,
        num_id_layers=num_layers,
        has_id_bias=has_bias,
        num_registers=num_registers,
        num_ref_layers=_count_ref_layers(Path(ref_adapter, REF_FILE), channels) if ref_adapter else 0,
        resampler=resampler,
        identity_encoder=_declared_encoder(Path(id_adapter, DECLARATION_FILE)),
    )


def check_fit(spec: AdapterSpec, *, num_blocks: int, channels: int) -> None:
    """Raises WeightsMismatch if the adapters were made for a base model of another size."""
    if spec.channels != channels:
        raise WeightsMismatch(f"adapters were made for {spec.channels} channels, but the base model has {channels}")
    expected = math.ceil(num_blocks / spec.id_stride)
    if spec.num_id_layers != expected:
        place = "every block" if spec.id_stride == 1 else "every second block"
        raise WeightsMismatch(
            f"ID-adapter has {spec.num_id_layers} layers, but one for {place} of the base model's {num_blocks} is {expected}"
        )
    if spec.has_ref and spec.num_ref_layers != num_blocks:
        raise WeightsMismatch(
            f"Ref-adapter has {spec.num_ref_layers} layers, but the base model has {num_blocks} blocks"
        )


def _describe_resampler(file: Path) -> ResamplerShape:
    tensors = read_header(file)
    _, num_queries, width = _shape(file, tensors, "latents", rank=3)
    inner_width, _ = _shape(file, tensors, "layers.0.0.to_q.weight", rank=2)
    if inner_width % HEAD_DIM:
        raise WeightsMismatch(
            f"{file}: tensor layers.0.0.to_q.weight: expected a multiple of {HEAD_DIM} rows, found {inner_width}"
        )
    resampler = ResamplerShape(
        depth=_count_layers(name.removeprefix("layers.") for name in tensors),
        width=width,
        inner_width=inner_width,
        ff_width=_shape(file, tensors, "layers.0.1.1.weight", rank=2)[0],
        num_queries=num_queries,
        embedding_size=EMBEDDING_SIZE,
        token_size=_shape(file, tensors, "proj_out.weight", rank=2)[0],
    )
    compare_tensors(file, _resampler_tensors(resampler), tensors)
    return resampler


def _resampler_tensors(resampler: ResamplerShape) -> dict[str, Shape]:
    width, inner, ff, token = (resampler[key] for key in ("width", "inner_width", "ff_width", "token_size"))
    layer: dict[str, Shape] = {
        "0.norm1.weight": (width,),
        "0.norm1.bias": (width,),
        "0.norm2.weight": (width,),
        "0.norm2.bias": (width,),
        "0.to_q.weight": (inner, width),
        "0.to_kv.weight": (2 * inner, width),
        "0.to_out.weight": (width, inner),
        "1.0.weight": (width,),
        "1.0.bias": (width,),
        "1.1.weight": (ff, width),
        "1.3.weight": (width, ff),
    }
    return {
        "latents": (1, resampler["num_queries"], width),
        "proj_in.weight": (width, resampler["embedding_size"]),
        "proj_in.bias": (width,),
        "proj_out.weight": (token, width),
        "proj_out.bias": (token,),
        "norm_out.weight": (token,),
        "norm_out.bias": (token,),
        **{f"layers.{name}": shape for name, shape in _repeated(layer, resampler["depth"]).items()},
    }


def _count_ref_layers(file: Path, channels: int) -> int:
    tensors = read_header(file)
    num_layers = _count_layers(tensors)
    expected = _repeated(_pair("ref", channels, channels, has_bias=True), max(1, num_layers))
    compare_tensors(file, expected, tensors)
    return num_layers


def _pair(kind: str, channels: int, token_size: int, *, has_bias: bool) -> dict[str, Shape]:
    """The key and value projection of one layer."""
    weights: dict[str, Shape] = {f"to_{which}_{kind}.weight": (channels, token_size) for which in "kv"}
    biases: dict[str, Shape] = {f"to_{which}_{kind}.bias": (channels,) for which in "kv"}
    return weights | biases if has_bias else weights


def _repeated(layer: Mapping[str, Shape], num_layers: int) -> dict[str, Shape]:
    return {f"{index}.{name}": shape for index in range(num_layers) for name, shape in layer.items()}


def _count_layers(names: Iterable[str]) -> int:
    """The number of different numbers that the names begin with. A gap shows up as a missing tensor later."""
    return len({first for first in (name.partition(".")[0] for name in names) if first.isdigit()})


def _shape(file: Path, tensors: Mapping[str, TensorHeader], name: str, *, rank: int) -> Shape:
    if name not in tensors:
        raise WeightsMismatch(f"{file}: tensor {name}: expected one of {rank} dimensions, found no such tensor")
    if len(tensors[name].shape) != rank:
        raise WeightsMismatch(f"{file}: tensor {name}: expected {rank} dimensions, found shape {tensors[name].shape}")
    return tensors[name].shape


def _declared_encoder(file: Path) -> str:
    if not file.is_file():
        return PUBLISHED_IDENTITY_ENCODER
    declaration = read_json(file)
    encoder = declaration.get("identity_encoder")
    if set(declaration) != {"identity_encoder"} or not isinstance(encoder, str):
        raise WeightsMismatch(f'{file}: must be {{"identity_encoder": NAME}}, found {declaration}')
    return encoder
