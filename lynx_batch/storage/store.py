"""What a store can do (`Store`), and the values that pass between a store and its callers."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

import pyarrow.fs

from lynx_batch.errors import InputRefused
from lynx_batch.redaction import redact


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file in a store.

    `version` changes whenever the content changes; empty if the store has no such thing. `modified_at` is the time of the last
    change by the store's clock; None if the store does not report it.
    """

    uri: str
    num_bytes: int
    version: str
    modified_at: datetime | None


@dataclass(frozen=True, slots=True)
class OldVersion:
    """A version of an object that a versioned bucket keeps although it was replaced or deleted, or the mark of a deletion."""

    uri: str
    version_id: str


@dataclass(frozen=True, slots=True)
class SizeLimit:
    """The largest file to read; `name` is the setting or rule that the error message blames."""

    num_bytes: int
    name: str

    def check(self, uri: str, num_bytes: int) -> None:
        """Raises InputRefused if `num_bytes` exceeds the limit."""
        if num_bytes > self.num_bytes:
            raise InputRefused(f"{redact(uri)}: must have at most {self.num_bytes:,} bytes ({self.name})")


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedLink:
    """An address at which anybody can read a file until `ends_at`.

    A link ends with the credentials that signed it, which may be before `asked_until`. `may_end_earlier`: these are temporary, and the
    client does not know when they end.
    """

    url: str
    asked_until: datetime
    ends_at: datetime
    may_end_earlier: bool = False


class Store(Protocol):
    """One kind of store. `lynx_batch.storage` calls it, retries, and explains its errors.

    A method tries once, may be called from any thread, and raises whatever its client library raises: FileNotFoundError for a
    missing file, some other OSError for most else. An error of ours, such as InputRefused, passes through unchanged. `deadline_s` is by
    `time.monotonic`.
    """

    def read_bytes(self, uri: str, limit: SizeLimit | None) -> bytes:
        """The whole file. Raises InputRefused if it exceeds `limit`."""

    def read_whole(self, uri: str, limit: SizeLimit, deadline_s: float) -> bytes:
        """The whole file. Raises OSError if fewer or more bytes arrive than the file has, InputRefused if it is not a regular file."""

    def read_range(self, uri: str, start: int, end: int) -> bytes:
        """The bytes in [start, end), fewer if the file ends first."""

    def download(self, uri: str, local_path: Path) -> None:
        """Copies the file to `local_path`, replacing what is there."""

    def write_bytes(self, uri: str, data: bytes) -> None:
        """Replaces the file atomically: a reader sees the old content or the new, never a part."""

    def upload(self, local_path: Path, uri: str) -> None:
        """As `write_bytes`, with the content of a local file."""

    def create_only(self, uri: str, data: bytes) -> bool:
        """Creates the file atomically; False if it exists. Of concurrent callers at most one gets True."""

    def delete(self, uri: str) -> None:
        """Removes the file if it exists."""

    def list_old_versions(self, folder: str) -> Iterable[OldVersion]:
        """The old versions of the objects below a folder, and after them the marks of deletions. Nothing where a store keeps none."""

    def delete_version(self, version: OldVersion) -> None:
        """Removes an old version for good."""

    def stat(self, uri: str, deadline_s: float) -> StoredFile | None:
        """The file's size, version and time; None for anything but a file, such as a folder."""

    def list_files(self, prefix: str) -> Iterable[StoredFile]:
        """Every file below a folder, or the file itself. All requests have been made when this returns."""

    def sign(self, uri: str, seconds: int) -> SignedLink:
        """A link to the file that lasts for so many seconds, or less. Raises ConfigError if the store has no such links."""

    def arrow_filesystem(self, uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
        """A file system for pyarrow, and the path in it."""

    def find_reason(self, error: Exception, uri: str) -> Exception:
        """`error`, or a clearer one if the store can be asked why it refused."""
