"""S3 endpoints for tests, stores that refuse (a server, and a local folder), and what is put into stores."""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, unquote

import boto3
import pytest
import s3fs
from botocore.exceptions import ClientError
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from lynx_batch import storage
from lynx_model.checkpoints.digests import FileDigest
from lynx_model.checkpoints.fingerprint import FINGERPRINT_FILE, Fingerprint
from tests.web import serving

NOBODY = 65534
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key", "AWS_DEFAULT_REGION": "us-east-1"}


def use_endpoint(url: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Makes every S3 client of this process speak to `url`; s3fs keeps clients by their arguments alone."""
    environment = {**CREDENTIALS, "AWS_ENDPOINT_URL": url, "AWS_MAX_ATTEMPTS": "1"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    return environment


@dataclass
class Refusals:
    """What an S3 server says no to: requests of a `method` to a path or query with the pattern `what`, with that status and code."""

    url: str
    method: str = "none"
    what: str = ""
    status: int = 403
    code: str = "AccessDenied"
    num_refused: int = 0


class _Server(BaseHTTPRequestHandler):
    """Keeps objects in memory, knows conditional puts, and refuses what it is told to."""

    refusals: Refusals
    objects: dict[str, bytes]
    protocol_version = "HTTP/1.1"  # clients wait to be asked for what they put

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self._refuses():
            return
        if self.headers.get("If-None-Match") and self._path in self.objects:
            error = b"<Error><Code>PreconditionFailed</Code><Condition>If-None-Match</Condition></Error>"
            self._answer(412, error)
            return
        self.objects[self._path] = content
        self._answer(200, b"")

    def do_GET(self) -> None:
        if self._refuses():
            return
        if "list-type=2" in self.path:
            self._answer(200, self._listing())
            return
        content = self.objects.get(self._path)
        self._answer(200 if content is not None else 404, content or b"<Error><Code>NoSuchKey</Code></Error>")

    def _listing(self) -> bytes:
        """All at once, and no folders: s3fs asks for every key below a prefix."""
        prefix = f"{self._path}/{parse_qs(self.path.partition('?')[2]).get('prefix', [''])[0]}"
        found = {path: content for path, content in dict(self.objects).items() if path.startswith(prefix)}
        entries = (
            f"<Contents><Key>{path.removeprefix(self._path + '/')}</Key><Size>{len(content)}</Size><ETag>0</ETag>"
            "<LastModified>2026-01-01T00:00:00Z</LastModified></Contents>"
            for path, content in found.items()
        )
        return f"<ListBucketResult><KeyCount>{len(found)}</KeyCount>{''.join(entries)}</ListBucketResult>".encode()

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self._refuses():
            self._answer(200, b"<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>")

    def do_DELETE(self) -> None:
        if not self._refuses():
            self.objects.pop(self._path, None)
            self._answer(204, b"")

    def log_message(self, format: str, *args: object) -> None:
        """Stays silent."""

    @property
    def _path(self) -> str:
        return unquote(self.path.partition("?")[0])

    def _refuses(self) -> bool:
        told = self.refusals
        if not re.fullmatch(told.method, self.command) or not re.search(told.what, self.path):
            return False
        told.num_refused += 1
        self._answer(told.status, f"<Error><Code>{told.code}</Code><Message>no</Message></Error>".encode())
        return True

    def _answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", '"0"')
        self.send_header("Last-Modified", self.date_time_string())
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def refusing_server() -> Iterator[Refusals]:
    """Of a real server nobody can ask to refuse one request of a user and not another; those two here have no users."""
    refusals = Refusals("")
    handler = type("Handler", (_Server,), {"refusals": refusals, "objects": {}})
    with serving(handler) as address:
        refusals.url = f"http://{address}"
        yield refusals


@contextmanager
def refusing_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Refusals]:
    """A refusing server that every S3 client of this process speaks to."""
    with refusing_server() as refusals:
        use_endpoint(refusals.url, monkeypatch)
        yield refusals


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nobody may write to `folder` meanwhile, not even root."""
    is_root = os.geteuid() == 0
    folder.chmod(0o555)
    if is_root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
        folder.chmod(0o755)


@contextmanager
def moto_server(folder: Path) -> Iterator[str]:
    from moto.server import ThreadedMotoServer  # takes a second

    moto = ThreadedMotoServer(port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    yield f"http://{host}:{port}"
    moto.stop()


def create_bucket(name: str) -> str:
    """An output location in a new bucket; SeaweedFS answers a while before it can create one."""
    creating = Retrying(retry=retry_if_exception_type(ClientError), wait=wait_fixed(0.2), stop=stop_after_delay(30))
    creating(boto3.client("s3").create_bucket, Bucket=name)
    return f"s3://{name}/out"


def read_folder(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def put(folder: Path, store: str) -> str:
    uri = storage.join(store, folder.name)
    for file in folder.rglob("*"):
        if file.is_file():
            storage.upload(file, storage.join(uri, file.relative_to(folder).as_posix()))
    return uri


def put_naming(name: str, store: str, content: bytes = b"planted") -> str:
    """A folder in the store whose fingerprint, in order but for that, names a file so; the file lies where that leads."""
    digest = FileDigest(sha256=hashlib.sha256(content).hexdigest(), num_bytes=len(content))
    fingerprint = Fingerprint(files={name: digest})
    files = {name: {"sha256": digest.sha256, "num_bytes": digest.num_bytes}}
    kept = {"schema_version": 1, "fingerprint": fingerprint.value, "source": None, "revision": None, "files": files}
    uri = storage.join(store, "a", "b", "c", "model")
    storage.write_bytes(storage.join(uri, FINGERPRINT_FILE), json.dumps(kept).encode())
    storage.write_bytes(storage.join(uri, name), content)
    return uri
