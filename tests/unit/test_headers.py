"""What headers tell of weight files: the variant and every dimension of adapters, and what is wrong with a file."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from lynx_model.checkpoints.adapter_spec import AdapterSpec, describe_adapters
from lynx_model.checkpoints.json_file import read_json
from lynx_model.checkpoints.safetensors_header import DTYPE_BYTES, TensorHeader, read_header
from lynx_model.errors import MissingFile, WeightsMismatch
from tests.models import MODEL

Tensors = dict[str, np.ndarray]

RESAMPLER = {"depth": 2, "width": 64, "inner_width": 64, "ff_width": 256, "num_queries": 16, "embedding_size": 512}

FULL = AdapterSpec(
    token_size=96,
    channels=96,
    num_id_layers=4,
    has_id_bias=True,
    num_registers=16,
    num_ref_layers=4,
    resampler={**RESAMPLER, "token_size": 96},
    identity_encoder="sface-512",
)
LITE = AdapterSpec(
    token_size=48,
    channels=96,
    num_id_layers=2,
    has_id_bias=False,
    num_registers=0,
    num_ref_layers=0,
    resampler={**RESAMPLER, "token_size": 48},
    identity_encoder="sface-512",
)


def copy_with(name: str, file: str, change: Callable[[Tensors], object], tmp_path: Path) -> Path:
    """The tiny adapter's folder with the tensors of one file changed."""
    for source in (MODEL / name).glob("*.safetensors"):
        tensors = load_file(source)
        if source.name == file:
            change(tensors)
        save_file(tensors, tmp_path / source.name)
    return tmp_path


def test_full_is_read_from_headers() -> None:
    spec = describe_adapters(MODEL / "lynx_full", MODEL / "lynx_full")
    assert spec == FULL
    assert (spec.has_ref, spec.has_image_guidance) == (True, True)


def test_lite_is_read_from_headers() -> None:
    spec = describe_adapters(MODEL / "lynx_lite", None)
    assert spec == LITE
    assert (spec.has_ref, spec.has_image_guidance) == (False, False)


def test_adapters_may_come_from_two_folders() -> None:
    spec = describe_adapters(MODEL / "lynx_lite", MODEL / "lynx_full")
    assert (spec.token_size, spec.num_id_layers, spec.has_id_bias, spec.num_ref_layers) == (48, 2, False, 4)
    assert (spec.has_ref, spec.has_image_guidance) == (True, True)


def test_the_variant_does_not_depend_on_the_name_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "lynx_lite"
    folder.symlink_to(MODEL / "lynx_full")
    assert describe_adapters(folder, folder) == FULL


def test_registers_may_be_absent(tmp_path: Path) -> None:
    def drop_registers(tensors: Tensors) -> None:
        for index in range(4):
            del tensors[f"{index}.registers"]

    folder = copy_with("lynx_full", "ip_layers.safetensors", drop_registers, tmp_path)
    spec = describe_adapters(folder, None)
    assert (spec.num_registers, spec.num_ref_layers, spec.has_image_guidance) == (0, 0, True)


def test_adapters_without_a_declaration_take_what_the_published_ones_take(tmp_path: Path) -> None:
    folder = copy_with("lynx_lite", "", lambda _: None, tmp_path)
    assert describe_adapters(folder, None).identity_encoder == "arcface-ir-se50"


@pytest.mark.parametrize("declaration", ["{}", '{"identity_encoder": 1}', '{"identity_encoder": "a", "more": 1}', "[]"])
def test_a_declaration_says_one_thing(tmp_path: Path, declaration: str) -> None:
    folder = copy_with("lynx_lite", "", lambda _: None, tmp_path)
    (folder / "lynx-adapter.json").write_text(declaration)
    with pytest.raises(WeightsMismatch, match=r"lynx-adapter\.json: must "):
        describe_adapters(folder, None)


def put(name: str, *shape: int) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: np.zeros(shape, np.float32)})


def drop(*names: str) -> Callable[[Tensors], object]:
    return lambda tensors: [tensors.pop(name) for name in names]


FAULTS = [
    ("ip_layers", drop("2.to_v_ip.bias"), "2.to_v_ip.bias: expected shape (96,), found no such tensor"),
    ("ip_layers", drop("0.to_k_ip.weight"), "0.to_k_ip.weight: expected one of 2 dimensions, found no such tensor"),
    ("ip_layers", put("3.to_k_ip.weight", 96, 48), "3.to_k_ip.weight: expected shape (96, 96), found shape (96, 48)"),
    ("ip_layers", put("0.to_k_ip.weight", 96), "0.to_k_ip.weight: expected 2 dimensions, found shape (96,)"),
    ("ip_layers", put("1.registers", 1, 8, 96), "1.registers: expected shape (1, 16, 96), found shape (1, 8, 96)"),
    ("ip_layers", put("5.to_k_ip.weight", 96, 96), "4.to_k_ip.weight: expected shape (96, 96), found no such tensor"),
    ("ip_layers", put("surplus", 1), "surplus: expected no such tensor, found shape (1,)"),
    ("ref_layers", drop("1.to_k_ref.bias"), "1.to_k_ref.bias: expected shape (96,), found no such tensor"),
    (
        "ref_layers",
        put("0.to_k_ref.weight", 64, 64),
        "0.to_k_ref.weight: expected shape (96, 96), found shape (64, 64)",
    ),
    ("ref_layers", lambda tensors: tensors.clear(), "0.to_k_ref.weight: expected shape (96, 96), found no such tensor"),
    ("resampler", drop("latents"), "latents: expected one of 3 dimensions, found no such tensor"),
    ("resampler", put("proj_in.weight", 64, 256), "proj_in.weight: expected shape (64, 512), found shape (64, 256)"),
    ("resampler", put("norm_out.bias", 48), "norm_out.bias: expected shape (96,), found shape (48,)"),
    (
        "resampler",
        put("layers.3.0.to_q.weight", 64, 64),
        "layers.2.0.norm1.weight: expected shape (64,), found no such",
    ),
    (
        "resampler",
        put("layers.0.0.to_q.weight", 80, 64),
        "layers.0.0.to_q.weight: expected a multiple of 64 rows, found 80",
    ),
]


@pytest.mark.parametrize(
    ("name", "change", "message"), FAULTS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_faulty_tensor_is_named_with_file_expected_and_found(
    tmp_path: Path, name: str, change: Callable[[Tensors], object], message: str
) -> None:
    folder = copy_with("lynx_full", f"{name}.safetensors", change, tmp_path)
    with pytest.raises(WeightsMismatch, match=re.escape(f"{folder / name}.safetensors: tensor {message}")):
        describe_adapters(folder, folder)


def test_a_resampler_of_the_other_variant_is_noticed(tmp_path: Path) -> None:
    folder = copy_with("lynx_full", "", lambda _: None, tmp_path)
    (folder / "resampler.safetensors").write_bytes((MODEL / "lynx_lite" / "resampler.safetensors").read_bytes())
    message = r"ip_layers\.safetensors: tensor 0\.to_k_ip\.weight: expected shape \(96, 48\), found shape \(96, 96\)"
    with pytest.raises(WeightsMismatch, match=message):
        describe_adapters(folder, folder)


@pytest.mark.parametrize("name", ["resampler.safetensors", "ip_layers.safetensors", "ref_layers.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    folder = copy_with("lynx_full", "", lambda _: None, tmp_path)
    (folder / name).unlink()
    with pytest.raises(MissingFile, match=f"{name}: no such file"):
        describe_adapters(folder, folder)


def test_a_file_in_place_of_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("no folder")
    with pytest.raises(MissingFile, match=r"model/config\.json: no such file"):
        read_json(tmp_path / "model" / "config.json")
    with pytest.raises(MissingFile, match=r"must be a file that can be read: Is a directory"):
        read_json(tmp_path)


def test_a_header_gives_type_and_shape_of_every_tensor(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    save_file({"a": np.zeros((2, 3), np.float16), "b": np.zeros((), np.int64)}, file, metadata={"format": "pt"})
    assert read_header(file) == {"a": TensorHeader("F16", (2, 3)), "b": TensorHeader("I64", ())}


def written(header: bytes, num_bytes: int = 0, length: int | None = None) -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header + bytes(num_bytes)


GOOD = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()


def tensor(dtype: object = "F32", shape: object = (2,), start: object = 0, end: object = 8) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    ("header", "num_bytes", "message"),
    [
        ({"a": tensor("F33")}, 8, "tensor a: dtype 'F33': must be one of BOOL"),
        ({"a": tensor("C64", (1,))}, 8, "tensor a: dtype 'C64': must be one of BOOL"),
        ({"a": tensor(5)}, 8, "its header must give dtype"),
        ({"a": tensor(shape=(3,))}, 8, "tensor a: expected 12 bytes of F32 in shape (3,), found 8"),
        ({"a": tensor(shape=(-2,))}, 8, "its header must give dtype"),
        ({"a": tensor(shape=(2.0,))}, 8, "its header must give dtype"),
        ({"a": tensor(shape=(True, 2))}, 8, "its header must give dtype"),
        ({"a": tensor(shape="ab")}, 8, "its header must give dtype"),
        ({"a": tensor(shape=(2**62, 2**62, 2))}, 8, "tensor a: expected "),
        ({"a": tensor(shape=(1,) * 65)}, 4, "its header must give dtype"),
        ({"a": tensor(start=8, end=16)}, 16, "tensor a: expected to begin at byte 0 of all, found 8"),
        ({"a": tensor(), "b": tensor(start=4, end=12)}, 12, "tensor b: expected to begin at byte 8 of all, found 4"),
        ({"a": tensor(), "b": tensor(start=12, end=20)}, 20, "tensor b: expected to begin at byte 8 of all, found 12"),
        ({"a": tensor(start=8, end=0)}, 8, "tensor a: expected 8 bytes of F32 in shape (2,), found -8"),
        ({"a": tensor(end=float("inf"))}, 8, "not a safetensors file: its header is not JSON"),
        ({"__metadata__": []}, 0, "__metadata__ in its header must be a map of text to text"),
        ({"__metadata__": {"a": 1}}, 0, "__metadata__ in its header must be a map of text to text"),
        ({"\ud800": tensor()}, 8, "not a safetensors file: its header is not JSON"),
    ],
    ids=str,
)
def test_a_header_that_lies_is_told_before_a_weight_is_read(
    tmp_path: Path, header: dict[str, object], num_bytes: int, message: str
) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(written(json.dumps(header).encode(), num_bytes))
    with pytest.raises(WeightsMismatch, match=re.escape(f"{file}: {message}")):
        read_header(file)


def test_each_type_is_as_wide_as_safetensors_says(tmp_path: Path) -> None:
    for dtype, width in DTYPE_BYTES.items():
        file = tmp_path / "x.safetensors"
        file.write_bytes(written(json.dumps({"a": tensor(dtype, (3,), 0, 3 * width)}).encode(), 3 * width))
        assert read_header(file) == {"a": TensorHeader(dtype, (3,))}
        with safe_open(file, "pt") as tensors:
            assert tensors.get_tensor("a").float().shape == (3,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "its header must end at byte 8, but it has 0 bytes"),
        (b"version https://git-lfs.github.com/spec/v1", "its header must end at byte"),
        (written(GOOD, 8, length=1000), "its header must end at byte 1008, but it has 77 bytes"),
        (written(GOOD, 7), "must have 77 bytes, as its header says, but has 76"),
        (written(GOOD, 9), "must have 77 bytes, as its header says, but has 78"),
        (written(b"not json"), "not a safetensors file: its header is not JSON"),
        (written(b"\xff\xfe"), "not a safetensors file: its header is not JSON"),
        (written(b"\xef\xbb\xbf{}"), "not a safetensors file: its header is not JSON"),
        (written("{}".encode("utf-16")), "not a safetensors file: its header is not JSON"),
        (written(b"[]"), "not a safetensors file: its header is not a JSON object"),
        (written(b'{"a": {"dtype": "F32"}}'), "its header must give dtype, shape and data_offsets of every tensor"),
        (written(b'{"a": 1}'), "its header must give dtype, shape and data_offsets of every tensor"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_damaged_file_is_named_with_what_is_wrong(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(content)
    with pytest.raises(WeightsMismatch, match=re.escape(f"{file}: {message}")):
        read_header(file)


def test_json_that_is_nested_too_deeply_is_told(tmp_path: Path) -> None:
    deep = b"[" * 100_000
    (tmp_path / "config.json").write_bytes(deep)
    (tmp_path / "a.safetensors").write_bytes(len(deep).to_bytes(8, "little") + deep)
    with pytest.raises(WeightsMismatch, match=r"config\.json: not JSON"):
        read_json(tmp_path / "config.json")
    with pytest.raises(WeightsMismatch, match=r"a\.safetensors: not a safetensors file"):
        read_header(tmp_path / "a.safetensors")
