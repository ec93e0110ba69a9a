"""A store that cannot take a run is told before the run begins."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lynx_batch import storage
from lynx_batch.errors import StoreRefused, StoreUnready, UnsafeStore
from lynx_batch.probe import FOLDERS, probe_create_only, probe_rights
from tests.stores import Refusals, read_only, refusing_store


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Refusals]:
    with refusing_store(monkeypatch) as refusals:
        yield refusals


def test_a_sound_store_passes_and_is_left_clean(tmp_path: Path, store: Refusals) -> None:
    for output in (str(tmp_path), f"memory://{tmp_path.name}", "s3://bucket/out"):
        probe_rights(output)
        probe_create_only(output)
        assert list(storage.list_files(output)) == []


@pytest.mark.parametrize("folder", FOLDERS[1:])
@pytest.mark.parametrize(("method", "right"), [("PUT", "s3:PutObject"), ("DELETE", "s3:DeleteObject")])
def test_a_right_that_is_missing_in_any_folder_is_named(store: Refusals, method: str, right: str, folder: str) -> None:
    store.method, store.what = method, f"/{folder}/"
    with pytest.raises(StoreRefused, match=f"s3://bucket/out/{folder}/_probe-.*{right}"):
        probe_rights("s3://bucket/out")
    assert store.num_refused == 1, "a refusal is not tried again"


def test_a_right_to_read_or_to_list_is_missed_too(store: Refusals) -> None:
    store.method, store.what = "HEAD|GET", "/_probe-"
    with pytest.raises(StoreRefused, match=r"403: Forbidden; this needs s3:"):
        probe_rights("s3://bucket/out")
    store.method, store.what = "GET", "list-type=2"
    with pytest.raises(StoreRefused, match="s3:ListBucket"):
        probe_rights("s3://bucket/out")


def test_a_create_only_put_that_is_refused_is_no_lost_race(store: Refusals) -> None:
    store.method = "PUT"
    with pytest.raises(StoreRefused, match="s3:PutObject"):
        probe_create_only("s3://bucket/out")


def test_a_multi_part_upload_is_refused_as_a_put_is(store: Refusals) -> None:
    store.method = "POST"
    with pytest.raises(StoreRefused, match="s3:PutObject"):
        storage.write_bytes("s3://bucket/out/video", bytes(101 * 2**20))


def test_a_read_only_folder_is_refused_at_once(tmp_path: Path) -> None:
    with (
        read_only(tmp_path),
        pytest.raises(StoreRefused, match="Permission denied; this needs permission to write there"),
    ):
        probe_rights(str(tmp_path / "out"))


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(StoreRefused, match="cannot write"):
        probe_rights(str(tmp_path / "out"))


def test_a_store_without_room_can_be_mended(store: Refusals) -> None:
    store.method, store.status, store.code = "PUT", 507, "XMinioStorageFull"
    with pytest.raises(StoreUnready, match="free some space"):
        probe_rights("s3://bucket/out")


def test_a_store_that_ignores_create_only_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No store here does that by itself, so its put is replaced; a real one is in `test_s3.py`."""
    monkeypatch.setattr(storage, "create_only", lambda uri, data: storage.write_bytes(uri, data) or True)
    with pytest.raises(UnsafeStore, match="create-only"):
        probe_create_only(str(tmp_path))
