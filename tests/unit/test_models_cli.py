"""`lynx-batch models`: what a person sees, and the exit codes."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import Result

from lynx_model.checkpoints.fingerprint import FINGERPRINT_FILE
from lynx_model.checkpoints.published import models_root
from lynx_model.faces.identity import ARCFACE_TENSORS
from tests.hub import Hub, serve
from tests.jobs import invoke
from tests.models import BASE, MODEL, TRANSFORMER
from tests.stores import read_folder


def run(*arguments: object) -> Result:
    return invoke("models", *arguments)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BASE, tmp_path / "base", ignore=shutil.ignore_patterns(FINGERPRINT_FILE)))


def edit_json(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("folder", "text"),
    [
        (BASE, "base model, 4 blocks of 96 channels, 291 tensors"),
        (
            MODEL / "lynx_full",
            "Lynx-full: ID-adapter of 4 layers with 16 registers, Ref-adapter of 4 layers; 96 channels, 16 identity tokens"
            " of 96; takes embeddings of sface-512",
        ),
        (
            MODEL / "lynx_lite",
            "Lynx-lite: ID-adapter of 2 layers, no Ref-adapter; 96 channels, 16 identity tokens of 48",
        ),
    ],
)
def test_check_says_what_a_folder_holds(folder: Path, text: str) -> None:
    result = run("check", folder)
    assert result.exit_code == 0
    assert f"{folder}: {text}" in result.output
    assert re.search(r"fingerprint \w{64}: every file is as recorded", result.output)


def test_check_knows_a_face_pack(face_pack: Path, tmp_path: Path) -> None:
    shutil.copytree(face_pack, tmp_path / "pack", ignore=shutil.ignore_patterns(FINGERPRINT_FILE))
    result = run("check", tmp_path / "pack")
    assert result.exit_code == 0
    assert "face pack free-yunet-sface, embeddings of sface-512, licence: " in result.output
    assert "recorded now" in result.output
    assert "every file is as recorded" in run("check", tmp_path / "pack").output


def test_check_knows_the_arcface_folder(tmp_path: Path) -> None:
    file = tmp_path / "recognition_arcface_ir_se50.pth"
    file.write_bytes(b"weights")
    assert f"{file}: must be a PyTorch file of an ArcFace IR-SE50" in run("check", tmp_path).output
    file.write_bytes(" ".join(ARCFACE_TENSORS).encode())
    assert "ArcFace IR-SE50, the identity encoder" in run("check", tmp_path).output


def test_check_finds_a_flipped_byte(base: Path) -> None:
    assert run("check", base).exit_code == 0
    file = base / "vae" / "diffusion_pytorch_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    result = run("check", base)
    assert result.exit_code == 2
    assert re.search(r"vae/diffusion_pytorch_model\.safetensors: expected sha256 \w{64}, found \w{64}", result.output)
    assert f"delete these files and pull again, or delete {FINGERPRINT_FILE}" in result.output


def drop_last_byte(base: Path) -> None:
    file = base / TRANSFORMER
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop_last_byte, r"diffusion_pytorch_model\.safetensors: must have \d+ bytes, as its header says, but has \d+"),
        (lambda base: (base / "scheduler" / "scheduler_config.json").unlink(), r"scheduler_config\.json: no such file"),
        (lambda base: (base / "vae" / "config.json").write_text("{"), r"vae/config\.json: not JSON"),
        (lambda base: (base / "tokenizer" / "tokenizer.json").unlink(), r"must hold tokenizer/tokenizer\.json, as"),
        (
            lambda base: (base / "text_encoder" / "model.safetensors").unlink(),
            r"text_encoder: must hold diffusion_pytorch_model\.safetensors or model\.safetensors, or an index",
        ),
        (lambda base: (base / "transformer_2").mkdir(), r"transformer_2: must not be there: Lynx is built on one"),
        (
            lambda base: edit_json(base / "transformer" / "config.json", in_channels=36),
            r"transformer/config\.json: in_channels=36: must be 16, as in a text-to-video model",
        ),
        (
            lambda base: edit_json(base / "transformer" / "config.json", num_layers=None),
            r"transformer/config\.json: num_layers=None: must be a whole number",
        ),
    ],
)
def test_check_names_a_faulty_file_of_a_base_model(base: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(base)
    result = run("check", base)
    assert result.exit_code == 2
    assert re.search(message, result.output)
    assert not (base / FINGERPRINT_FILE).exists()


def shard(folder: Path) -> Path:
    """Cuts the component's one file into two, with an index as published; returns the index."""
    file = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    file.unlink()
    halves = [dict(list(tensors.items())[start::2]) for start in (0, 1)]
    weight_map = {}
    for number, half in enumerate(halves, start=1):
        name = f"diffusion_pytorch_model-0000{number}-of-00002.safetensors"
        save_file(half, folder / name)
        weight_map |= dict.fromkeys(half, name)
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


def test_check_understands_shards(base: Path) -> None:
    index = shard(base / "transformer")
    assert "291 tensors" in run("check", base).output
    (base / FINGERPRINT_FILE).unlink()
    last = sorted(base.glob("transformer/*.safetensors"))[-1]
    content = last.read_bytes()
    last.unlink()
    assert f"{last.name}: no such file, but {index.name} names it" in run("check", base).output
    last.write_bytes(content)
    edit_json(index, weight_map=json.loads(index.read_text())["weight_map"] | {"lost": last.name})
    assert f"{last.name}: tensor lost: expected one as {index.name} says, found none" in run("check", base).output
    for weight_map in (None, {}, []):
        edit_json(index, weight_map=weight_map)
        assert (
            f"{index.name}: weight_map={weight_map!r}: must name the file of each tensor" in run("check", base).output
        )


@pytest.mark.parametrize(
    "name", ["../other/model.safetensors", "{tmp}/model.safetensors", "a/../model.safetensors", ".model.safetensors", 5]
)
def test_an_index_names_shards_of_its_own_folder_only(base: Path, tmp_path: Path, name: object) -> None:
    index = shard(base / "transformer")
    (tmp_path / "model.safetensors").write_bytes((base / "vae" / "diffusion_pytorch_model.safetensors").read_bytes())
    shown = name.format(tmp=tmp_path) if isinstance(name, str) else name
    edit_json(index, weight_map={"x": shown})
    result = run("check", base)
    assert result.exit_code == 2
    assert re.search(rf"{index.name}: (file name |weight_map: x=){re.escape(repr(shown))}: must be ", result.output)
    assert not (base / FINGERPRINT_FILE).exists()


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_check_refuses_a_folder_that_is_no_model(tmp_path: Path, folder: str) -> None:
    result = run("check", tmp_path / folder)
    assert result.exit_code == 2
    assert (
        "must hold model_index.json, resampler.safetensors, a face pack's *.onnx or the ArcFace file" in result.output
    )


def test_pull_says_where_the_weights_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LYNX_BATCH_MODELS", str(tmp_path))
    files = {
        f"{name}/{path}": c for name in ("lynx_full", "lynx_lite") for path, c in read_folder(MODEL / name).items()
    }
    with serve(Hub(repo_id="ByteDance/lynx", files=files)) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        result = run("pull", "full", "lite")
    assert result.exit_code == 0
    assert result.output.splitlines()[-2:] == [f"full: {tmp_path / 'lynx_full'}", f"lite: {tmp_path / 'lynx_lite'}"]
    checked = run("check", tmp_path / "lynx_full")
    assert checked.exit_code == 0
    assert checked.output.endswith(f"\nfrom ByteDance/lynx, revision {hub.commit}\n")
    assert run("check", MODEL / "lynx_full").output.endswith("its origin is not recorded\n")


@pytest.mark.parametrize("revision", ["c0ffee" + "0" * 34, "main"])
def test_a_revision_that_was_asked_for_is_the_one_that_check_reports(tmp_path: Path, revision: str) -> None:
    files = {f"lynx_lite/{path}": content for path, content in read_folder(MODEL / "lynx_lite").items()}
    with serve(Hub(repo_id="ByteDance/lynx", files=files)) as hub, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", hub.url)
        assert run("pull", "lite", "--root", tmp_path, "--revision", revision).exit_code == 0
    assert f"revision {hub.commit}" in run("check", tmp_path / "lynx_lite").output


def test_a_pull_that_may_succeed_later_has_an_exit_code_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    result = run("pull", "lite", "--root", tmp_path)
    assert result.exit_code == 4
    assert "error: ByteDance/lynx: cannot be reached" in result.output


@pytest.mark.parametrize("what", [[], ["all"], ["full", "lite"], ["arcface"]])
def test_a_revision_needs_one_repository(tmp_path: Path, what: list[str]) -> None:
    result = run("pull", *what, "--root", tmp_path, "--revision", "main")
    assert result.exit_code == 2
    assert "--revision main: name exactly one of base, full and lite with it" in result.output


def test_build_free_faces_leaves_a_complete_pack_alone(face_pack: Path) -> None:
    result = run("build-free-faces", face_pack)
    assert result.exit_code == 0
    assert result.output == f"face pack: {face_pack}\n"


def test_the_models_folder_is_chosen_by_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LYNX_BATCH_MODELS", str(tmp_path))
    assert models_root() == tmp_path
    monkeypatch.delenv("LYNX_BATCH_MODELS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert models_root() == tmp_path / "cache" / "lynx-batch" / "models"


def test_looking_at_weights_needs_neither_torch_nor_the_network() -> None:
    modules = "lynx_batch.cli.models, lynx_model.check, lynx_model.checkpoints.fingerprint, lynx_model.checkpoints.adapter_spec, lynx_model.checkpoints.published"
    heavy = {"torch", "ray", "diffusers", "transformers", "huggingface_hub", "onnx", "cv2"}
    code = f"import sys, {modules}; print(sorted({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
