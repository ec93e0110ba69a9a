"""The store of local paths and `file://`: files on any file system that this machine has mounted."""

import math
import os
import shutil
import stat as file_modes
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.fs

from lynx_batch import local_files
from lynx_batch.errors import ConfigError
from lynx_batch.storage.store import OldVersion, SignedLink, SizeLimit, StoredFile
from lynx_batch.storage.uris import join, path_of


class LocalStore:
    """Implements `Store`. It waits for as long as the file system takes, whatever the deadline."""

    def read_bytes(self, uri: str, limit: SizeLimit | None) -> bytes:
        if limit is None:
            return _path(uri).read_bytes()
        content = local_files.read_at_most(_path(uri), limit.num_bytes + 1)
        limit.check(uri, len(content))
        return content

    def read_whole(self, uri: str, limit: SizeLimit, deadline_s: float) -> bytes:
        content, num_bytes = local_files.read_regular(_path(uri), limit.num_bytes + 1)
        limit.check(uri, max(num_bytes, len(content)))
        if len(content) != num_bytes:
            raise OSError(f"{len(content)} of {num_bytes} bytes arrived")
        return content

    def read_range(self, uri: str, start: int, end: int) -> bytes:
        return local_files.read_range(_path(uri), start, end)

    def download(self, uri: str, local_path: Path) -> None:
        shutil.copyfile(_path(uri), local_path)

    def write_bytes(self, uri: str, data: bytes) -> None:
        local_files.replace(_path(uri), data)

    def upload(self, local_path: Path, uri: str) -> None:
        local_files.replace_by_copy(_path(uri), local_path)

    def create_only(self, uri: str, data: bytes) -> bool:
        """Raises UnsafeStore if the file system has no hard links."""
        return local_files.create(_path(uri), data)

    def delete(self, uri: str) -> None:
        _path(uri).unlink(missing_ok=True)

    def list_old_versions(self, folder: str) -> Iterable[OldVersion]:
        return ()

    def delete_version(self, version: OldVersion) -> None:
        """Never called: there are none."""

    def stat(self, uri: str, deadline_s: float) -> StoredFile | None:
        return _stored(uri, _path(uri).stat())

    def list_files(self, prefix: str) -> Iterable[StoredFile]:
        path = _path(prefix)
        if path.is_dir():
            entries = list(local_files.walk(str(path)))
            return filter(None, (_stored(join(prefix, name), status) for name, status in entries))
        with suppress(FileNotFoundError, NotADirectoryError):
            return filter(None, [self.stat(prefix, math.inf)])
        return []

    def sign(self, uri: str, seconds: int) -> SignedLink:
        raise ConfigError(f"{uri}: only files in a bucket (s3://, gs://, az://) can have signed links")

    def arrow_filesystem(self, uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
        return pyarrow.fs.LocalFileSystem(), str(_path(uri))

    def find_reason(self, error: Exception, uri: str) -> Exception:
        return error


def _path(uri: str) -> Path:
    path = path_of(uri)
    assert path is not None
    return path


def _stored(uri: str, status: os.stat_result) -> StoredFile | None:
    """None for anything but a regular file. `cp -p` and `tar` set mtime back, so the version has ctime and the inode as well."""
    if not file_modes.S_ISREG(status.st_mode):
        return None
    version = f"{status.st_mtime_ns}-{status.st_ctime_ns}-{status.st_ino}"
    modified_at = datetime.fromtimestamp(status.st_mtime, UTC)
    return StoredFile(uri=uri, num_bytes=status.st_size, version=version, modified_at=modified_at)
