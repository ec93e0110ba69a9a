"""Weights in a store: headers-only copies to check them, whole copies to render, each fetched once."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import structlog
import torch
from safetensors.torch import save_file

from lynx_batch import storage
from lynx_batch.config import RunConfig, parse_run_config
from lynx_batch.errors import ConfigError, MissingObject, Transient
from lynx_batch.preparation.model import check_model, locate_model
from lynx_batch.preparation.staging import fetch_weights, inspect_weights
from lynx_model.checkpoints.digests import digest_files
from lynx_model.checkpoints.fingerprint import (
    FINGERPRINT_FILE,
    Fingerprint,
    fingerprint_folder,
    read_fingerprint,
    write_fingerprint,
)
from lynx_model.checkpoints.loras import PEFT_CONFIG_FILE
from lynx_model.errors import MissingFile, WeightsMismatch
from lynx_model.faces.identity import ARCFACE_HEAD_BYTES, ARCFACE_TENSORS, check_arcface
from tests.models import BASE, MODEL, TRANSFORMER
from tests.stores import put, put_naming, read_folder, refusing_store

FULL = MODEL / "lynx_full"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A store of this test's own, on a machine with an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with refusing_store(monkeypatch):
        yield "s3://bucket/models"


def headers_of(uri: str) -> str:
    return inspect_weights(uri).path


def fingerprint(uri: str) -> str:
    return inspect_weights(uri).fingerprint()


def run_config(base: str, adapters: str, pack: str) -> RunConfig:
    faces = {"pack": pack, "identity": "pack"}
    model = {"base": base, "adapters": adapters}
    return parse_run_config({"manifest": "m", "output": "o", "model": model, "faces": faces}, source="test")


def test_a_model_in_a_store_has_the_identity_of_the_same_folders_here(store: str, face_pack: Path) -> None:
    fingerprint_folder(face_pack)
    here, there = (run_config(*map(place, (BASE, FULL, face_pack))) for place in (str, lambda f: put(f, store)))
    assert check_model(there).identity == check_model(here).identity


def test_a_model_in_a_store_must_be_complete(store: str, face_pack: Path, tmp_path: Path) -> None:
    base = shutil.copytree(BASE, tmp_path / "base", ignore=shutil.ignore_patterns(FINGERPRINT_FILE, "tokenizer"))
    for folder in (base, face_pack):
        fingerprint_folder(folder)
    with pytest.raises(MissingFile, match="must hold tokenizer"):
        check_model(run_config(*(put(folder, store) for folder in (base, FULL, face_pack))))


@pytest.mark.parametrize("bring", [headers_of, fetch_weights])
def test_a_lora_in_a_store_comes_with_the_peft_configuration_beside_it(
    store: str, tmp_path: Path, bring: Callable[[str], str]
) -> None:
    folder = tmp_path / "smile"
    folder.mkdir()
    for name in ("adapter_model.safetensors", "other.safetensors"):
        save_file({"base_model.model.blocks.0.attn1.to_q.lora_A.weight": torch.zeros(2, 4)}, folder / name)
    (folder / PEFT_CONFIG_FILE).write_text('{"lora_alpha": 8}', encoding="utf-8")
    fingerprint_folder(folder)
    localized = Path(bring(storage.join(put(folder, store), "adapter_model.safetensors")))
    assert json.loads(localized.with_name(PEFT_CONFIG_FILE).read_bytes()) == {"lora_alpha": 8}
    assert not localized.with_name("other.safetensors").exists()
    assert fingerprint(str(localized)) == fingerprint(str(folder / localized.name))


def test_an_arcface_file_in_a_store_is_checked_by_its_headers(store: str, tmp_path: Path) -> None:
    (tmp_path / "arcface").mkdir()
    file = tmp_path / "arcface" / "a.pth"
    file.write_bytes(" ".join(ARCFACE_TENSORS).encode() + bytes(ARCFACE_HEAD_BYTES))
    fingerprint_folder(file.parent)
    with_headers = Path(headers_of(storage.join(put(file.parent, store), file.name)))
    check_arcface(with_headers)
    assert with_headers.stat().st_size == file.stat().st_size


def test_which_adapters_a_folder_holds_is_seen_in_the_store(store: str) -> None:
    full, lite = (put(folder, store) for folder in (FULL, MODEL / "lynx_lite"))
    assert locate_model(run_config("base", full, "free").model).ref_adapter == full
    assert locate_model(run_config("base", lite, "free").model).ref_adapter is None


def test_a_headers_only_copy_takes_no_room_for_weights(store: str) -> None:
    folder = Path(headers_of(put(BASE, store)))
    weights = folder / TRANSFORMER
    assert weights.stat().st_size == (BASE / TRANSFORMER).stat().st_size
    assert weights.stat().st_blocks * 512 < weights.stat().st_size / 2


def test_a_staged_folder_is_the_stored_one_and_is_not_fetched_again(store: str) -> None:
    uri = put(FULL, store)
    folder = Path(fetch_weights(uri))
    assert folder.name == FULL.name
    assert read_folder(folder).keys() == read_folder(FULL).keys()
    assert fingerprint_folder(folder) == fingerprint_folder(FULL)
    storage.delete(storage.join(uri, "resampler.safetensors"))
    assert fetch_weights(uri) == str(folder)


def test_a_single_file_is_staged_without_the_rest_of_its_folder(store: str) -> None:
    file = Path(fetch_weights(storage.join(put(FULL, store), "ref_layers.safetensors")))
    assert file.read_bytes() == (FULL / file.name).read_bytes()
    assert read_folder(file.parent).keys() == {file.name, FINGERPRINT_FILE}
    with pytest.raises(ConfigError, match="must be listed"):
        fetch_weights(storage.join(store, FULL.name, "other.safetensors"))


def test_of_many_that_want_the_same_folder_one_fetches_it(store: str) -> None:
    uri = put(FULL, store)
    with structlog.testing.capture_logs() as events, ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(fetch_weights, [uri] * 8))) == 1
    assert [event["event"] for event in events] == ["weights_fetched"]


def test_an_interrupted_fetch_goes_on_with_what_is_missing(store: str) -> None:
    uri = put(FULL, store)
    missing, there = storage.join(uri, "resampler.safetensors"), storage.join(uri, "ip_layers.safetensors")
    storage.delete(missing)
    with pytest.raises(MissingObject, match="resampler"):
        fetch_weights(uri)
    storage.upload(FULL / "resampler.safetensors", missing)
    storage.delete(there)
    assert fingerprint_folder(Path(fetch_weights(uri))) == fingerprint_folder(FULL)


def test_a_file_that_came_out_different_is_refused(store: str) -> None:
    uri = put(FULL, store)
    file = storage.join(uri, "ip_layers.safetensors")
    storage.write_bytes(file, bytes(len(storage.read_bytes(file))))
    with pytest.raises(WeightsMismatch, match=r"ip_layers\.safetensors: must have size and sha256"):
        fetch_weights(uri)


def test_a_file_of_another_size_is_refused_before_anything_is_fetched(store: str) -> None:
    uri = put(FULL, store)
    storage.write_bytes(storage.join(uri, "ip_layers.safetensors"), b"short")
    with pytest.raises(WeightsMismatch, match="found 5 bytes"):
        headers_of(uri)


def test_a_disk_that_is_too_small_is_the_machines_fault_and_told_first(store: str, tmp_path: Path) -> None:
    shutil.copytree(FULL, tmp_path / "huge")
    kept = read_fingerprint(FULL)
    assert kept is not None
    files = {path: type(digest)(sha256=digest.sha256, num_bytes=10**18) for path, digest in kept.files.items()}
    write_fingerprint(tmp_path / "huge", Fingerprint(files=files))
    with pytest.raises(Transient, match=r"needs \d+\.0 GB for s3:.*its disk has"):
        fetch_weights(put(tmp_path / "huge", store))


@pytest.mark.parametrize("bring", [headers_of, fetch_weights])
@pytest.mark.parametrize(
    "name", ["../../x/y.pth", "../../../../../../x.json", "{tmp}/x.json", "vae/../../x.json", "..\\x.json", "./x.json"]
)
def test_a_name_in_a_stored_fingerprint_leads_nowhere_else(
    store: str, tmp_path: Path, bring: Callable[[str], str], name: str
) -> None:
    uri = put_naming(name.format(tmp=tmp_path), store)
    with pytest.raises(WeightsMismatch, match=rf"{FINGERPRINT_FILE}: file name '.*': must be relative|no backslash"):
        bring(uri)
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("bring", [headers_of, fetch_weights])
@pytest.mark.parametrize("name", [".x.json", "vae/.x/y.json", "x.py", "x.json.part", "vae/lynx-fingerprint.json"])
def test_a_stored_fingerprint_names_weights_only(
    store: str, tmp_path: Path, bring: Callable[[str], str], name: str
) -> None:
    with pytest.raises(WeightsMismatch, match=rf"file name '{name}': must end in one of .json, .model, .onnx"):
        bring(put_naming(name, store))
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("bring", [headers_of, fetch_weights])
def test_a_link_planted_in_the_cache_is_not_written_through(
    store: str, tmp_path: Path, bring: Callable[[str], str]
) -> None:
    uri = put_naming("vae/x.json", store)
    folder = Path(bring(uri))
    (tmp_path / "elsewhere").mkdir()
    shutil.rmtree(folder / "vae")
    (folder / "vae").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(WeightsMismatch, match=r"'vae/x\.json': must not pass a symbolic link that leaves"):
        bring(uri)
    assert list((tmp_path / "elsewhere").iterdir()) == []

    (folder / "vae").unlink()
    (folder / "vae").mkdir()
    (folder / "vae" / "x.json").symlink_to(tmp_path / "elsewhere" / "x.json")
    assert (Path(bring(uri)) / "vae" / "x.json").read_bytes() == b"planted"
    assert not (folder / "vae" / "x.json").is_symlink()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_folder_whose_uri_ends_in_dots_is_refused(store: str, tmp_path: Path) -> None:
    put_naming("x.json", store)
    with pytest.raises((WeightsMismatch, MissingObject)):
        fetch_weights(f"{store}/a/b/c/model/../..")
    assert not list(tmp_path.rglob("x.json"))


def swap(file: Path) -> None:
    """Other content of the same size, with the same time of writing."""
    before = file.stat()
    file.write_bytes(file.read_bytes()[::-1])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    "damage",
    [
        swap,
        lambda file: file.unlink(),
        lambda file: file.write_bytes(b"short"),
        lambda file: file.with_name("more.safetensors").write_bytes(b"surplus"),
        lambda file: file.with_name("diffusion_pytorch_model.safetensors.index.json").write_text("{}"),
    ],
    ids=["swapped", "gone", "short", "surplus", "an index"],
)
def test_staged_weights_are_trusted_for_their_content_only(store: str, damage: Callable[[Path], object]) -> None:
    uri = put(FULL, store)
    folder = Path(fetch_weights(uri))
    damage(folder / "ip_layers.safetensors")
    assert fetch_weights(uri) == str(folder)
    assert read_folder(folder) == read_folder(FULL)


@pytest.mark.parametrize("name", ["transformer/config.json", "transformer/diffusion_pytorch_model.safetensors"])
def test_an_outline_that_was_damaged_is_made_anew(store: str, name: str) -> None:
    uri = put(BASE, store)
    folder = Path(headers_of(uri))
    before = read_folder(folder)
    (swap if name.endswith(".json") else Path.unlink)(folder / name)
    assert read_folder(Path(headers_of(uri))) == before


def test_weights_in_a_store_are_named_by_what_is_kept_there(store: str) -> None:
    uri = put(FULL, store)
    assert fingerprint(uri) == fingerprint(str(FULL)) == fingerprint_folder(FULL)
    file = "ip_layers.safetensors"
    assert fingerprint(f"{uri}/{file}") == fingerprint(str(FULL / file)) == digest_files(FULL, [file])[file].sha256


def test_a_folder_without_fingerprint_says_how_to_make_one(store: str) -> None:
    uri = put(FULL, store)
    storage.delete(storage.join(uri, FINGERPRINT_FILE))
    with pytest.raises(MissingObject, match="lynx-batch models check"):
        fetch_weights(uri)
    storage.write_bytes(storage.join(uri, FINGERPRINT_FILE), json.dumps({"files": {}}).encode())
    with pytest.raises(WeightsMismatch, match="must hold schema_version"):
        fetch_weights(uri)


def test_what_is_on_this_machine_stays_where_it_is(tmp_path: Path) -> None:
    assert fetch_weights(str(tmp_path)) == headers_of(str(tmp_path)) == str(tmp_path)
    assert fetch_weights("free") == "free"
    assert os.listdir(tmp_path) == []
