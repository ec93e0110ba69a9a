"""Hashes of files, each computed once a machine and then remembered; free of torch.

A file is taken for the one that was hashed if its size, its times of writing and of change, and its inode are what they were.
Times of writing alone prove nothing: `cp -p`, `rsync -a` and `tar` set them; nothing sets the time of change.

The memory is a JSON file for each folder, in the user's cache folder. It may be deleted at any time: files are hashed again.
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

from lynx_model.errors import MissingFile

HASHING_THREADS = min(8, os.cpu_count() or 1)
MAX_FOLDERS = 500
MAX_FILES = 10_000
"""How much is remembered: of this many folders, this many files each."""

SHA256 = re.compile("[0-9a-f]{64}")

TICK_S = 0.02
"""A file system's clock stands still for up to 10 ms, so a file may change twice at one time of change."""

Status = tuple[int, int, int, int]
"""What a file system says of a file: size, times of writing and of change in ns, inode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDigest:
    sha256: str
    num_bytes: int


@dataclass(frozen=True, slots=True)
class _Hashed:
    """A file's digest, and its status if that did not change meanwhile."""

    digest: FileDigest
    status: Status | None


def digest_files(folder: Path, names: Collection[str]) -> dict[str, FileDigest]:
    """The digests of files in `folder`, by name. Hashes (2 GB/s per core) what is not remembered, and remembers it.

    Raises:
        MissingFile: If a file is not there or cannot be read.
    """
    memory = _recall(folder)
    known = {}
    for name in names:
        hashed = memory.get(name)
        if hashed is not None and hashed.status == _status(folder / name):
            known[name] = hashed.digest
    return known | hash_files(folder, [name for name in names if name not in known])


def hash_files(folder: Path, names: Collection[str]) -> dict[str, FileDigest]:
    """As `digest_files`, but reads every file, several at a time."""
    if not names:
        return {}
    with ThreadPoolExecutor(HASHING_THREADS) as threads:
        hashed = dict(zip(names, threads.map(_hash_settled, (folder / name for name in names)), strict=True))
    _remember(folder, hashed)
    return {name: each.digest for name, each in hashed.items()}


def hash_file(file: Path) -> FileDigest:
    """Reads the whole file; nothing is remembered."""
    with file.open("rb") as content:
        return FileDigest(sha256=hashlib.file_digest(content, "sha256").hexdigest(), num_bytes=content.tell())


def replace_json(file: Path, content: object) -> None:
    """Writes a JSON file; all or nothing, as other processes may do the same meanwhile."""
    file.parent.mkdir(parents=True, exist_ok=True)
    staged = file.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        staged.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        staged.replace(file)
    finally:
        staged.unlink(missing_ok=True)


def _hash_settled(file: Path) -> _Hashed:
    try:
        before = _status(file)
        age_s = (time.time_ns() - before[2]) / 1e9
        time.sleep(min(max(TICK_S - age_s, 0), TICK_S))  # so that a later change has a later time
        digest = hash_file(file)
        return _Hashed(digest, before if _status(file) == before else None)
    except OSError as error:
        raise MissingFile(f"{file}: must be a file that can be read: {error.strerror}") from error


def _status(file: Path) -> Status:
    try:
        status = file.stat()
    except OSError as error:
        raise MissingFile(f"{file}: must be a file that can be read: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise MissingFile(f"{file}: must be a regular file")
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def _memory_file(folder: Path) -> Path:
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()
    return platformdirs.user_cache_path("lynx-batch") / "file-hashes" / f"{name}.json"


def _recall(folder: Path) -> dict[str, _Hashed]:
    """What is remembered of a folder; nothing if that is damaged."""
    try:
        entries = json.loads(_memory_file(folder).read_bytes()).items()
        return {name: _parse(*entry) for name, entry in entries}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _parse(sha256: object, *status: object) -> _Hashed:
    size, written_ns, changed_ns, inode = (number for number in status if isinstance(number, int))
    if not isinstance(sha256, str) or not SHA256.fullmatch(sha256):
        raise ValueError(sha256)
    return _Hashed(FileDigest(sha256=sha256, num_bytes=size), (size, written_ns, changed_ns, inode))


def _remember(folder: Path, hashed: Mapping[str, _Hashed]) -> None:
    """Adds what stayed the same while it was hashed. A full or read-only disk is no error: files are hashed again."""
    older = {name: each for name, each in _recall(folder).items() if name not in hashed}
    kept = islice({**hashed, **older}.items(), MAX_FILES)
    with suppress(OSError):
        file = _memory_file(folder)
        replace_json(file, {name: [each.digest.sha256, *each.status] for name, each in kept if each.status})
        _forget_oldest(file.parent)


def _forget_oldest(folder: Path) -> None:
    files = sorted(folder.glob("*.json"), key=lambda file: file.stat().st_mtime_ns)
    for file in files[:-MAX_FOLDERS]:
        file.unlink(missing_ok=True)
