"""Hashes files, and caches the hashes on each machine; free of torch.

A cached hash is valid while the file's size, modification time (mtime), change time (ctime) and inode are the same. The mtime alone
proves nothing, because `cp -p`, `rsync -a` and `tar` set it; no tool sets the ctime.

The cache is one JSON file per folder, in the user's cache folder. It can be deleted at any time; files are then hashed again.
"""

import hashlib
import json
import os
import re
import stat
import time
import uuid
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import platformdirs

from lynx_model.checkpoints.reading import reading
from lynx_model.errors import MissingFile

HASHING_THREADS = min(8, os.cpu_count() or 1)
MAX_FOLDERS = 500
MAX_FILES = 10_000
"""The cache covers at most this many folders, and this many files in each."""

SHA256 = re.compile("[0-9a-f]{64}")

TICK_S = 0.02
"""A file system's clock can stand still for up to 10 ms, so a file can change twice with the same ctime."""

Status = tuple[int, int, int, int]
"""Size, mtime and ctime in ns, and inode of a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDigest:
    sha256: str
    num_bytes: int


@dataclass(frozen=True, slots=True)
class _Hashed:
    """A file's digest, and its status, which is None if the file changed while it was hashed."""

    digest: FileDigest
    status: Status | None


def digest_files(folder: Path, names: Collection[str]) -> dict[str, FileDigest]:
    """The digests of files in `folder`, by name. Files without a valid cache entry are hashed (2 GB/s per core) and cached.

    Raises:
        MissingFile: If a file is not there or cannot be read.
    """
    cache = _read_cache(folder)
    known = {}
    for name in names:
        hashed = cache.get(name)
        if hashed is not None and hashed.status == _status(folder / name):
            known[name] = hashed.digest
    return known | hash_files(folder, [name for name in names if name not in known])


def hash_files(folder: Path, names: Collection[str]) -> dict[str, FileDigest]:
    """As `digest_files`, but hashes every file, several at a time, whatever the cache says."""
    if not names:
        return {}
    with ThreadPoolExecutor(HASHING_THREADS) as threads:
        hashed = dict(zip(names, threads.map(_hash_with_status, (folder / name for name in names)), strict=True))
    _write_cache(folder, hashed)
    return {name: each.digest for name, each in hashed.items()}


def hash_file(file: Path) -> FileDigest:
    """Hashes one file; does not use the cache."""
    with file.open("rb") as content:
        return FileDigest(sha256=hashlib.file_digest(content, "sha256").hexdigest(), num_bytes=content.tell())


def replace_json(file: Path, content: object) -> None:
    """Writes a JSON file atomically, because other processes may write it at the same time."""
    file.parent.mkdir(parents=True, exist_ok=True)
    staged = file.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        staged.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        staged.replace(file)
    finally:
        staged.unlink(missing_ok=True)


def _hash_with_status(file: Path) -> _Hashed:
    before = _status(file)
    age_s = (time.time_ns() - before[2]) / 1e9
    time.sleep(min(max(TICK_S - age_s, 0), TICK_S))  # so that a later change gets another ctime
    with reading(file):
        digest = hash_file(file)
    return _Hashed(digest, before if _status(file) == before else None)


def _status(file: Path) -> Status:
    with reading(file):
        status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise MissingFile(f"{file}: must be a regular file")
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def _cache_file(folder: Path) -> Path:
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()
    return platformdirs.user_cache_path("lynx-batch") / "file-hashes" / f"{name}.json"


def _read_cache(folder: Path) -> dict[str, _Hashed]:
    """The cache entries of a folder; empty if the cache is damaged."""
    try:
        entries = json.loads(_cache_file(folder).read_bytes()).items()
        return {name: _parse(*entry) for name, entry in entries}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _parse(sha256: object, *status: object) -> _Hashed:
    size, mtime_ns, ctime_ns, inode = (number for number in status if isinstance(number, int))
    if not isinstance(sha256, str) or not SHA256.fullmatch(sha256):
        raise ValueError(sha256)
    return _Hashed(FileDigest(sha256=sha256, num_bytes=size), (size, mtime_ns, ctime_ns, inode))


def _write_cache(folder: Path, hashed: Mapping[str, _Hashed]) -> None:
    """Caches the files that did not change while they were hashed. A full or read-only disk is no error; files are hashed again."""
    older = {name: each for name, each in _read_cache(folder).items() if name not in hashed}
    kept = islice({**hashed, **older}.items(), MAX_FILES)
    with suppress(OSError):
        file = _cache_file(folder)
        replace_json(file, {name: [each.digest.sha256, *each.status] for name, each in kept if each.status})
        _drop_oldest(file.parent)


def _drop_oldest(folder: Path) -> None:
    files = sorted(folder.glob("*.json"), key=lambda file: file.stat().st_mtime_ns)
    for file in files[:-MAX_FOLDERS]:
        file.unlink(missing_ok=True)
