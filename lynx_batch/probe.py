"""Checks, before any GPU works, that the output's store does all that a run needs, by doing it once."""

import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from lynx_batch import storage
from lynx_batch.errors import UnsafeStore
from lynx_batch.output import COMMITS, FOLDERS


def probe_rights(output: str, folders: Sequence[str] = FOLDERS) -> None:
    """Writes, lists, reads and removes a small object in each folder, because permissions may differ by folder.

    A multi-part upload needs no permission beyond that for a write.

    Raises:
        StoreRefused: If the store refuses any of it; the message names the object, the operation and the missing permission.
    """
    with ThreadPoolExecutor(len(folders), thread_name_prefix="probe") as pool:
        for _ in pool.map(lambda folder: _probe_folder(storage.join(output, folder)), folders):
            pass


def probe_create_only(output: str) -> None:
    """Checks that the store honours create-only puts.

    Raises:
        UnsafeStore: If it does not; a clip could then be committed twice.
    """
    uri = _new_name(storage.join(output, COMMITS))
    storage.create_only(uri, b"first")
    try:
        if storage.create_only(uri, b"second") or storage.read_bytes(uri) != b"first":
            raise UnsafeStore(
                f"output={storage.redact(output)!r}: its store must refuse a create-only put of an existing object"
            )
    finally:
        storage.delete(uri)


def _probe_folder(folder: str) -> None:
    uri = _new_name(folder)
    storage.write_bytes(uri, b"probe")
    try:
        list(storage.list_files(uri))
        storage.read_bytes(uri)
    finally:
        storage.delete(uri)


def _new_name(folder: str) -> str:
    """A name that begins with `_`, which readers of a folder of Parquet files ignore."""
    return storage.join(folder, f"_probe-{uuid.uuid4().hex}")
