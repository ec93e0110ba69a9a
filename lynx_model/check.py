"""What a model folder holds, and whether its files fit each other; reads headers only, free of torch."""

from pathlib import Path
from typing import Any

from lynx_model.errors import MissingFile, WeightsMismatch
from lynx_model.faces.pack import find_pack
from lynx_model.geometry import LATENT_CHANNELS
from lynx_model.headers import ID_FILE, RESAMPLER_FILE, describe_adapters, read_header, read_json
from lynx_model.published import ARCFACE
from lynx_model.spec import REF_FILE

INDEX_FILE = "model_index.json"
COMPONENTS = ("transformer", "vae", "text_encoder")
"""Folders of a base model that hold weights."""

CONFIGS = ("transformer/config.json", "vae/config.json", "text_encoder/config.json", "scheduler/scheduler_config.json")
TRANSFORMER_COUNTS = ("num_attention_heads", "attention_head_dim", "num_layers", "in_channels")
TOKENIZER_FILES = ("tokenizer/tokenizer.json", "tokenizer/spiece.model")
"""Either is enough."""


def describe_folder(folder: Path) -> str:
    """One line on what a base, adapter, face pack or ArcFace folder holds, if its files fit each other.

    Raises:
        MissingFile: If a file is not there, or the folder is none of these.
        WeightsMismatch: If a file is damaged, or a tensor is missing, surplus or misshapen.
    """
    if (folder / INDEX_FILE).is_file():
        return _describe_base(folder)
    if any((folder / name).is_file() for name in (RESAMPLER_FILE, ID_FILE, REF_FILE)):
        return _describe_adapters(folder)
    if any(folder.glob("*.onnx")):
        pack = find_pack(str(folder.resolve()))
        return f"face pack {pack.name}, embeddings of {pack.identity_encoder}, licence: {pack.licence}"
    if (folder / Path(ARCFACE.path).name).is_file():
        return "ArcFace IR-SE50, the identity encoder of the published adapters"
    raise MissingFile(f"{folder}: must hold {INDEX_FILE}, {RESAMPLER_FILE}, a face pack's *.onnx or the ArcFace file")


def _describe_base(folder: Path) -> str:
    for name in CONFIGS:
        read_json(folder / name)
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise MissingFile(f"{folder}: must hold {' or '.join(TOKENIZER_FILES)}")
    num_tensors = sum(len(_component_tensors(folder / name)) for name in COMPONENTS)
    file = folder / "transformer" / "config.json"
    heads, head_dim, blocks, inputs = _counts(file, *TRANSFORMER_COUNTS)
    if inputs != LATENT_CHANNELS:
        raise WeightsMismatch(f"{file}: in_channels={inputs}: must be {LATENT_CHANNELS}, as in a text-to-video model")
    return f"base model, {blocks} blocks of {heads * head_dim} channels, {num_tensors} tensors"


def count_blocks(base: Path) -> int:
    """How many blocks a base model's transformer has, as its configuration says."""
    return _counts(base / "transformer" / "config.json", "num_layers")[0]


def _counts(file: Path, *names: str) -> list[int]:
    config = read_json(file)
    for name in names:
        if not isinstance(config.get(name), int):
            raise WeightsMismatch(f"{file}: {name}={config.get(name)!r}: must be a whole number")
    return [config[name] for name in names]


def _component_tensors(folder: Path) -> set[str]:
    """The tensors of one component, sharded or not. Raises unless each shard holds what the index says."""
    found = {
        file.name: set(read_header(file))
        for file in sorted(folder.glob("*.safetensors"))
        if not file.name.startswith(".")
    }
    indices = sorted(folder.glob("*.safetensors.index.json"))
    if not found and not indices:
        raise MissingFile(f"{folder}: must hold *.safetensors")
    if indices:
        _check_shards(indices[0], read_json(indices[0]), found)
    return set().union(*found.values())


def _check_shards(index_file: Path, index: dict[str, Any], found: dict[str, set[str]]) -> None:
    expected: dict[str, set[str]] = {}
    for tensor, shard in index.get("weight_map", {}).items():
        expected.setdefault(shard, set()).add(tensor)
    for shard, tensors in sorted(expected.items()):
        if shard not in found:
            raise MissingFile(f"{index_file.with_name(shard)}: no such file, but {index_file.name} names it")
        for tensor in sorted(tensors ^ found[shard]):
            wanted, seen = ("one", "none") if tensor in tensors else ("none", "one")
            raise WeightsMismatch(
                f"{index_file.with_name(shard)}: tensor {tensor}: expected {wanted} as {index_file.name} says, found {seen}"
            )


def _describe_adapters(folder: Path) -> str:
    spec = describe_adapters(folder, folder if (folder / REF_FILE).is_file() else None)
    variant = "full" if spec.has_id_bias else "lite"
    registers = f" with {spec.num_registers} registers" if spec.num_registers else ""
    ref = f", Ref-adapter of {spec.num_ref_layers} layers" if spec.has_ref else ", no Ref-adapter"
    return (
        f"Lynx-{variant}: ID-adapter of {spec.num_id_layers} layers{registers}{ref}; "
        f"{spec.channels} channels, {spec.resampler['num_queries']} identity tokens of {spec.token_size}; "
        f"takes embeddings of {spec.identity_encoder}"
    )
