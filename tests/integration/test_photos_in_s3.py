"""Photos and manifests in a bucket whose store is slow, cuts answers short or has marks of folders."""

import hashlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import boto3
import pyarrow.parquet as pq
import pytest

from lynx_batch.config import InputsConfig
from lynx_batch.errors import InputRefused, MissingObject, StoreUnavailable
from lynx_batch.inputs import read_photo_file
from lynx_batch.intake.build import build_from_folder
from lynx_batch.intake.manifest import hash_manifest, read_manifest
from lynx_batch.intake.photos import PhotoProblem, hash_photos
from lynx_batch.intake.templates import make_templates
from tests.stores import create_bucket, moto_server, use_endpoint
from tests.web import serving

PHOTO = b"0123456789"


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with moto_server(tmp_path) as url:
        use_endpoint(url, monkeypatch)
        yield create_bucket("photos").partition("://")[2].partition("/")[0]


def put(bucket: str, **objects: bytes) -> None:
    for key, content in objects.items():
        boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=content)


def test_a_photo_in_a_bucket_is_read_if_it_is_not_too_large(bucket: str) -> None:
    put(bucket, **{"a.jpg": PHOTO, "empty.jpg": b"", "folder/": b"", "folder/b.jpg": PHOTO})
    assert read_photo_file(f"s3://{bucket}/a.jpg", InputsConfig(max_photo_bytes=10)) == PHOTO
    assert read_photo_file(f"s3://{bucket}/empty.jpg", InputsConfig()) == b""
    with pytest.raises(InputRefused, match=r"at most 9 bytes \(inputs\.max_photo_bytes\)"):
        read_photo_file(f"s3://{bucket}/a.jpg", InputsConfig(max_photo_bytes=9))
    for key in ("nowhere.jpg", "folder"):
        with pytest.raises(MissingObject):
            read_photo_file(f"s3://{bucket}/{key}", InputsConfig())


def test_marks_of_folders_are_no_photos_and_no_part_of_a_manifest(bucket: str, tmp_path: Path) -> None:
    photos = {"photos/": b"", "photos/a.jpg": PHOTO, "photos/b.jpg/": b"", "photos/more/": b""}
    put(bucket, **photos)
    table = build_from_folder(f"s3://{bucket}/photos", make_templates(["Hi."]))
    assert table["subject_uri"].to_pylist() == [f"s3://{bucket}/photos/a.jpg"]
    pq.write_table(table, tmp_path / "part.parquet")
    parquet = (tmp_path / "part.parquet").read_bytes()
    put(bucket, **{"manifest/": b"", "manifest/more/": b"", "manifest/more/part.parquet": parquet})
    for uri in (f"s3://{bucket}/manifest", f"s3://{bucket}/manifest/"):
        assert read_manifest(uri)["clip_name"].to_pylist() == ["a-p01"]
        assert hash_manifest(uri) == hashlib.sha256(parquet).hexdigest()


class UnfitServer(BaseHTTPRequestHandler):
    """An S3 server of one object: as many answers as `num_cuts` come short, or none comes at all if it `is_silent`."""

    num_cuts: int
    is_silent: threading.Event
    is_over: threading.Event

    def do_HEAD(self) -> None:
        if self.is_silent.is_set():
            self.is_over.wait()
            return
        self._send(PHOTO, 200)

    def do_GET(self) -> None:
        is_cut = self.num_cuts > 0
        type(self).num_cuts -= is_cut
        self._send(PHOTO[:4] if is_cut else PHOTO, 206)

    def log_message(self, format: str, *args: object) -> None:
        """Stays silent."""

    def _send(self, content: bytes, status: int) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Length": len(content),
            "ETag": '"1"',
            "Last-Modified": "Sat, 01 Aug 2026 00:00:00 GMT",
        }.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


@pytest.fixture
def unfit(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[UnfitServer]]:
    handler = type(
        "Handler", (UnfitServer,), {"num_cuts": 0, "is_silent": threading.Event(), "is_over": threading.Event()}
    )
    with serving(handler) as address:
        use_endpoint(f"http://{address}", monkeypatch)
        yield handler
        handler.is_over.set()


def test_an_answer_that_is_shorter_than_the_object_is_asked_for_again_and_never_remembered(
    unfit: type[UnfitServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    inputs = InputsConfig(max_tries=2)
    unfit.num_cuts = 2
    (problem,) = hash_photos(["s3://photos/a.jpg"], inputs).values()
    assert isinstance(problem, PhotoProblem)
    assert problem.is_transient
    assert "4 of 10 bytes arrived" in problem.error
    unfit.num_cuts = 1
    assert [*hash_photos(["s3://photos/a.jpg"], inputs).values()] == [hashlib.sha256(PHOTO).hexdigest()]


def test_a_store_that_never_answers_is_waited_for_within_a_bound(unfit: type[UnfitServer]) -> None:
    unfit.is_silent.set()
    start_s = time.monotonic()
    with pytest.raises(StoreUnavailable, match=r"s3://photos/a\.jpg"):
        read_photo_file("s3://photos/a.jpg", InputsConfig(max_tries=2, connect_timeout_s=0.5, read_timeout_s=0.5))
    assert time.monotonic() - start_s < 10
