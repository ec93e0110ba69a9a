"""The sha256 of photos. Each distinct photo is read once, and its hash is remembered between commands.

The memory is a JSON file in the user's cache folder. It contains digests of URIs, never a URI, and may be deleted.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import platformdirs
import structlog

from lynx_batch.config import InputsConfig
from lynx_batch.errors import LynxError, PhotoUnreachable, StoreUnready, Transient
from lynx_batch.inputs import find_version, read_photo_file
from lynx_batch.storage import redact, write_bytes
from lynx_batch.web import CANNOT_CONNECT, NO_ANSWER

log = structlog.get_logger()

NUM_PARALLEL_PHOTOS = 16
MAX_REMEMBERED = 200_000
SHA256_LENGTH = 64

MIN_PHOTOS_OF_A_HOST = 5
"""With fewer photos of a host, nothing is concluded about the host."""

SILENCE = (CANNOT_CONNECT, NO_ANSWER)
"""Causes that would also make the next photo of the host wait for its timeout."""

Memory = Mapping[str, str]
"""Maps the sha256 of a photo's URI and version in its store to the sha256 of its bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoProblem:
    """Why a photo cannot be used. `error_type` is the name of a class in the error tree.

    If `is_transient`, the store failed, not the photo, and another try may succeed. `cause` is the part of the message that is the
    same for every photo with this problem.
    """

    error_type: str
    error: str
    is_transient: bool = False
    cause: str = ""

    @classmethod
    def of(cls, error: LynxError, uri: str = "") -> "PhotoProblem":
        cause = str(error).removeprefix(f"{redact(uri)}: ").partition(":")[0]
        kind = type(error).__name__
        return cls(error_type=kind, error=str(error), is_transient=isinstance(error, Transient), cause=cause)


Photo = str | PhotoProblem
"""The sha256 (hex) of a photo, or why it cannot be used."""


def hash_photos(uris: Iterable[str], inputs: InputsConfig) -> dict[str, Photo]:
    """The sha256 of each photo, or its problem. Reads each distinct photo at most once, and several in parallel.

    A host that does not answer is given up after some photos, because each further one would wait for its timeout.

    Raises:
        StoreUnready: If most photos fail because credentials or the configuration of a store's client are missing.
    """
    distinct = list(dict.fromkeys(uris))
    reader = _Reader(inputs, _recall())
    with ThreadPoolExecutor(NUM_PARALLEL_PHOTOS, thread_name_prefix="photos") as pool:
        found = list(pool.map(reader.read, distinct))
    _refuse_unready([photo for _, photo in found])
    fresh = {key: photo for key, photo in found if key and isinstance(photo, str) and key not in reader.memory}
    if fresh:
        _remember({**fresh, **reader.memory})
    return {uri: photo for uri, (_, photo) in zip(distinct, found, strict=True)}


def _refuse_unready(photos: Sequence[Photo]) -> None:
    """Raises StoreUnready if most photos failed with it: the user must fix the setup. If few did, only their rows are rejected."""
    unready = [p.error for p in photos if isinstance(p, PhotoProblem) and p.error_type == StoreUnready.__name__]
    if len(unready) > len(photos) / 2:
        raise StoreUnready(unready[0])


def find_outages(photos: Mapping[str, Photo]) -> dict[str, str]:
    """Hosts with an outage, and a description of it: more than half of a host's photos, at least 5, failed for the same reason."""
    sizes = Counter(map(host_of, photos))
    causes = Counter(
        (host_of(uri), photo.cause)
        for uri, photo in photos.items()
        if isinstance(photo, PhotoProblem) and photo.is_transient
    )
    return {
        host: f"{num} of {sizes[host]} photos of {host or 'this machine'} cannot be read ({cause})"
        for (host, cause), num in causes.items()
        if sizes[host] >= MIN_PHOTOS_OF_A_HOST and num > sizes[host] / 2
    }


def host_of(uri: str) -> str:
    """Scheme and host or bucket of a photo's URI, without secrets; empty for a local file."""
    scheme, separator, rest = redact(uri).partition("://")
    return f"{scheme}://{rest.partition('/')[0]}" if separator and scheme != "file" else ""


class _Reader:
    """Reads photos in many threads, which share what they know about hosts that do not answer."""

    def __init__(self, inputs: InputsConfig, memory: Memory) -> None:
        self.memory = memory
        self._inputs = inputs
        self._alive: set[str] = set()
        self._num_silent: Counter[tuple[str, str]] = Counter()

    def read(self, uri: str) -> tuple[str, Photo]:
        """The photo's key in the memory, empty if its store reports no version; and its sha256 or problem."""
        host = host_of(uri)
        try:
            self._stop_if_silent(uri, host)
            key, photo = self._read(uri)
        except LynxError as error:
            problem = PhotoProblem.of(error, uri)
            if problem.cause in SILENCE:
                self._num_silent[host, problem.cause] += 1
            else:
                self._alive.add(host)
            return "", problem
        self._alive.add(host)
        return key, photo

    def _stop_if_silent(self, uri: str, host: str) -> None:
        for cause in SILENCE:
            if host not in self._alive and self._num_silent[host, cause] >= MIN_PHOTOS_OF_A_HOST:
                others = f"not tried, because {MIN_PHOTOS_OF_A_HOST} others of {host} failed this way"
                raise PhotoUnreachable(f"{redact(uri)}: {cause}: {others}")

    def _read(self, uri: str) -> tuple[str, str]:
        # Ask before reading: if the bytes change in between, they are stored under a version that never occurs again.
        version = find_version(uri, self._inputs)
        key = _digest(f"whole\n{uri}\n{version}".encode()) if version else ""
        if key and key in self.memory:
            return key, self.memory[key]
        return key, _digest(read_photo_file(uri, self._inputs))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _memory_file() -> Path:
    return Path(platformdirs.user_cache_dir("lynx-batch")) / "photo-hashes.json"


def _recall() -> Memory:
    """The memory of earlier commands; empty if it cannot be read."""
    try:
        memory = json.loads(_memory_file().read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return memory if _is_memory(memory) else {}


def _is_memory(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(v, str) and len(v) == SHA256_LENGTH for v in value.values())


def _remember(memory: Memory) -> None:
    newest = dict(islice(memory.items(), MAX_REMEMBERED))
    try:
        write_bytes(str(_memory_file()), json.dumps(newest).encode())
    except LynxError as error:
        log.warning("photo_hashes_not_remembered", error=str(error))
