"""Reads the tensor headers of one model component in the layout of diffusers and transformers: a folder with one file, or with shards
and their index. Free of torch.
"""

from pathlib import Path

from lynx_model.checkpoints.fingerprint import counts
from lynx_model.checkpoints.json_file import read_json
from lynx_model.checkpoints.names import below
from lynx_model.checkpoints.safetensors_header import TensorHeader, read_header
from lynx_model.errors import MissingFile, WeightsMismatch

CHECKPOINT_FILES = ("diffusion_pytorch_model.safetensors", "model.safetensors")
"""The names that diffusers and transformers give to unsharded weights."""


def read_checkpoint(folder: Path) -> dict[Path, dict[str, TensorHeader]]:
    """The tensors of each safetensors file of a component, sharded or not.

    Raises:
        MissingFile: If a file is not there.
        WeightsMismatch: If a file is damaged, the index names a file outside the folder, or a shard does not match the index.
    """
    index = next(iter(sorted(folder.glob("*.safetensors.index.json"))), None)
    if index is None:
        files = [folder / name for name in CHECKPOINT_FILES if (folder / name).is_file()]
        if not files:
            raise MissingFile(f"{folder}: must hold {' or '.join(CHECKPOINT_FILES)}, or an index of their shards")
        return {files[0]: read_header(files[0])}
    return {shard: _read_shard(shard, tensors, index) for shard, tensors in sorted(_read_index(index).items())}


def read_tensors(folder: Path) -> dict[str, TensorHeader]:
    """The tensors of all files of a component; raises as `read_checkpoint` does."""
    return {name: tensor for tensors in read_checkpoint(folder).values() for name, tensor in tensors.items()}


def _read_index(file: Path) -> dict[Path, set[str]]:
    """The names of the tensors in each shard."""
    weight_map = read_json(file).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightsMismatch(f"{file}: weight_map={weight_map!r}: must name the file of each tensor")
    shards: dict[str, set[str]] = {}
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or not counts(shard):
            raise WeightsMismatch(f"{file}: weight_map: {tensor}={shard!r}: must be a file of weights, and not hidden")
        shards.setdefault(shard, set()).add(tensor)
    return {below(file.parent, shard, source=str(file)): tensors for shard, tensors in shards.items()}


def _read_shard(file: Path, expected: set[str], index: Path) -> dict[str, TensorHeader]:
    if not file.is_file():
        raise MissingFile(f"{file}: no such file, but {index.name} names it")
    found = read_header(file)
    for tensor in sorted(expected ^ found.keys()):
        wanted, seen = ("one", "none") if tensor in expected else ("none", "one")
        raise WeightsMismatch(f"{file}: tensor {tensor}: expected {wanted} as {index.name} says, found {seen}")
    return found
