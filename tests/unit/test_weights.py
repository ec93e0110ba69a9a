"""A checkpoint is loaded exactly or not at all."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lynx_model.checkpoints.safetensors_header import read_header
from lynx_model.errors import MissingFile, WeightsMismatch
from lynx_model.faces.identity import check_arcface
from lynx_model.network.adapters import IdAdapterLayer
from lynx_model.pipeline import LynxPipeline
from lynx_model.spec import EngineOptions, ModelSource
from lynx_model.weights import LoadedModel, load_model
from tests.builders import PARAMS, make_subject
from tests.models import BASE, MODEL, TRANSFORMER

NAME = "blocks.1.attn1.to_q.weight"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    shutil.copytree(BASE, tmp_path / "base")
    return tmp_path / "base"


def load(base: Path, dtype: str = "float32") -> LoadedModel:
    source = ModelSource.of(str(base), str(MODEL / "lynx_full"))
    return load_model(source, device=torch.device("cpu"), engine=EngineOptions().for_dtype(dtype))


def change(file: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file)


@pytest.mark.parametrize(
    ("edit", "fault"),
    [
        (lambda t: t.pop(NAME), rf"{NAME}: expected shape \(96, 96\), found no such tensor"),
        (lambda t: t.update(extra=torch.zeros(2)), r"extra: expected no such tensor, found shape \(2,\)"),
        (
            lambda t: t.update({NAME: torch.zeros(96, 95)}),
            rf"{NAME}: expected shape \(96, 96\), found shape \(96, 95\)",
        ),
    ],
    ids=["missing", "surplus", "misshapen"],
)
def test_a_tensor_that_does_not_fit_is_named(
    base: Path, edit: Callable[[dict[str, Tensor]], object], fault: str
) -> None:
    change(base / TRANSFORMER, edit)
    with pytest.raises(WeightsMismatch, match=rf"{TRANSFORMER.name}: tensor {fault}"):
        load(base)


@pytest.mark.parametrize(
    "missing", [TRANSFORMER, Path("vae", "config.json"), Path("scheduler", "scheduler_config.json")]
)
def test_a_missing_file_is_named(base: Path, missing: Path) -> None:
    (base / missing).unlink()
    with pytest.raises(MissingFile, match=missing.parent.name):
        load(base)


@pytest.mark.parametrize(
    ("file", "setting"),
    [
        ("transformer/config.json", {"patch_size": 3}),
        ("vae/config.json", {"base_dim": "wide"}),
        ("text_encoder/config.json", {"num_layers": "many"}),
        ("scheduler/scheduler_config.json", {"beta_schedule": "none"}),
        ("scheduler/scheduler_config.json", {"solver_order": "two"}),
    ],
)
def test_a_configuration_that_no_module_can_be_built_from_is_named(
    base: Path, file: str, setting: dict[str, object]
) -> None:
    config = json.loads((base / file).read_text())
    (base / file).unlink()
    (base / file).write_text(json.dumps(config | setting))
    with pytest.raises(WeightsMismatch, match=f"{file}: no module can be built from it: "):
        load(base)


def test_a_sharded_checkpoint_is_the_same_model(base: Path) -> None:
    expected = LynxPipeline.load(str(base), str(MODEL / "lynx_full"), "cpu", "float32").denoise(make_subject(), PARAMS)
    tensors = load_file(base / TRANSFORMER)
    shards: dict[str, dict[str, Tensor]] = {"a.safetensors": {}, "b.safetensors": {}}
    for number, (name, tensor) in enumerate(tensors.items()):
        shards["ab"[number % 2] + ".safetensors"][name] = tensor
    for name, shard in shards.items():
        save_file(shard, base / "transformer" / name)
    index = {"weight_map": {name: file for file, shard in shards.items() for name in shard}}
    (base / "transformer" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    (base / TRANSFORMER).unlink()

    sharded = LynxPipeline.load(str(base), str(MODEL / "lynx_full"), "cpu", "float32")
    assert torch.equal(sharded.denoise(make_subject(), PARAMS), expected)


@pytest.mark.parametrize("kept", ["shared.weight", "encoder.embed_tokens.weight"])
def test_the_text_encoders_one_embedding_may_have_either_name(base: Path, kept: str) -> None:
    expected = load(base).text_encoder.embed("a person")
    file = base / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    embedding = tensors.pop("shared.weight", None)
    embedding = embedding if embedding is not None else tensors["encoder.embed_tokens.weight"]
    tensors.pop("encoder.embed_tokens.weight", None)
    save_file({**tensors, kept: embedding}, file)
    assert torch.equal(load(base).text_encoder.embed("a person"), expected)


def test_only_what_must_stays_in_float32(base: Path) -> None:
    transformer = load(base, "bfloat16").transformer
    kept = set(transformer._keep_in_fp32_modules)
    dtypes = {name: parameter.dtype for name, parameter in transformer.named_parameters()}
    assert {name for name, dtype in dtypes.items() if dtype == torch.float32} == {
        name for name in dtypes if kept & set(name.split("."))
    }
    assert dtypes["blocks.1.attn1.to_qkv.weight"] == torch.bfloat16
    assert not any(parameter.requires_grad for parameter in transformer.parameters())


def test_lites_keys_are_normed_without_weight_and_with_an_eps_of_1e_5() -> None:
    """The reference cases cannot tell it from 1e-6: keys this small can."""
    layer = IdAdapterLayer(token_size=8, channels=8, has_bias=False, num_registers=0)
    torch.nn.init.eye_(layer.to_k_ip.weight)
    tokens = torch.full((1, 3, 8), 1e-3)
    attention = type("Attention", (), {"heads": 2})()
    key, _ = layer(tokens, attention)
    assert torch.allclose(key.flatten(2), tokens / (1e-6 + 1e-5) ** 0.5)


@pytest.mark.parametrize("read", [read_header, check_arcface])
def test_a_file_that_cannot_be_read_is_named_without_a_traceback(read: Callable[[Path], object]) -> None:
    unreadable = Path("/proc/self/mem")  # a regular file that not even root can read from its start
    with pytest.raises(MissingFile, match=r"/proc/self/mem: must be a file that can be read: Input/output error"):
        read(unreadable)
