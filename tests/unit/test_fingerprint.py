"""Fingerprints: one value for a folder of weights, kept beside them, and noticed when it no longer fits."""

import hashlib
import json
import os
import re
import resource
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lynx_model.errors import MissingFile, WeightsMismatch
from lynx_model.fingerprint import FINGERPRINT_FILE, fingerprint_file, fingerprint_folder, verify_folder
from tests.models import MODEL


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "vae").mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    (folder / "vae" / "weights.safetensors").write_bytes(b"weights")
    return folder


def test_a_fingerprint_is_what_sha256sum_would_print_hashed_again(folder: Path) -> None:
    lines = [
        f"{hashlib.sha256(b'{}').hexdigest()}  model_index.json\n",
        f"{hashlib.sha256(b'weights').hexdigest()}  vae/weights.safetensors\n",
    ]
    assert fingerprint_folder(folder) == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_a_fingerprint_is_kept_and_read_the_next_time(folder: Path) -> None:
    fingerprint = fingerprint_folder(folder)
    kept = json.loads((folder / FINGERPRINT_FILE).read_text())
    assert kept["fingerprint"] == fingerprint
    assert kept["files"]["vae/weights.safetensors"]["num_bytes"] == len(b"weights")
    weights = folder / "vae" / "weights.safetensors"
    weights.write_bytes(b"WEIGHTS")
    os.utime(weights, ns=(0, 0))  # of the same size and old: only `models check` looks inside
    assert fingerprint_folder(folder) == fingerprint


def test_weights_that_were_replaced_by_others_of_their_size_are_noticed(folder: Path) -> None:
    fingerprint = fingerprint_folder(folder)
    weights, later_ns = folder / "vae" / "weights.safetensors", time.time_ns() + 10**9
    os.utime(weights, ns=(later_ns, later_ns))
    assert fingerprint_folder(folder) == fingerprint, "touched, but the same"

    weights.write_bytes(b"WEIGHTS")
    os.utime(weights, ns=(later_ns, later_ns))
    with pytest.raises(WeightsMismatch, match=rf"weights\.safetensors: changed since .*{FINGERPRINT_FILE} was written"):
        fingerprint_folder(folder)


@pytest.mark.parametrize("name", ["README.md", "LICENSE", "LICENSE.txt", ".hidden.json", ".cache/state.json"])
def test_files_that_change_no_picture_do_not_count(folder: Path, name: str) -> None:
    fingerprint = fingerprint_folder(folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("anything")
    assert fingerprint_folder(folder) == fingerprint
    assert verify_folder(folder) == []


@pytest.mark.parametrize("name", ["tokenizer/spiece.model", "vae/config.json", "det.onnx", "face.pth", "x.safetensors"])
def test_files_that_change_the_picture_count(folder: Path, name: str) -> None:
    before = fingerprint_folder(folder)
    (folder / FINGERPRINT_FILE).unlink()
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("anything")
    assert fingerprint_folder(folder) != before


def test_a_renamed_file_changes_the_fingerprint(folder: Path) -> None:
    before = fingerprint_folder(folder)
    (folder / FINGERPRINT_FILE).unlink()
    (folder / "vae" / "weights.safetensors").rename(folder / "vae" / "other.safetensors")
    assert fingerprint_folder(folder) != before


CHANGES: list[tuple[Callable[[Path], object], str, str]] = [
    (lambda file: file.write_bytes(b"longer weights"), "expected 7 bytes", "expected 7 bytes, found 14"),
    (lambda file: file.unlink(), "expected 7 bytes .*, found no such file", "is missing"),
    (lambda file: file.with_name("more.safetensors").write_bytes(b""), "expected no such file", "is surplus"),
]


@pytest.mark.parametrize(("change", "stale", "verified"), CHANGES)
def test_a_changed_folder_is_named_by_both_looks(
    folder: Path, change: Callable[[Path], object], stale: str, verified: str
) -> None:
    fingerprint_folder(folder)
    change(folder / "vae" / "weights.safetensors")
    with pytest.raises(WeightsMismatch, match=rf"vae/\w+\.safetensors: {stale}.*lynx-batch models check"):
        fingerprint_folder(folder)
    (difference,) = verify_folder(folder)
    assert re.fullmatch(rf"vae/\w+\.safetensors: {verified}", difference)


def test_a_flipped_byte_is_found_by_hashing(folder: Path) -> None:
    fingerprint_folder(folder)
    (folder / "vae" / "weights.safetensors").write_bytes(b"weightz")
    (difference,) = verify_folder(folder)
    assert re.fullmatch(r"vae/weights\.safetensors: expected sha256 \w{64}, found \w{64}", difference)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "must hold schema_version"),
        ('{"files": {}}', "must hold schema_version"),
        (
            '{"schema_version": 1, "fingerprint": "x", "files": {}, "source": null, "revision": null}',
            "must be of schema version 1",
        ),
    ],
)
def test_a_damaged_fingerprint_file_is_an_error(folder: Path, content: str, message: str) -> None:
    (folder / FINGERPRINT_FILE).write_text(content)
    with pytest.raises(WeightsMismatch, match=rf"{FINGERPRINT_FILE}: {message}"):
        fingerprint_folder(folder)


def test_a_folder_that_cannot_be_written_has_a_fingerprint_all_the_same(folder: Path) -> None:
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        fingerprint = fingerprint_folder(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(os.listdir(folder)) == ["model_index.json", "vae"]
    assert fingerprint_folder(folder) == fingerprint


@pytest.mark.parametrize("name", ["nowhere", "empty", "a file"])
def test_a_folder_without_weights_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a file").write_text("no folder")
    with pytest.raises(MissingFile, match="must be a folder that holds weights"):
        fingerprint_folder(tmp_path / name)


def test_there_is_nothing_to_verify_without_a_kept_fingerprint(folder: Path) -> None:
    with pytest.raises(MissingFile, match=FINGERPRINT_FILE):
        verify_folder(folder)


def test_a_single_file_is_named_by_its_hash(folder: Path) -> None:
    file, digest = folder / "vae" / "weights.safetensors", hashlib.sha256(b"weights").hexdigest()
    assert fingerprint_file(file) == digest
    assert not (folder / "vae" / FINGERPRINT_FILE).exists()
    fingerprint_folder(folder / "vae")
    assert fingerprint_file(file) == digest


def test_a_single_file_of_another_size_than_kept_is_an_error(folder: Path) -> None:
    fingerprint_folder(folder / "vae")
    (folder / "vae" / "weights.safetensors").write_bytes(b"longer weights")
    with pytest.raises(WeightsMismatch, match=r"expected 7 bytes .* found 14 bytes"):
        fingerprint_file(folder / "vae" / "weights.safetensors")
    with pytest.raises(MissingFile, match=r"nothing\.pth: no such file"):
        fingerprint_file(folder / "nothing.pth")


@pytest.mark.parametrize("name", ["Wan2.1-T2V-tiny-Diffusers", "lynx_full", "lynx_lite"])
def test_the_demo_model_is_as_recorded(name: str) -> None:
    assert verify_folder(MODEL / name) == []
