"""The same promises on object storage, spoken to a real S3 protocol server."""

import csv
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.request import urlopen

import boto3
import pyarrow.dataset as ds
import pytest
import s3fs

from lynx_batch import storage
from lynx_batch.errors import MissingObject, StoreUnavailable, UnsafeStore
from lynx_batch.ledger.commits import commit, read_commit
from lynx_batch.ledger.editions import list_editions
from lynx_batch.ledger.metadata import Outcome, read_metadata
from lynx_batch.probe import probe_create_only, probe_rights
from tests.builders import HOPPER, ended, record, row, small_clip, write_metadata
from tests.exports import Place, rendered
from tests.jobs import Job
from tests.models import BASE, MODEL
from tests.races import race_in_threads, winners
from tests.seaweed import SeaweedServer
from tests.stores import create_bucket, moto_server, put, use_endpoint
from tests.web import serving


@contextmanager
def seaweed_server(folder: Path) -> Iterator[str]:
    seaweed = SeaweedServer(folder)
    seaweed.start()
    yield seaweed.url
    seaweed.kill()


@pytest.fixture(scope="module", params=[moto_server, seaweed_server])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with request.param(tmp_path_factory.mktemp("store")) as url:
        yield url


@pytest.fixture
def environment(server: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    return use_endpoint(server, monkeypatch)


@pytest.fixture
def bucket(environment: dict[str, str], request: pytest.FixtureRequest) -> str:
    return create_bucket("bucket-" + str(abs(hash(request.node.name))))


def test_a_key_that_marks_a_folder_is_no_file(bucket: str) -> None:
    name = bucket.removeprefix("s3://").partition("/")[0]
    write_metadata(bucket, "run", [ended(Outcome.FAILED, small_clip())])
    storage.write_bytes(f"{bucket}/events/run=run/a.json", b"{}")
    for folder in ("", "metadata/run=run/", "events/", "events/run=run/"):
        boto3.client("s3").put_object(Bucket=name, Key=f"out/{folder}", Body=b"")
    assert {file.uri.removeprefix(bucket) for file in storage.list_files(bucket)} == {
        "/metadata/run=run/part-00000.parquet",
        "/events/run=run/a.json",
    }
    assert read_metadata(bucket)["clip_id"].to_pylist() == ["ab12"]


def test_a_store_has_a_clock_and_tells_how_old_its_objects_are(bucket: str) -> None:
    storage.write_bytes(f"{bucket}/a", b"a")
    stored = storage.stat(f"{bucket}/a")
    assert stored is not None
    assert stored.modified_at is not None
    assert abs(storage.clock(bucket) - stored.modified_at) < timedelta(minutes=1)
    assert [file.modified_at for file in storage.list_files(bucket)] == [stored.modified_at], "and no trace is left"


def test_objects_are_written_read_listed_and_removed(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "video").write_bytes(b"frames")
    storage.upload(tmp_path / "video", storage.join(bucket, "clips", "a.mp4"))
    storage.write_bytes(storage.join(bucket, "b"), b"x")
    assert {file.uri: file.num_bytes for file in storage.list_files(bucket)} == {
        f"{bucket}/clips/a.mp4": 6,
        f"{bucket}/b": 1,
    }
    storage.delete(storage.join(bucket, "b"))
    assert storage.stat(storage.join(bucket, "b")) is None
    with pytest.raises(MissingObject):
        storage.read_bytes(storage.join(bucket, "b"))


def test_a_race_for_one_commit_has_one_winner_whom_all_see(bucket: str) -> None:
    for number in range(5):
        place = storage.join(bucket, str(number))
        race_in_threads(place)
        assert winners(place) == {read_commit(place, "ab12", 1).attempt}
        assert set(list_editions(place).in_force) == {"ab12"}


def test_a_sound_store_passes_the_probe_and_is_left_clean(bucket: str) -> None:
    probe_rights(bucket)
    probe_create_only(bucket)
    assert list(storage.list_files(bucket)) == []


def test_metadata_can_be_read_as_one_dataset(bucket: str) -> None:
    write_metadata(bucket, "run-1", [ended(Outcome.RENDERED, small_clip())])
    assert read_metadata(bucket)["run"].to_pylist() == ["run-1"]
    filesystem, path = storage.arrow_filesystem(storage.join(bucket, "metadata"))
    assert ds.dataset(path, filesystem=filesystem, partitioning="hive").count_rows() == 1


@pytest.fixture
def exported(bucket: str) -> Place:
    place = Place(bucket)
    place.run("run", [rendered("aa11", clip_name="wave"), rendered("bb22", 1, clip_name="smile", prompt="Smile.")])
    return place


def links(folder: str) -> list[dict[str, str]]:
    table = storage.read_bytes(storage.join(folder, "clips.csv")).decode("utf-8-sig")
    return list(csv.DictReader(io.StringIO(table, newline="")))


@pytest.mark.parametrize("is_copied", [True, False])
def test_anybody_can_fetch_a_signed_link_until_it_ends(exported: Place, tmp_path: Path, is_copied: bool) -> None:
    destination = exported.output.replace("/out", "/handout") if is_copied else str(tmp_path)
    result = exported.export(destination, None, "--table", "csv", "--sign", "7d")
    assert (result.exit_code, "links: they end at " in result.stdout) == (0, True)
    assert "earlier" not in result.stdout
    line, other = links(destination)
    assert [urlopen(each["link"], timeout=30).read() for each in (line, other)] == [b"aa11 1", b"bb22 1"]
    assert ("/handout/ada/wave.mp4" in line["link"]) == is_copied
    assert "X-Amz-Expires=604800" in line["link"]
    left = datetime.fromisoformat(line["link_ends_at"]) - datetime.now(UTC)
    assert timedelta(days=6, hours=23) < left <= timedelta(days=7)


@pytest.mark.parametrize("server", [moto_server], indirect=True)
def test_links_end_with_the_temporary_credentials_that_sign_them(
    exported: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end_of_links() -> str:
        s3fs.S3FileSystem.clear_instance_cache()
        told = exported.export(tmp_path / "handout", None, "--table", "csv", "--sign", "7d").stdout
        return told.partition("links: they end at ")[2]

    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    assert "or earlier: the credentials that signed them are temporary" in end_of_links()
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=5)
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", end.isoformat())
    assert end_of_links().startswith(f"{end.isoformat()}\nthat is earlier than --sign asked for")
    assert {datetime.fromisoformat(line["link_ends_at"]) for line in links(str(tmp_path / "handout"))} == {end}
    enough = storage.sign(f"{exported.output}/clip.mp4", 3600)
    assert (enough.ends_at, enough.may_end_earlier) == (enough.asked_until, False)


class ForgetfulServer(BaseHTTPRequestHandler):
    """An S3 server that takes every put, whatever its condition says."""

    objects: dict[str, bytes]
    protocol_version = "HTTP/1.1"  # clients wait to be asked for what they put

    def do_PUT(self) -> None:
        self.objects[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(200, b"")

    def do_GET(self) -> None:
        content = self.objects.get(self.path.partition("?")[0])
        self._answer(200 if content is not None else 404, content or b"")

    def do_DELETE(self) -> None:
        self.objects.pop(self.path, None)
        self._answer(204, b"")

    def log_message(self, format: str, *args: object) -> None:
        """Stays silent."""

    def _answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", '"0"')
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def forgetful_server() -> Iterator[str]:
    with serving(type("Handler", (ForgetfulServer,), {"objects": {}})) as address:
        yield f"http://{address}"


def test_a_store_that_ignores_the_condition_is_refused(monkeypatch: pytest.MonkeyPatch, forgetful_server: str) -> None:
    use_endpoint(forgetful_server, monkeypatch)
    with pytest.raises(UnsafeStore, match="create-only"):
        probe_create_only("s3://forgetful/out")


def test_a_store_that_cannot_be_reached_is_told_apart_from_a_missing_object(monkeypatch: pytest.MonkeyPatch) -> None:
    use_endpoint("http://127.0.0.1:9", monkeypatch)
    with pytest.raises(StoreUnavailable):
        storage.read_bytes("s3://nowhere/a")


@pytest.mark.only_chaos
def test_a_commit_outlasts_a_killed_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seaweed = SeaweedServer(tmp_path)
    seaweed.start()
    use_endpoint(seaweed.url, monkeypatch)
    output = create_bucket("bucket")
    commit(output, record("ab12"))
    seaweed.kill()
    with ThreadPoolExecutor() as pool:
        committing = pool.submit(commit, output, record("cd34"))
        seaweed.start()
        assert committing.result() == record("cd34")
        assert commit(output, record("ab12", attempt="late")) == record("ab12")
    seaweed.kill()


@pytest.mark.parametrize("is_safe", [True, False])
def test_a_repeated_commit_is_the_first_one_whatever_the_store_promises(bucket: str, is_safe: bool) -> None:
    first = record(attempt="first")
    assert commit(bucket, first, is_store_safe=is_safe) == first
    assert commit(bucket, first, is_store_safe=is_safe) == first
    assert commit(bucket, record(attempt="second"), is_store_safe=is_safe) == first


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("server", [seaweed_server], indirect=True)
def test_a_run_is_rendered_into_a_bucket_from_photos_and_weights_in_a_bucket(
    bucket: str, environment: dict[str, str], tmp_path: Path, face_pack: Path
) -> None:
    photo = storage.join(bucket, "photos", "hopper.jpg")
    storage.upload(HOPPER, photo)
    base, adapters = (put(folder, bucket) for folder in (BASE, MODEL / "lynx_full"))
    job = Job(
        folder=tmp_path,
        face_pack=face_pack,
        rows=[row(), row(photo)],
        output=storage.join(bucket, "run"),
        settings={"model": {"base": base, "adapters": adapters}},
        env={**environment, "XDG_CACHE_HOME": str(tmp_path / "cache")},
    )

    first, second = job.run(), job.run()

    assert first.exit_code == 0, first.stderr
    assert "0 to render, 2 rendered before" in second.stdout
    metadata = read_metadata(job.output).to_pylist()
    assert [r["outcome"] for r in metadata] == ["rendered"] * 4
    for clip_uri, num_bytes in {(r["clip_uri"], r["num_bytes"]) for r in metadata}:
        stored = storage.stat(storage.join(job.output, clip_uri))
        assert stored is not None
        assert stored.num_bytes == num_bytes
    staged = {path.name for path in (tmp_path / "cache" / "lynx-batch" / "weights").glob("*/[!.]*")}
    assert staged == {BASE.name, "lynx_full"}
