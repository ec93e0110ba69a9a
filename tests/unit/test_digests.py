"""Each file is hashed once a machine, and again only if it may have changed."""

import errno
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lynx_model.checkpoints import digests, fingerprint
from lynx_model.checkpoints.digests import digest_files, hash_files
from lynx_model.checkpoints.fingerprint import FINGERPRINT_FILE, fingerprint_folder

NAMES = ["a.safetensors", "vae/b.safetensors"]
NUM_BYTES = 2**20


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of what this machine remembers, which is not there yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "lynx-batch" / "file-hashes"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        (tmp_path / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "model" / name).write_bytes(name[0].encode() * NUM_BYTES)
    return tmp_path / "model"


def files_read(call: Callable[[], object]) -> float:
    """How many files' worth of bytes this process reads during `call`."""
    before = _bytes_read()
    call()
    return round((_bytes_read() - before) / NUM_BYTES, 1)


def _bytes_read() -> int:
    return int(re.search(r"rchar: (\d+)", Path("/proc/self/io").read_text())[1])


def test_the_second_call_hashes_nothing(folder: Path) -> None:
    assert files_read(lambda: fingerprint_folder(folder)) == 2
    assert files_read(lambda: fingerprint_folder(folder)) == 0


def test_a_folder_that_came_with_its_fingerprint_is_hashed_once(folder: Path, memory: Path) -> None:
    fingerprint_folder(folder)
    for file in memory.iterdir():
        file.unlink()
    kept = (folder / FINGERPRINT_FILE).read_bytes()
    assert files_read(lambda: fingerprint_folder(folder)) == 2
    assert files_read(lambda: fingerprint_folder(folder)) == 0
    assert (folder / FINGERPRINT_FILE).read_bytes() == kept


def test_a_folder_that_cannot_be_written_to_is_hashed_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mock of what keeps the fingerprint, because root may write anywhere."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(fingerprint, "write_fingerprint", refuse)
    assert files_read(lambda: fingerprint_folder(folder)) == 2
    assert files_read(lambda: fingerprint_folder(folder)) == 0
    assert not (folder / FINGERPRINT_FILE).exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.touch(),
        lambda file: file.chmod(0o600),
        lambda file: file.write_bytes(b"x" * NUM_BYTES),
        lambda file: os.link(file, file.with_name("second name")),
        lambda file: file.with_name("new").write_bytes(file.read_bytes()) and file.with_name("new").replace(file),
    ],
    ids=["touched", "chmod", "written", "linked", "replaced"],
)
@pytest.mark.parametrize("is_time_set_back", [True, False])
def test_what_may_have_changed_is_hashed_again(
    folder: Path, change: Callable[[Path], object], is_time_set_back: bool
) -> None:
    digest_files(folder, NAMES)
    file = folder / NAMES[0]
    before = file.stat()
    change(file)
    if is_time_set_back:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    found = {}
    assert files_read(lambda: found.update(digest_files(folder, NAMES))) == 1
    assert found[NAMES[0]].sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert files_read(lambda: digest_files(folder, NAMES)) == 0


def test_a_file_that_changes_right_after_it_was_hashed_is_noticed(folder: Path) -> None:
    """Also within one tick of the file system's clock, which stands still for some milliseconds."""
    file = folder / "fast.safetensors"
    for turn in range(40):
        content = str(turn).zfill(3).encode()
        with file.open("r+b" if turn else "wb") as opened:
            opened.write(content)
        assert digest_files(folder, [file.name])[file.name].sha256 == hashlib.sha256(content).hexdigest()


def test_a_file_that_changes_while_it_is_hashed_is_not_remembered(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mock, because no file can be changed at that moment on purpose."""
    real = digests.hash_file

    def hash_and_change(file: Path) -> digests.FileDigest:
        digest = real(file)
        file.write_bytes(b"y" * NUM_BYTES)
        return digest

    monkeypatch.setattr(digests, "hash_file", hash_and_change)
    digest_files(folder, NAMES[:1])
    monkeypatch.setattr(digests, "hash_file", real)
    expected = hashlib.sha256(b"y" * NUM_BYTES).hexdigest()
    assert digest_files(folder, NAMES[:1])[NAMES[0]].sha256 == expected


def damaged(entry: list[object]) -> list[bytes]:
    whole = json.dumps({NAMES[0]: entry}).encode()
    faulty = [entry[:-1], [*entry, 1], ["0" * 63, *entry[1:]], [None, *entry[1:]], [entry[0], "1", *entry[2:]], 5]
    return [b"", b"{", b"[]", b"null", whole[:-5], b"[" * 10_000, b"\xff\xfe", *(_of(each) for each in faulty)]


def _of(entry: object) -> bytes:
    return json.dumps({NAMES[0]: entry}).encode()


def test_a_damaged_memory_is_none(folder: Path, memory: Path) -> None:
    digest_files(folder, NAMES[:1])
    (file,) = memory.iterdir()
    for content in damaged(json.loads(file.read_bytes())[NAMES[0]]):
        file.write_bytes(content)
        assert files_read(lambda: digest_files(folder, NAMES[:1])) == 1, content[:80]
        assert files_read(lambda: digest_files(folder, NAMES[:1])) == 0, content[:80]


def test_a_memory_that_cannot_be_written_costs_time_only(folder: Path, memory: Path) -> None:
    memory.parent.mkdir(parents=True)
    memory.write_text("no folder")
    for _ in range(2):
        assert files_read(lambda: digest_files(folder, NAMES)) == 2


def test_files_that_were_hashed_in_turn_are_all_remembered(folder: Path) -> None:
    for name in NAMES:
        digest_files(folder, [name])
    assert files_read(lambda: digest_files(folder, NAMES)) == 0
    assert files_read(lambda: hash_files(folder, NAMES)) == 2


def test_the_memory_is_bounded(folder: Path, memory: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(digests, "MAX_FOLDERS", 3)
    monkeypatch.setattr(digests, "MAX_FILES", 2)
    for index in range(5):
        folder = tmp_path / str(index)
        folder.mkdir()
        names = [f"{index}-{number}.json" for number in range(3)]
        for name in names:
            (folder / name).write_text(name)
        digest_files(folder, names[:2])
        digest_files(folder, names[2:])
    remembered = [json.loads(file.read_bytes()) for file in memory.iterdir()]
    assert sorted(map(sorted, remembered)) == [[f"{i}-0.json", f"{i}-2.json"] for i in (2, 3, 4)]


def test_processes_that_hash_the_same_folder_at_once_agree(folder: Path, memory: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from lynx_model.checkpoints.fingerprint import fingerprint_folder;"
        "print(fingerprint_folder(Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", code, str(folder)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    outputs = {process.communicate()[0].strip() for process in running}
    assert outputs == {fingerprint_folder(folder)}
    assert files_read(lambda: fingerprint_folder(folder)) == 0
    assert [file.suffix for file in memory.iterdir()] == [".json"]
