"""Fingerprints: one value for a folder of weights, kept beside them, and noticed when it no longer fits."""

import hashlib
import json
import os
import re
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog

from lynx_model.checkpoints.digests import digest_files
from lynx_model.checkpoints.fingerprint import (
    FINGERPRINT_FILE,
    Fingerprint,
    fingerprint_file,
    fingerprint_folder,
    read_fingerprint,
    verify_folder,
    weight_files,
    write_fingerprint,
)
from lynx_model.errors import MissingFile, WeightsMismatch
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


def test_a_fingerprint_is_kept_beside_the_weights(folder: Path) -> None:
    fingerprint = fingerprint_folder(folder)
    kept = json.loads((folder / FINGERPRINT_FILE).read_text())
    assert kept["fingerprint"] == fingerprint
    assert kept["files"]["vae/weights.safetensors"] == {
        "sha256": hashlib.sha256(b"weights").hexdigest(),
        "num_bytes": len(b"weights"),
    }


def keep_as_fetched(folder: Path) -> None:
    files = digest_files(folder, weight_files(folder))
    write_fingerprint(folder, Fingerprint(files=files, source="ByteDance/lynx", revision="c0ffee"))


def replace_by_others_of_their_size(file: Path, way: str) -> None:
    """As `cp -p`, `rsync -a` or an editor would: with a time of writing that is old, or that of the file before."""
    other, before = file.with_name("other"), file.stat()
    written_ns = {"older": (0, 0), "kept": (before.st_atime_ns, before.st_mtime_ns)}.get(way)
    if way == "in place":
        file.write_bytes(file.read_bytes()[::-1])
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        return
    other.write_bytes(file.read_bytes()[::-1])
    if written_ns is not None:
        os.utime(other, ns=written_ns)
    other.replace(file)


@pytest.mark.parametrize("way", ["older", "kept", "newer", "in place"])
def test_own_weights_that_were_replaced_by_others_of_their_size_get_a_new_fingerprint(folder: Path, way: str) -> None:
    before = fingerprint_folder(folder)
    replace_by_others_of_their_size(folder / "vae" / "weights.safetensors", way)
    with structlog.testing.capture_logs() as events:
        after = fingerprint_folder(folder)
    assert after != before
    ((event,), kept) = events, read_fingerprint(folder)
    assert (event["event"], event["log_level"], event["folder"]) == ("weights_changed", "warning", str(folder))
    assert re.fullmatch(r"vae/weights\.safetensors: expected sha256 \w{64}, found \w{64}", event["differences"][0])
    assert (kept.value, verify_folder(folder)) == (after, [])
    with structlog.testing.capture_logs() as events:
        assert fingerprint_folder(folder) == after
    assert events == []


@pytest.mark.parametrize("way", ["older", "kept", "newer", "in place"])
def test_fetched_weights_that_were_replaced_are_refused(folder: Path, way: str) -> None:
    keep_as_fetched(folder)
    fingerprint_folder(folder)
    replace_by_others_of_their_size(folder / "vae" / "weights.safetensors", way)
    for _ in range(2):
        with pytest.raises(
            WeightsMismatch, match=r"vae/weights\.safetensors: expected .* as it came from ByteDance/lynx"
        ):
            fingerprint_folder(folder)


def test_weights_that_were_only_touched_are_the_same(folder: Path) -> None:
    keep_as_fetched(folder)
    fingerprint = fingerprint_folder(folder)
    (folder / "vae" / "weights.safetensors").touch()
    (folder / "vae" / "weights.safetensors").chmod(0o600)
    assert fingerprint_folder(folder) == fingerprint


def test_a_fingerprint_that_came_with_a_folder_is_no_proof_of_its_content(folder: Path, tmp_path: Path) -> None:
    fingerprint = fingerprint_folder(folder)
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert fingerprint_folder(copy) == fingerprint
    for where in ("second", "third"):
        copy = shutil.copytree(folder, tmp_path / where)
        replace_by_others_of_their_size(copy / "vae" / "weights.safetensors", "kept")
        assert fingerprint_folder(copy) != fingerprint


def test_what_lies_behind_a_symbolic_link_counts(folder: Path, tmp_path: Path) -> None:
    fingerprint = fingerprint_folder(folder)
    (folder / "vae").rename(tmp_path / "elsewhere")
    (folder / "vae").symlink_to(tmp_path / "elsewhere")
    (folder / "vae" / "back").symlink_to(folder)
    assert fingerprint_folder(folder) == fingerprint
    (tmp_path / "elsewhere" / "weights.safetensors").write_bytes(b"WEIGHTS")
    assert fingerprint_folder(folder) != fingerprint


@pytest.mark.parametrize("make", [lambda file: file.symlink_to("nowhere"), os.mkfifo])
def test_a_file_that_cannot_be_read_is_named(folder: Path, make: Callable[[Path], object]) -> None:
    make(folder / "vae" / "config.json")
    with pytest.raises(MissingFile, match=r"vae/config\.json: must be a "):
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


CHANGES: list[tuple[Callable[[Path], object], str]] = [
    (lambda file: file.write_bytes(b"longer weights"), "expected 7 bytes, found 14"),
    (lambda file: file.unlink(), "is missing"),
    (lambda file: file.with_name("more.safetensors").write_bytes(b""), "is surplus"),
]


@pytest.mark.parametrize(("change", "difference"), CHANGES)
def test_a_changed_folder_is_named_by_both_looks(
    folder: Path, change: Callable[[Path], object], difference: str
) -> None:
    keep_as_fetched(folder)
    change(folder / "vae" / "weights.safetensors")
    with pytest.raises(WeightsMismatch, match=rf"vae/\w+\.safetensors: {difference}.*lynx-batch models check"):
        fingerprint_folder(folder)
    (line,) = verify_folder(folder)
    assert re.fullmatch(rf"vae/\w+\.safetensors: {difference}", line)


@pytest.mark.parametrize(("change", "difference"), CHANGES)
def test_own_weights_of_other_names_and_sizes_get_a_new_fingerprint(
    folder: Path, change: Callable[[Path], object], difference: str
) -> None:
    before = fingerprint_folder(folder)
    change(folder / "vae" / "weights.safetensors")
    with structlog.testing.capture_logs() as events:
        assert fingerprint_folder(folder) != before
    (line,) = events[0]["differences"]
    assert re.fullmatch(rf"vae/\w+\.safetensors: {difference}", line)


def test_a_flipped_byte_is_found_by_hashing(folder: Path) -> None:
    fingerprint_folder(folder)
    (folder / "vae" / "weights.safetensors").write_bytes(b"weightz")
    (difference,) = verify_folder(folder)
    assert re.fullmatch(r"vae/weights\.safetensors: expected sha256 \w{64}, found \w{64}", difference)


def kept_text(files: dict[str, object], revision: object = None) -> str:
    return json.dumps({"schema_version": 1, "fingerprint": "x", "files": files, "source": None, "revision": revision})


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
        ("[" * 100_000, "not JSON"),
        (kept_text({"a.json": {"sha256": "x", "num_bytes": 1}}), "must hold schema_version"),
        (kept_text({"a.json": {"sha256": "0" * 64, "num_bytes": -1}}), "must hold schema_version"),
        (kept_text({"a.json": {"sha256": "0" * 64, "num_bytes": "1"}}), "must hold schema_version"),
        (kept_text({"a.json": {"sha256": "0" * 64}}), "must hold schema_version"),
        (kept_text({}, revision=1), "must hold schema_version"),
    ],
    ids=lambda value: value[:20],
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


def test_a_single_file_that_was_fetched_must_stay_as_it_was(folder: Path) -> None:
    file = folder / "vae" / "weights.safetensors"
    keep_as_fetched(folder / "vae")
    for content in (b"longer weights", b"WEIGHTS"):
        file.write_bytes(content)
        os.utime(file, ns=(0, 0))
        with pytest.raises(
            WeightsMismatch, match=r"weights\.safetensors: expected .*, found .*; it must be as it came"
        ):
            fingerprint_file(file)
    with pytest.raises(MissingFile, match=r"nothing\.pth: no such file"):
        fingerprint_file(folder / "nothing.pth")


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_single_file_that_was_replaced_is_another(folder: Path, is_kept: bool) -> None:
    file, other = folder / "vae" / "weights.safetensors", folder / "vae" / "config.json"
    other.write_text("{}")
    if is_kept:
        fingerprint_folder(folder / "vae")
    before = fingerprint_file(file)
    replace_by_others_of_their_size(file, "kept")
    assert fingerprint_file(file) == hashlib.sha256(b"weights"[::-1]).hexdigest() != before
    assert not is_kept or verify_folder(folder / "vae") == []


@pytest.mark.parametrize("name", ["Wan2.1-T2V-tiny-Diffusers", "lynx_full", "lynx_lite"])
def test_the_tiny_model_is_as_recorded(name: str) -> None:
    assert verify_folder(MODEL / name) == []
