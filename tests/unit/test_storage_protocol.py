"""A new kind of store is a class that implements `Store`: it gets the retries and the error messages for free."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow.fs
import pytest

from lynx_batch import storage
from lynx_batch.errors import InputRefused, MissingObject, StoreUnavailable, UnsafeStore
from lynx_batch.probe import probe_create_only, probe_rights
from lynx_batch.storage import OldVersion, SignedLink, SizeLimit, Store, StoredFile


class DictStore:
    """Keeps files in a dict, in this process only. The next `num_outages` calls fail, as if it could not be reached."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.num_outages = 0

    def read_bytes(self, uri: str, limit: SizeLimit | None) -> bytes:
        content = self._find(uri)
        if limit is not None:
            limit.check(uri, len(content))
        return content

    def read_whole(self, uri: str, limit: SizeLimit, deadline_s: float) -> bytes:
        return self.read_bytes(uri, limit)

    def read_range(self, uri: str, start: int, end: int) -> bytes:
        return self._find(uri)[start:end]

    def download(self, uri: str, local_path: Path) -> None:
        local_path.write_bytes(self._find(uri))

    def write_bytes(self, uri: str, data: bytes) -> None:
        self._connect()
        self.files[uri] = data

    def upload(self, local_path: Path, uri: str) -> None:
        self.write_bytes(uri, local_path.read_bytes())

    def create_only(self, uri: str, data: bytes) -> bool:
        self._connect()
        if uri in self.files:
            return False
        self.files[uri] = data
        return True

    def delete(self, uri: str) -> None:
        self._connect()
        self.files.pop(uri, None)

    def list_old_versions(self, folder: str) -> Iterable[OldVersion]:
        return ()

    def delete_version(self, version: OldVersion) -> None:
        raise NotImplementedError(version)

    def stat(self, uri: str, deadline_s: float) -> StoredFile | None:
        return StoredFile(uri=uri, num_bytes=len(self._find(uri)), version="", modified_at=None)

    def list_files(self, prefix: str) -> Iterable[StoredFile]:
        self._connect()
        found = [uri for uri in self.files if storage.is_within(uri, prefix)]
        return filter(None, (self.stat(uri, 0) for uri in found))

    def sign(self, uri: str, seconds: int) -> SignedLink:
        raise NotImplementedError(uri)

    def arrow_filesystem(self, uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
        raise NotImplementedError(uri)

    def find_reason(self, error: Exception, uri: str) -> Exception:
        return error

    def _connect(self) -> None:
        if self.num_outages:
            self.num_outages -= 1
            raise ConnectionResetError("connection lost")

    def _find(self, uri: str) -> bytes:
        self._connect()
        if uri not in self.files:
            raise FileNotFoundError(uri)
        return self.files[uri]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> DictStore:
    new = DictStore()
    conforming: Store = new
    monkeypatch.setitem(storage.STORES, "dict", conforming)
    return new


def test_files_of_a_new_store_are_written_read_listed_and_removed(store: DictStore, tmp_path: Path) -> None:
    uri = "dict://bucket/a/b"
    storage.write_bytes(uri, b"0123")
    storage.download(uri, tmp_path / "copy")
    storage.upload(tmp_path / "copy", "dict://bucket/a/c")
    assert (storage.read_bytes(uri), storage.read_range(uri, 1, 3)) == (b"0123", b"12")
    assert [file.uri for file in storage.list_files("dict://bucket/a")] == [uri, "dict://bucket/a/c"]
    storage.delete(uri)
    assert storage.stat(uri) is None


def test_a_new_store_is_probed_like_any_other(store: DictStore, monkeypatch: pytest.MonkeyPatch) -> None:
    probe_rights("dict://bucket/out")
    probe_create_only("dict://bucket/out")
    assert store.files == {}
    monkeypatch.setattr(store, "create_only", lambda uri, data: not store.write_bytes(uri, data))
    with pytest.raises(UnsafeStore, match="create-only"):
        probe_create_only("dict://bucket/out")


def test_a_short_outage_of_a_new_store_is_retried_and_a_long_one_is_an_error(store: DictStore) -> None:
    storage.write_bytes("dict://bucket/a", b"a")
    store.num_outages = storage.NUM_TRIES - 1
    assert storage.read_bytes("dict://bucket/a") == b"a"
    store.num_outages = storage.NUM_TRIES
    with pytest.raises(StoreUnavailable, match=r"dict://bucket/a: .*connection lost"):
        storage.read_bytes("dict://bucket/a")


def test_errors_of_a_new_store_are_explained(store: DictStore) -> None:
    with pytest.raises(MissingObject, match="dict://bucket/nowhere"):
        storage.read_bytes("dict://bucket/nowhere")
    storage.write_bytes("dict://bucket/large", bytes(11))
    with pytest.raises(InputRefused, match=r"dict://bucket/large: must have at most 10 bytes \(the limit\)"):
        storage.read_bytes("dict://bucket/large", SizeLimit(10, "the limit"))
