"""Fetches files over HTTP, several at a time; a transfer goes on where an earlier one stopped.

huggingface_hub's own downloads begin each file anew after an interruption (huggingface_hub#4196, seen in 2.4.0), and
weights come in files of up to 10 GB.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from threading import Event

import httpx2
from huggingface_hub.utils import tqdm
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_exponential

from lynx_model.errors import Interrupted, WeightsMismatch
from lynx_model.fingerprint import FileDigest, hash_file

NUM_CONNECTIONS = 4
TIMEOUT_S = 30.0

Advance = Callable[[int], None]
"""Told of bytes that are there now; raises to end the transfer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """One file to fetch.

    `version` names its content: what is left of another version is not gone on with. `sha256` and `num_bytes` are None
    where they are not known beforehand.
    """

    url: str
    file: Path
    version: str
    sha256: str | None
    num_bytes: int | None = None

    @property
    def part(self) -> Path:
        """Where the file grows until it is whole."""
        return self.file.with_name(f"{self.file.name}.{self.version[:8]}.part")


def fetch(downloads: Sequence[Download], headers: Mapping[str, str]) -> dict[Path, FileDigest]:
    """Hashes of all files, which are in place now; those that were there already are not fetched again.

    Raises:
        WeightsMismatch: If a file's hash is not the expected one; nothing is left of it.
        httpx2.HTTPError, OSError: If network, server or disk failed; another call goes on from there.
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
            stop.set()  # after an error or Ctrl-C: else the pool would wait for whole files
    return {download.file: digest for download, digest in zip(downloads, digests, strict=True)}


def missing_bytes(downloads: Iterable[Download]) -> int:
    """How much the disk must still hold."""
    return sum(
        max(0, (download.num_bytes or 0) - sum(_size(file) for file in (download.file, download.part)))
        for download in downloads
    )


def _fetch(download: Download, headers: Mapping[str, str], advance: Advance) -> FileDigest:
    if download.sha256 and download.file.is_file():
        digest = hash_file(download.file)
        if digest.sha256 == download.sha256:
            advance(digest.num_bytes)
            return digest
    download.file.parent.mkdir(parents=True, exist_ok=True)
    _transfer(download, headers, advance)
    digest = hash_file(download.part)
    if download.sha256 not in (None, digest.sha256):
        download.part.unlink()
        raise WeightsMismatch(
            f"{download.file}: expected sha256 {download.sha256} as published, found {digest.sha256}; pull again"
        )
    download.part.replace(download.file)
    return digest


@retry(
    retry=retry_if_exception_type(httpx2.TransportError),
    wait=wait_exponential(multiplier=0.5),
    stop=stop_after_attempt(5),
    reraise=True,
)
def _transfer(download: Download, headers: Mapping[str, str], advance: Advance) -> None:
    """Adds to the part what it lacks; begins anew where the server cannot do that."""
    start = _size(download.part)
    wanted = {**headers, "Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with httpx2.stream("GET", download.url, headers=wanted, timeout=TIMEOUT_S, follow_redirects=True) as response:
        if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # nothing is lacking
        response.raise_for_status()
        is_resumed = response.status_code == HTTPStatus.PARTIAL_CONTENT
        with download.part.open("ab" if is_resumed else "wb") as content:
            advance(content.tell())
            for piece in response.iter_bytes():
                advance(content.write(piece))


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0
