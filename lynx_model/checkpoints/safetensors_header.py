"""Reads and validates the header of a safetensors file: type, shape and offsets of every tensor; free of torch.

So a damaged file is found before any weight is read, even where the library is not installed.
Format: https://huggingface.co/docs/safetensors (8 bytes little-endian length, JSON, then the tensors, without a gap).
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lynx_model.checkpoints.reading import reading
from lynx_model.errors import MissingFile, WeightsMismatch

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000
"""The limit of the library. Source: safetensors 0.8.0, MAX_HEADER_SIZE."""

METADATA = "__metadata__"

COUNT_LIMIT = 2**63
MAX_RANK = 64
"""The most dimensions that a tensor can have in torch."""

DTYPE_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64"), 8),
}
"""Size of one element. Leaves out the types of safetensors 0.8.0 that torch cannot cast to real numbers: C64, F4, F6_E2M3, F6_E3M2."""

REAL_DTYPES = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
"""The types that weights may have. Integers belong to a quantised file and mean nothing without its scales."""

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """`dtype` is safetensors' name of it, for example F32 or BF16."""

    dtype: str
    shape: Shape


def read_header(file: Path) -> dict[str, TensorHeader]:
    """Data type and shape of every tensor of a safetensors file, by name.

    Raises:
        MissingFile: If there is no such file.
        WeightsMismatch: If it is not a safetensors file, its size differs from what the header says, or a tensor's entry is impossible.
    """
    header, tensors_begin = _read_json_header(file)
    header.pop(METADATA, None)
    offsets: dict[str, tuple[int, int]] = {}
    tensors: dict[str, TensorHeader] = {}
    for name, entry in header.items():
        tensors[name], offsets[name] = _parse_entry(file, name, entry)
    expected_size = tensors_begin + _check_offsets(file, offsets)
    size = file.stat().st_size
    if size != expected_size:
        raise WeightsMismatch(f"{file}: must have {expected_size} bytes, as its header says, but has {size}")
    return tensors


def read_metadata(file: Path) -> dict[str, str]:
    """The metadata in the header of a safetensors file. Raises as `read_header` does."""
    header, _ = _read_json_header(file)
    return header.get(METADATA) or {}


def compare_tensors(file: Path, expected: Mapping[str, Shape], found: Mapping[str, TensorHeader]) -> None:
    """Raises WeightsMismatch for the first tensor that is missing, surplus, misshapen or not of a real type."""
    for name in [*expected, *(found.keys() - expected.keys())]:
        wanted = f"shape {expected[name]}" if name in expected else "no such tensor"
        seen = f"shape {found[name].shape}" if name in found else "no such tensor"
        if wanted != seen:
            raise WeightsMismatch(f"{file}: tensor {name}: expected {wanted}, found {seen}")
        if name in found and found[name].dtype not in REAL_DTYPES:
            raise WeightsMismatch(
                f"{file}: tensor {name}: expected one of {', '.join(REAL_DTYPES)}, found {found[name].dtype}"
            )


def _read_json_header(file: Path) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file, and the byte after it."""
    if not file.is_file():
        raise MissingFile(f"{file}: no such file")
    with reading(file), file.open("rb") as content:
        size = file.stat().st_size
        length = int.from_bytes(content.read(LENGTH_BYTES), "little")
        if size < LENGTH_BYTES + length:
            raise WeightsMismatch(
                f"{file}: its header must end at byte {LENGTH_BYTES + length}, but it has {size} bytes"
            )
        if length > MAX_HEADER_BYTES:
            raise WeightsMismatch(f"{file}: its header must have at most {MAX_HEADER_BYTES} bytes, but has {length}")
        return _parse_header(file, content.read(length)), LENGTH_BYTES + length


def _parse_header(file: Path, text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text.decode())
        # Python's parser accepts NaN and lone surrogates, which other parsers refuse
        json.dumps(header, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise WeightsMismatch(f"{file}: not a safetensors file: its header is not JSON") from error
    if not isinstance(header, dict):
        raise WeightsMismatch(f"{file}: not a safetensors file: its header is not a JSON object")
    metadata = {} if header.get(METADATA) is None else header[METADATA]
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise WeightsMismatch(f"{file}: {METADATA} in its header must be a map of text to text")
    return header


def _parse_entry(file: Path, name: str, entry: object) -> tuple[TensorHeader, tuple[int, int]]:
    """A tensor's type and shape, and the bytes at which it begins and ends."""
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [start, end]} if len(shape) <= MAX_RANK and all(
            map(_is_count, [*shape, start, end])
        ):
            pass
        case _:
            raise WeightsMismatch(f"{file}: its header must give dtype, shape and data_offsets of every tensor")
    if dtype not in DTYPE_BYTES:
        raise WeightsMismatch(f"{file}: tensor {name}: dtype {dtype!r}: must be one of {', '.join(DTYPE_BYTES)}")
    expected = math.prod(shape) * DTYPE_BYTES[dtype]
    if end - start != expected:
        raise WeightsMismatch(
            f"{file}: tensor {name}: expected {expected} bytes of {dtype} in shape {tuple(shape)}, found {end - start}"
        )
    return TensorHeader(dtype, tuple(shape)), (start, end)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < COUNT_LIMIT


def _check_offsets(file: Path, offsets: Mapping[str, tuple[int, int]]) -> int:
    """The byte at which the last tensor ends. Raises WeightsMismatch unless each tensor begins where the previous one ends."""
    position = 0
    for name, (start, end) in sorted(offsets.items(), key=lambda item: item[1]):
        if start != position:
            raise WeightsMismatch(f"{file}: tensor {name}: expected to begin at byte {position} of all, found {start}")
        position = end
    return position
