"""A small Hugging Face hub on this machine: one repository at one commit, served over HTTP with ranges."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.web import serving


@dataclass
class Hub:
    """What the server holds, and what it was asked for.

    `cut_bytes`: the next answer of a file breaks off after so many bytes; the server is out of order from then on,
    until `repair`, unless it `is_cut_once`. `damaged`: this file comes with other content than announced. `nameless`: no hash is given of
    this file. `claimed_bytes`: the size that it gives for every file, if not the true one.
    """

    repo_id: str
    files: dict[str, bytes]
    commit: str = "c0ffee" + "0" * 34
    url: str = ""
    cut_bytes: int | None = None
    is_cut_once: bool = False
    is_broken: bool = False
    damaged: str = ""
    nameless: str = ""
    claimed_bytes: int | None = None
    requests: list[str] = field(default_factory=list)

    def repair(self) -> None:
        self.cut_bytes, self.is_broken = None, False
        self.requests.clear()

    def file_url(self, path: str) -> str:
        return f"{self.url}/{self.repo_id}/resolve/main/{path}"


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    with serving(type("Handler", (_Handler,), {"hub": hub})) as address:
        hub.url = f"http://{address}"
        yield hub


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_GET(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path} {self.headers.get('Range', '')}".strip())
        if hub.is_broken:
            self._answer(501)  # of the server errors the one that huggingface_hub does not wait for
        elif path.startswith(f"/api/models/{hub.repo_id}/revision/"):
            known = path.rpartition("/")[2] in ("main", hub.commit)
            self._answer(200, {"id": hub.repo_id, "sha": hub.commit}) if known else self._answer(
                404, **{"X-Error-Code": "RevisionNotFound"}
            )
        elif path.startswith(f"/api/models/{hub.repo_id}/tree/"):
            self._answer(200, self._tree())
        elif path.startswith(f"/{hub.repo_id}/resolve/"):
            self._send_file(path.split("/", 5)[5])
        else:
            self._answer(404, **{"X-Error-Code": "RepoNotFound"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def _tree(self) -> list[dict[str, Any]]:
        return [self._entry(path, content) for path, content in self.hub.files.items()]

    def _entry(self, path: str, content: bytes) -> dict[str, Any]:
        """What the hub says of a file; large ones are kept outside git, under their sha256."""
        size, is_large = self.hub.claimed_bytes or len(content), path.endswith((".safetensors", ".pth"))
        lfs = {"oid": _sha256(content), "size": size, "pointerSize": 134} if is_large else None
        oid = "" if path == self.hub.nameless else _oid(content)
        return {"type": "file", "path": path, "size": size, "oid": oid, "lfs": lfs}

    def _send_file(self, path: str) -> None:
        if path not in self.hub.files:
            self._answer(404, **{"X-Error-Code": "EntryNotFound"})
            return
        content = self.hub.files[path]
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        if start >= len(content) > 0:
            self._answer(416)
            return
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("ETag", f'"{_sha256(content)}"')
        self.send_header("X-Repo-Commit", self.hub.commit)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "GET":
            self._send_body((content[::-1] if path == self.hub.damaged else content)[start:])

    def _send_body(self, body: bytes) -> None:
        cut = self.hub.cut_bytes
        if cut is not None and cut < len(body):
            self.hub.is_broken, self.hub.cut_bytes = not self.hub.is_cut_once, None
            self.close_connection = True
            body = body[:cut]
        self.wfile.write(body)

    def _answer(self, status: int, content: Any = None, **headers: str) -> None:
        body = json.dumps(content).encode() if content is not None else b""
        self.send_response(status)
        for name, value in {**headers, "Content-Type": "application/json", "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
