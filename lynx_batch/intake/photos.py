"""Photos by their content: the sha256 of each distinct one, read once and remembered.

The memory is a JSON file in the user's cache folder. It holds digests of URIs, never a URI, and may be deleted.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import platformdirs
import structlog

from lynx_batch.errors import LynxError, StoreUnready, Transient
from lynx_batch.storage import read_bytes, stat, write_bytes

log = structlog.get_logger()

NUM_PARALLEL_PHOTOS = 16
MAX_REMEMBERED = 200_000
SHA256_LENGTH = 64

Memory = Mapping[str, str]
"""sha256 of what a photo's store says about it -> sha256 of its bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoProblem:
    """Why a photo cannot be used. `error_type` is a class name of the error tree.

    `is_transient` says that the store failed, not the photo: another try may succeed.
    """

    error_type: str
    error: str
    is_transient: bool = False

    @classmethod
    def of(cls, error: LynxError) -> "PhotoProblem":
        return cls(error_type=type(error).__name__, error=str(error), is_transient=isinstance(error, Transient))


def hash_photos(uris: Iterable[str]) -> dict[str, str | PhotoProblem]:
    """The sha256 (hex) of each photo, or what is wrong with it. Reads each distinct photo at most once, many at a time.

    Raises StoreUnready if credentials or configuration of a store's client are not fit to read any.
    """
    distinct = list(dict.fromkeys(uris))
    memory = _recall()
    with ThreadPoolExecutor(NUM_PARALLEL_PHOTOS, thread_name_prefix="photos") as pool:
        found = list(pool.map(lambda uri: _hash_photo(uri, memory), distinct))
    fresh = {key: photo for key, photo in found if key is not None and isinstance(photo, str) and key not in memory}
    if fresh:
        _remember({**fresh, **memory})
    return {uri: photo for uri, (_, photo) in zip(distinct, found, strict=True)}


def _hash_photo(uri: str, memory: Memory) -> tuple[str | None, str | PhotoProblem]:
    """What the photo is remembered by, if its store can tell a changed one; and its sha256 or problem."""
    try:
        # Before it is read: bytes that change in between are remembered by a version that never comes back.
        stored = stat(uri)
        key = _digest(f"{uri}\n{stored.num_bytes}\n{stored.version}".encode()) if stored and stored.version else None
        if key is not None and key in memory:
            return key, memory[key]
        return key, _digest(read_bytes(uri))
    except StoreUnready:  # nothing that is wrong with a photo
        raise
    except LynxError as error:
        return None, PhotoProblem.of(error)


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
