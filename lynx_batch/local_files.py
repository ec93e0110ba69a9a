"""Local files with the guarantees of an object store: atomic writes, and creation by exactly one of many processes.

A reader never sees a partial file: each file is first written under a temporary name in the same folder.
"""

import errno
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lynx_batch.errors import InputRefused, UnsafeStore

NO_HARD_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS})


def replace(path: Path, data: bytes) -> None:
    """Writes `data` to `path` atomically, replacing what is there."""
    _replace(path, lambda temporary: temporary.write_bytes(data))


def replace_by_copy(path: Path, source: Path) -> None:
    """Copies `source` to `path` atomically, replacing what is there."""
    _replace(path, lambda temporary: shutil.copyfile(source, temporary))


def create(path: Path, data: bytes) -> bool:
    """Writes `data` to `path` unless something is there; exactly one of any number of callers gets True.

    Raises:
        UnsafeStore: If the file system has no hard links.
    """
    with _temporary_beside(path) as temporary:
        temporary.write_bytes(data)
        _flush_to_disk(temporary)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno in NO_HARD_LINKS:
                raise UnsafeStore(f"{path.parent}: its file system must have hard links") from error
            raise
    return True


def read_range(path: Path, start: int, end: int) -> bytes:
    """The bytes in [start, end), fewer if the file ends first."""
    with path.open("rb") as file:
        file.seek(start)
        return file.read(end - start)


def read_at_most(path: Path, num_bytes: int) -> bytes:
    """The first `num_bytes`, fewer if the file ends first. Blocks on a pipe."""
    with path.open("rb") as file:
        return file.read(num_bytes)


def read_regular(path: Path, num_bytes: int) -> tuple[bytes, int]:
    """The first `num_bytes` of a regular file (fewer if it ends first), and its size.

    Raises:
        InputRefused: If it is a device, pipe, socket or a similar file of the kernel. Never blocks on one.
    """
    _check_regular(path, path.stat())
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        status = os.fstat(file.fileno())
        _check_regular(path, status)
        content: bytes | None = file.read(num_bytes)
    if content is None:  # no data yet, as in /proc/kmsg
        raise InputRefused(f"{path}: must be a regular file")
    return content, status.st_size


def walk(folder: str, parent: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Name and status of every file below `folder`. Files that disappear meanwhile are left out.

    Names are relative to `folder`, prefixed with `parent`. Symbolic links to folders are not followed, so a cycle is harmless.
    """
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from walk(entry.path, f"{parent}{entry.name}/")
        elif not _is_temporary(entry.name) and entry.is_file():
            try:
                status = entry.stat()
            except FileNotFoundError:
                continue
            yield parent + entry.name, status


def _check_regular(path: Path, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(path)
    if not stat.S_ISREG(status.st_mode):
        raise InputRefused(f"{path}: must be a regular file")


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    with _temporary_beside(path) as temporary:
        write(temporary)
        _flush_to_disk(temporary)
        temporary.replace(path)


@contextmanager
def _temporary_beside(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(".tmp")


def _flush_to_disk(path: Path) -> None:
    """After a power cut a file must not exist without its content: a commit vouches for a video."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
