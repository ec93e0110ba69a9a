"""Fetches files over HTTP, several at a time, and resumes interrupted transfers.

huggingface_hub restarts each file from zero after an interruption (huggingface_hub#4196, seen in 2.4.0), and weight files are up
to 10 GB.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from threading import Event

import httpx2
from huggingface_hub.utils import tqdm
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_exponential

from lynx_model.checkpoints.digests import FileDigest, hash_file
from lynx_model.errors import Interrupted, WeightsMismatch

NUM_CONNECTIONS = 4
TIMEOUT_S = 30.0
GIT_ID_LENGTH = 40
CONTENT_ID = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
PIECE_BYTES = 2**20

Advance = Callable[[int], None]
"""Called with the number of bytes that arrived; raises an exception to end the transfer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """One file to fetch.

    `content_id` is the published hash of its content: sha256, or git's blob id (sha1, as 40 hex digits). A partial file of other
    content is never resumed. `num_bytes` is None if it is not known beforehand.
    """

    url: str
    file: Path
    content_id: str
    num_bytes: int | None = None

    def __post_init__(self) -> None:
        if not CONTENT_ID.fullmatch(self.content_id or ""):
            raise WeightsMismatch(f"{self.file}: must have a published sha256 or git id, found {self.content_id!r}")

    @property
    def part(self) -> Path:
        """The partial file, which is renamed when it is complete."""
        return self.file.with_name(f"{self.file.name}.{self.content_id[:8]}.part")


def fetch(downloads: Sequence[Download], headers: Mapping[str, str]) -> dict[Path, FileDigest]:
    """Fetches all files that are not in place yet; returns the hashes of all.

    Raises:
        WeightsMismatch: If a file's hash is not the expected one; the file is deleted.
        httpx2.HTTPError, OSError: If network, server or disk failed; another call resumes.
    """
    stop = Event()
    sizes = [download.num_bytes for download in downloads]
    bar = tqdm(total=None if None in sizes else sum(filter(None, sizes)), unit="B", unit_scale=True, disable=None)

    def advance(num_bytes: int) -> None:
        if stop.is_set():
            raise Interrupted("another transfer failed")
        bar.update(num_bytes)

    with bar, ThreadPoolExecutor(NUM_CONNECTIONS) as threads:
        try:
            digests = list(threads.map(lambda download: _fetch(download, headers, advance), downloads))
        finally:
            stop.set()  # after an error or Ctrl-C; otherwise the pool would wait for whole files
    return {download.file: digest for download, digest in zip(downloads, digests, strict=True)}


def missing_bytes(downloads: Iterable[Download]) -> int:
    """The free disk space that the downloads still need."""
    return sum(
        max(0, (download.num_bytes or 0) - sum(_size(file) for file in (download.file, download.part)))
        for download in downloads
    )


def _fetch(download: Download, headers: Mapping[str, str], advance: Advance) -> FileDigest:
    if download.file.is_file():
        digest = hash_file(download.file)
        if _content_id(download.file, digest, like=download.content_id) == download.content_id:
            advance(digest.num_bytes)
            return digest
    download.file.parent.mkdir(parents=True, exist_ok=True)
    _transfer(download, headers, advance)
    digest = hash_file(download.part)
    found = _content_id(download.part, digest, like=download.content_id)
    if found != download.content_id:
        download.part.unlink()
        kind = "git id" if len(download.content_id) == GIT_ID_LENGTH else "sha256"
        raise WeightsMismatch(
            f"{download.file}: expected {kind} {download.content_id} as published, found {found}; pull again"
        )
    download.part.replace(download.file)
    return digest


def _content_id(file: Path, digest: FileDigest, *, like: str) -> str:
    """The hash of `file`, of the same kind as `like`. Source of git's: gitformat-loose(5), the sha1 of "blob", size, NUL, content."""
    if len(like) != GIT_ID_LENGTH:
        return digest.sha256
    blob = hashlib.sha1(b"blob %d\0" % digest.num_bytes, usedforsecurity=False)
    with file.open("rb") as content:
        while piece := content.read(PIECE_BYTES):
            blob.update(piece)
    return blob.hexdigest()


@retry(
    retry=retry_if_exception_type(httpx2.TransportError),
    wait=wait_exponential(multiplier=0.5),
    stop=stop_after_attempt(5),
    reraise=True,
)
def _transfer(download: Download, headers: Mapping[str, str], advance: Advance) -> None:
    """Completes the partial file; starts from zero if the server does not support ranges."""
    start = _size(download.part)
    wanted = {**headers, "Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with httpx2.stream("GET", download.url, headers=wanted, timeout=TIMEOUT_S, follow_redirects=True) as response:
        if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # the partial file is complete
        response.raise_for_status()
        is_resumed = response.status_code == HTTPStatus.PARTIAL_CONTENT
        with download.part.open("ab" if is_resumed else "wb") as content:
            advance(content.tell())
            for piece in response.iter_bytes():
                advance(content.write(piece))


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0
