"""Photos are hashed once, and remembered without being told."""

import hashlib
import json
import os
import socket
from pathlib import Path

import pytest

from lynx_batch.intake.photos import PhotoProblem, hash_photos


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "lynx-batch" / "photo-hashes.json"


def write_photos(folder: Path, num_photos: int) -> dict[str, str]:
    """URI -> sha256 of a few files."""
    hashes = {}
    for index in range(num_photos):
        content = f"photo {index}".encode()
        (folder / f"{index}.jpg").write_bytes(content)
        hashes[str(folder / f"{index}.jpg")] = hashlib.sha256(content).hexdigest()
    return hashes


def test_each_photo_is_named_by_its_content(tmp_path: Path) -> None:
    hashes = write_photos(tmp_path, 40)
    assert hash_photos([*hashes, *hashes]) == hashes


def test_what_cannot_be_read_is_a_reason_and_no_exception(tmp_path: Path) -> None:
    (good,) = write_photos(tmp_path, 1)
    found = hash_photos([good, str(tmp_path / "none.jpg"), str(tmp_path), "nonsense://user:secret@x/a.jpg?sig=secret"])
    problems = [photo for photo in found.values() if isinstance(photo, PhotoProblem)]
    assert [problem.error_type for problem in problems] == ["MissingObject", "MissingObject", "ConfigError"]
    assert not any(problem.is_transient for problem in problems)
    assert not any("secret" in problem.error for problem in problems)
    assert isinstance(found[good], str)


def test_a_host_that_is_down_is_no_missing_photo() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{nobody.getsockname()[1]}/a.jpg"
        (problem,) = hash_photos([uri]).values()
    assert isinstance(problem, PhotoProblem)
    assert (problem.error_type, problem.is_transient) == ("StoreUnavailable", True)


def test_a_photo_that_is_remembered_is_not_read_again(tmp_path: Path, memory: Path) -> None:
    hashes = write_photos(tmp_path, 1)
    hash_photos(hashes)
    (key,) = json.loads(memory.read_text())
    memory.write_text(json.dumps({key: "f" * 64}))
    assert hash_photos(hashes) == dict.fromkeys(hashes, "f" * 64)


def test_a_photo_that_changed_is_read_again(tmp_path: Path) -> None:
    ((uri, before),) = write_photos(tmp_path, 1).items()
    hash_photos([uri])
    Path(uri).write_bytes(b"PHOTO 0")
    os.utime(uri, ns=(0, 0))
    assert hash_photos([uri])[uri] == hashlib.sha256(b"PHOTO 0").hexdigest() != before


def test_the_memory_holds_no_uri(tmp_path: Path, memory: Path) -> None:
    hash_photos(write_photos(tmp_path, 2))
    text = memory.read_text()
    assert ".jpg" not in text
    assert str(tmp_path) not in text
    assert len(json.loads(text)) == 2


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"a": 1}', b"\xff\xfe", b"[" * 100_000])
def test_a_memory_that_cannot_be_read_is_ignored_and_replaced(tmp_path: Path, memory: Path, content: bytes) -> None:
    memory.parent.mkdir(parents=True)
    memory.write_bytes(content)
    hashes = write_photos(tmp_path, 1)
    assert hash_photos(hashes) == hashes
    assert list(json.loads(memory.read_text()).values()) == list(hashes.values())


def test_a_memory_that_cannot_be_written_is_no_fault(
    tmp_path: Path, memory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    memory.mkdir(parents=True)
    hashes = write_photos(tmp_path, 1)
    assert hash_photos(hashes) == hashes
    assert "photo_hashes_not_remembered" in "".join(capsys.readouterr())
