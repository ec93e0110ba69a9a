"""Photos by their content: the sha256 of each distinct one, read once and remembered.

The memory is a JSON file in the user's cache folder. It holds digests of URIs, never a URI, and may be deleted.
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
"""With fewer, nothing is said about their host."""

SILENCE = (CANNOT_CONNECT, NO_ANSWER)
"""Causes of which the next photo's try would take as long."""

Memory = Mapping[str, str]
"""sha256 of what a photo's store says about it -> sha256 of its bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoProblem:
    """Why a photo cannot be used. `error_type` is a class name of the error tree.

    `is_transient` says that the store failed, not the photo: another try may succeed. `cause` is why, in the words that all
    photos with that trouble share.
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
"""The sha256 (hex) of a photo, or what is wrong with it."""


def hash_photos(uris: Iterable[str], inputs: InputsConfig) -> dict[str, Photo]:
    """The sha256 of each photo, or its problem. Reads each distinct photo at most once, many at a time.

    A host that answers nothing is given up after some photos, as each would take as long.

    Raises StoreUnready if that is what is wrong with most of them: credentials or configuration of a store's client.
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
    """Raises StoreUnready if most photos met it: then whoever runs this must mend something. Else it is about some rows alone."""
    unready = [p.error for p in photos if isinstance(p, PhotoProblem) and p.error_type == StoreUnready.__name__]
    if len(unready) > len(photos) / 2:
        raise StoreUnready(unready[0])


def find_outages(photos: Mapping[str, Photo]) -> dict[str, str]:
    """The hosts that are to blame, and for what: more than half of at least 5 photos of each could not be reached, all alike."""
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
    """Scheme and host or bucket of a photo's URI, as they may be shown; empty for a file of this machine."""
    scheme, separator, rest = redact(uri).partition("://")
    return f"{scheme}://{rest.partition('/')[0]}" if separator and scheme != "file" else ""


class _Reader:
    """Reads photos in many threads, which tell each other of hosts that do not answer."""

    def __init__(self, inputs: InputsConfig, memory: Memory) -> None:
        self.memory = memory
        self._inputs = inputs
        self._alive: set[str] = set()
        self._num_silent: Counter[tuple[str, str]] = Counter()

    def read(self, uri: str) -> tuple[str, Photo]:
        """What the photo is remembered by, if its store can tell a changed one; and its sha256 or problem."""
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
                others = f"not tried, as {MIN_PHOTOS_OF_A_HOST} others of {host} failed so"
                raise PhotoUnreachable(f"{redact(uri)}: {cause}: {others}")

    def _read(self, uri: str) -> tuple[str, str]:
        # Before it is read: bytes that change in between are remembered by a version that never comes back.
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
    """What earlier calls remembered; nothing if that cannot be read."""
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
