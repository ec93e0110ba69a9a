"""Files by URI: a local path, `file://`, `s3://`, `gs://`, `az://`, `https://`, `memory://`.

The functions here are all that the rest of the code calls. The URI's scheme selects a `Store`; this module retries the call for a few
seconds if the store is unavailable, and explains its errors. Every function may be called from any thread and any process.

Every function may raise StoreRefused, StoreUnready if the client is not set up properly (`store_errors` says which error means
what), or StoreUnavailable after all tries. Messages show redacted URIs only.
"""

import math
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

import pyarrow.fs

from lynx_batch.errors import ConfigError, MissingObject
from lynx_batch.redaction import redact, redact_all
from lynx_batch.storage import calls
from lynx_batch.storage.local import LocalStore
from lynx_batch.storage.remote import FsspecStore
from lynx_batch.storage.store import OldVersion, SignedLink, SizeLimit, Store, StoredFile
from lynx_batch.storage.uris import absolute, is_local, is_within, join, path_of, resolve, scheme_of
from lynx_batch.store_errors import Operation
from lynx_batch.store_traffic import count_upload

__all__ = [
    "STORES",
    "OldVersion",
    "SignedLink",
    "SizeLimit",
    "Store",
    "StoredFile",
    "absolute",
    "arrow_filesystem",
    "clock",
    "create_only",
    "delete",
    "delete_version",
    "download",
    "explained",
    "is_local",
    "is_within",
    "join",
    "list_files",
    "list_old_versions",
    "path_of",
    "read_bytes",
    "read_range",
    "read_whole",
    "redact",
    "redact_all",
    "resolve",
    "sign",
    "stat",
    "upload",
    "write_bytes",
]

NUM_TRIES = 3

STORES: dict[str, Store] = {"": LocalStore()}
"""Stores by URI scheme; a local URI has none. Every scheme that is not listed goes to fsspec."""

_FSSPEC: Store = FsspecStore()

T = TypeVar("T")


def read_bytes(uri: str, limit: SizeLimit | None = None) -> bytes:
    """The whole file. Raises MissingObject, and InputRefused if it exceeds `limit`."""
    return _call(Operation.READ, uri, lambda store: store.read_bytes(uri, limit))


def read_whole(uri: str, limit: SizeLimit, *, max_tries: int, longest_s: float) -> bytes:
    """The content of a regular file, certain to be complete: a read that was cut short is repeated.

    Raises as `read_bytes` does, and InputRefused if it is not a regular file. A remote store gets at most `longest_s` for all tries.
    """
    deadline_s = time.monotonic() + longest_s
    return _call(Operation.READ, uri, lambda store: store.read_whole(uri, limit, deadline_s), max_tries=max_tries)


def read_range(uri: str, start: int, end: int) -> bytes:
    """The bytes in [start, end), fewer if the file ends first. Raises as `read_bytes` does."""
    return _call(Operation.READ, uri, lambda store: store.read_range(uri, start, end))


def download(uri: str, local_path: Path) -> None:
    """Copies the file to `local_path`, replacing what is there. Raises as `read_bytes` does."""
    _call(Operation.READ, uri, lambda store: store.download(uri, local_path))


def write_bytes(uri: str, data: bytes) -> None:
    """Writes `data` to `uri`, replacing what is there; a reader sees the old content or the new, never a part."""
    _call(Operation.WRITE, uri, lambda store: store.write_bytes(uri, data))
    count_upload(len(data))


def upload(local_path: Path, uri: str) -> None:
    """As `write_bytes`, with the content of a local file."""
    _call(Operation.WRITE, uri, lambda store: store.upload(local_path, uri))
    count_upload(local_path.stat().st_size)


def create_only(uri: str, data: bytes) -> bool:
    """Writes `data` to `uri` unless something is there; of any number of concurrent callers at most one gets True.

    False can also mean that our own write succeeded but its response was lost; read the object to find out.

    Raises:
        UnsafeStore: If the file system of a local path has no hard links.
        StoreUnavailable: If it remains unknown whether the write succeeded.
    """
    is_created = _call(Operation.WRITE, uri, lambda store: store.create_only(uri, data))
    if is_created:
        count_upload(len(data))
    return is_created


def delete(uri: str) -> None:
    """Removes the file at `uri`, if it exists."""
    _call(Operation.DELETE, uri, lambda store: store.delete(uri))


def stat(uri: str, *, max_tries: int = NUM_TRIES, longest_s: float = math.inf) -> StoredFile | None:
    """Size, version and modification time of the file at `uri`, or None if it does not exist.

    Raises as `read_bytes` does; a remote store gets at most `longest_s` for all tries.
    """
    deadline_s = time.monotonic() + longest_s
    with suppress(MissingObject):
        return _call(Operation.READ, uri, lambda store: store.stat(uri, deadline_s), max_tries=max_tries)
    return None


def list_files(prefix: str) -> Iterator[StoredFile]:
    """Every file below the folder `prefix`, at any depth and in no order; the file itself if `prefix` is one; nothing if it is missing."""
    yield from _call(Operation.LIST, prefix, lambda store: store.list_files(prefix))


def list_old_versions(folder: str) -> Iterator[OldVersion]:
    """What a versioned bucket keeps of objects below `folder` that were replaced or deleted; nothing where there are no versions.

    Marks of deletions come last. Raises StoreRefused also for a kind of store whose versions cannot be listed here.
    """
    yield from _call(Operation.LIST_VERSIONS, folder, lambda store: store.list_old_versions(folder))


def delete_version(version: OldVersion) -> None:
    """Removes an old version for good."""
    _call(Operation.DELETE_VERSION, version.uri, lambda store: store.delete_version(version))


def clock(folder: str) -> datetime:
    """The current time by the store's clock: the modification time of a small object, which is written and removed again.

    Raises:
        ConfigError: If the store does not report modification times.
    """
    uri = join(folder, f".clock-{uuid.uuid4().hex}")
    write_bytes(uri, b"")
    try:
        stored = stat(uri)
    finally:
        delete(uri)
    if stored is None or stored.modified_at is None:
        raise ConfigError(f"{redact(folder)}: its store must report when an object was modified")
    return stored.modified_at


def sign(uri: str, seconds: int) -> SignedLink:
    """A link with which anybody can read the file for so many seconds, or until the credentials end that sign it. Asks for no file.

    Raises:
        ConfigError: If the file is local, or its store has no such links.
    """
    return _call(Operation.SIGN, uri, lambda store: store.sign(uri, seconds))


def arrow_filesystem(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """A file system for pyarrow's readers and writers, and the path of `uri` in it."""
    return _store_of(uri).arrow_filesystem(uri)


def explained(operation: Operation, uri: str) -> AbstractContextManager[None]:
    """Turns an error that a client library raises inside the block into one of ours."""
    return calls.explained(operation, uri, partial(_store_of(uri).find_reason, uri=uri))


def _store_of(uri: str) -> Store:
    return STORES.get(scheme_of(uri), _FSSPEC)


def _call(operation: Operation, uri: str, request: Callable[[Store], T], *, max_tries: int = NUM_TRIES) -> T:
    with explained(operation, uri):
        return calls.retry(operation, uri, partial(request, _store_of(uri)), max_tries=max_tries)
