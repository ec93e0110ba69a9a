"""Objects by URI, on local files and in memory; `tests/integration/test_s3.py` does the same on S3."""

import os
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from lynx_batch import storage
from lynx_batch.errors import ConfigError, LynxError, MissingObject, StoreRefused, StoreUnavailable
from tests.web import serving


@pytest.fixture(params=["local", "file", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    places = {"local": str(tmp_path), "file": f"file://{tmp_path}", "memory": f"memory://{tmp_path.name}"}
    return places[request.param]


def test_what_is_written_is_read(folder: str) -> None:
    uri = storage.join(folder, "a", "b.bin")
    storage.write_bytes(uri, b"first")
    storage.write_bytes(uri, b"second")
    assert storage.read_bytes(uri) == b"second"
    stored = storage.stat(uri)
    assert stored is not None
    assert stored.num_bytes == 6
    storage.delete(uri)
    storage.delete(uri)
    assert storage.stat(uri) is None


def test_a_local_file_is_uploaded(folder: str, tmp_path: Path) -> None:
    (tmp_path / "video").write_bytes(b"frames")
    storage.upload(tmp_path / "video", storage.join(folder, "up", "video"))
    assert storage.read_bytes(storage.join(folder, "up", "video")) == b"frames"


def test_a_part_of_an_object_is_read_and_the_whole_is_downloaded(folder: str, tmp_path: Path) -> None:
    uri = storage.join(folder, "weights")
    storage.write_bytes(uri, b"0123456789")
    assert storage.read_range(uri, 2, 5) == b"234"
    assert storage.read_range(uri, 8, 99) == b"89"
    storage.download(uri, tmp_path / "here")
    assert (tmp_path / "here").read_bytes() == b"0123456789"


def test_a_missing_object_is_named(folder: str) -> None:
    with pytest.raises(MissingObject, match=r"nowhere\.jpg"):
        storage.read_bytes(storage.join(folder, "nowhere.jpg"))


def test_files_are_listed_at_any_depth_with_uris_that_can_be_read(folder: str) -> None:
    names = {"l/a", "l/b/c", "l/b/d/e"}
    for name in names:
        storage.write_bytes(storage.join(folder, name), name.encode())
    files = list(storage.list_files(storage.join(folder, "l")))
    assert {storage.read_bytes(file.uri).decode() for file in files} == names
    assert {file.num_bytes for file in files} == {3, 5, 7}
    assert list(storage.list_files(storage.join(folder, "nothing"))) == []


def test_files_of_the_working_folder_are_listed_by_names_that_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {".hidden/a", "b", "c/d/e"}
    for name in names:
        storage.write_bytes(name, name.encode())
    assert {storage.read_bytes(file.uri).decode() for file in storage.list_files(".")} == names


def test_the_rest_of_a_killed_write_is_not_listed(tmp_path: Path) -> None:
    (tmp_path / ".0123456789abcdef.tmp").write_bytes(b"half")
    assert list(storage.list_files(str(tmp_path))) == []


def test_only_the_first_create_only_put_is_told_that_it_created(folder: str) -> None:
    uri = storage.join(folder, "c", "once")
    assert storage.create_only(uri, b"first")
    assert not storage.create_only(uri, b"second")
    assert storage.read_bytes(uri) == b"first"


def test_nothing_is_left_of_a_put_that_failed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreRefused, match="cannot write"):
        storage.write_bytes(str(tmp_path / "file" / "below"), b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("uri", "base", "expected"),
    [
        ("a.jpg", "/photos", "/photos/a.jpg"),
        ("/x/a.jpg", "/photos", "/x/a.jpg"),
        ("s3://b/a.jpg", "/photos", "s3://b/a.jpg"),
        ("a.jpg", "s3://b/photos", "s3://b/photos/a.jpg"),
        ("../a.jpg", "s3://b/photos", "s3://b/a.jpg"),
        ("../../../a.jpg", "s3://b/photos", "s3://b/a.jpg"),
    ],
)
def test_relative_uris_start_from_their_folder(uri: str, base: str, expected: str) -> None:
    assert storage.resolve(uri, base) == expected


def test_an_unknown_scheme_is_an_error_of_the_one_who_wrote_it() -> None:
    with pytest.raises(ConfigError, match="nosuch"):
        storage.read_bytes("nosuch://bucket/a")


class Refusal(BaseHTTPRequestHandler):
    """Answers with the status that the path names."""

    def do_GET(self) -> None:
        self.send_response(int(self.path[1:4]))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Stays silent."""


@pytest.fixture
def web_server() -> Iterator[str]:
    with serving(Refusal) as address:
        yield address


@pytest.mark.parametrize(("status", "kind"), [(403, StoreRefused), (404, MissingObject), (500, StoreUnavailable)])
def test_a_signed_url_that_fails_keeps_its_secrets(web_server: str, status: int, kind: type[LynxError]) -> None:
    uri = f"http://name:{'pass' + 'word'}@{web_server}/{status}?{'signa' + 'ture'}=x"
    with pytest.raises(kind, match=f"{web_server}/{status}") as caught:
        storage.read_bytes(uri)
    shown = "".join(traceback.format_exception(caught.value))
    assert "password" not in shown
    assert "signature" not in shown


def test_the_version_of_a_local_file_changes_with_its_content_whatever_its_time_of_writing(tmp_path: Path) -> None:
    file, other = tmp_path / "photo.jpg", tmp_path / "other.jpg"
    file.write_bytes(b"first")
    before, status = storage.stat(str(file)), file.stat()
    other.write_bytes(b"other")
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(file)
    after = storage.stat(str(file))
    assert after.num_bytes == before.num_bytes
    assert after.version != before.version
    assert [found.version for found in storage.list_files(str(tmp_path))] == [after.version]
