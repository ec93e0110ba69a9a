"""Objects by URI: a local path, `file://`, `s3://`, `gs://`, `az://`, `https://`, `memory://`.

The only module that imports fsspec. Endpoints and credentials come from the environment, as each store's own library
reads them. Every function may be called from any thread and any process.

Errors are ours (`store_errors` says which) and show redacted URIs only. Any function may raise StoreRefused, as a StoreUnready if
its client is not fit to ask, or StoreUnavailable for what was tried again for a few seconds and may pass.
"""

import errno
import os
import shutil
import stat as file_modes
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from posixpath import normpath
from typing import Any, TypeVar

import fsspec
import pyarrow.fs
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from lynx_batch import local_files
from lynx_batch.errors import ConfigError, MissingObject, StoreUnavailable
from lynx_batch.store_errors import CURES, SETTINGS, USERINFO, Deed, check_settings, code_of, explain, kind_of

NUM_TRIES = 3

BODILESS = ("400", "403")
"""What s3fs takes for the code of a refusal without one: its HTTP status."""

VERSION_KEYS = ("ETag", "etag", "created")
"""What the stores call the version of an object, the best first. A time of last change is none: some take it from files, where it
can be set back."""

TIME_KEYS = ("LastModified", "last_modified", "mtime", "updated", "created")
"""What the stores call the time of an object's last change, the best first."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file of a store.

    `version` changes with its content: an etag; of a local file its times of writing and of change and its inode, as `cp -p` and
    `tar` restore an older time of writing. Empty if the store tells none. `modified_at` is the time of its last change by the
    store's own clock; None if the store does not tell it.
    """

    uri: str
    num_bytes: int
    version: str
    modified_at: datetime | None


def join(uri: str, *parts: str) -> str:
    """`uri` with `parts` below it, each after one slash."""
    for part in filter(None, (part.strip("/") for part in parts)):
        uri = uri + part if uri.endswith("/") else f"{uri}/{part}"
    return uri


def resolve(uri: str, base: str) -> str:
    """`uri` itself if it is absolute, else what it means in the folder `base`; `..` never leaves a bucket."""
    if "://" in uri or os.path.isabs(uri):
        return uri
    if path_of(base) is not None:
        return join(base, uri)
    scheme, _, address = base.partition("://")
    bucket, _, folder = address.partition("/")
    return f"{scheme}://{bucket}{normpath(join('/', folder, uri))}"


def is_local(uri: str) -> bool:
    """Whether `uri` means a file of whatever machine reads it."""
    return path_of(uri) is not None


def path_of(uri: str) -> Path | None:
    """The file of whatever machine reads `uri`, if that is what it means."""
    path = uri.removeprefix("file://")
    return None if "://" in path else Path(path)


def redact(uri: str) -> str:
    """`uri` as it may be shown: without query string and user name. A local path stays as it is."""
    return USERINFO.sub("://", uri.partition("?")[0]) if "://" in uri else uri


def redact_all(value: Any) -> Any:
    """`value`, such as a run file's content, with every URI in it redacted."""
    if isinstance(value, dict):
        return {key: redact_all(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redact_all(inner) for inner in value]
    return redact(value) if isinstance(value, str) else value


def read_bytes(uri: str) -> bytes:
    """The whole object. Raises MissingObject."""
    path = path_of(uri)
    if path is not None:
        return _doing(Deed.READ, uri, path.read_bytes)
    store, key = _remote(uri)
    return _doing(Deed.READ, uri, lambda: bytes(store.cat_file(key)))


def read_range(uri: str, start: int, end: int) -> bytes:
    """The bytes from `start` up to `end` of the object, or what there is of them; raises as `read_bytes` does."""
    path = path_of(uri)
    if path is not None:
        return _doing(Deed.READ, uri, partial(local_files.read_range, path, start, end))
    store, key = _remote(uri)
    # a web server may not know of ranges, and send all
    return _doing(Deed.READ, uri, lambda: bytes(store.cat_file(key, start=start, end=end))[: end - start])


def download(uri: str, local_path: Path) -> None:
    """Copies the object to a file of this machine, in place of what was there; raises as `read_bytes` does."""
    path = path_of(uri)
    if path is not None:
        _doing(Deed.READ, uri, partial(shutil.copyfile, path, local_path))
        return
    store, key = _remote(uri)
    _doing(Deed.READ, uri, partial(store.get_file, key, str(local_path)))


def write_bytes(uri: str, data: bytes) -> None:
    """Puts `data` at `uri`, in place of what was there; a reader sees the old or the new, never a part."""
    path = path_of(uri)
    if path is not None:
        _doing(Deed.PUT, uri, partial(local_files.replace, path, data))
        return
    store, key = _remote(uri)
    _doing(Deed.PUT, uri, partial(store.pipe_file, key, data))


def upload(local_path: Path, uri: str) -> None:
    """As `write_bytes`, with the content of a local file."""
    path = path_of(uri)
    if path is not None:
        _doing(Deed.PUT, uri, partial(local_files.replace_by_copy, path, local_path))
        return
    store, key = _remote(uri)
    _doing(Deed.PUT, uri, partial(store.put_file, str(local_path), key))


def create_only(uri: str, data: bytes) -> bool:
    """Puts `data` at `uri` unless something is there: of any number of callers at most one is told True.

    False may also mean that this very call put it and lost the answer, so whoever must know reads what is there.

    Raises:
        UnsafeStore: If the file system of a local path has no hard links.
        StoreUnavailable: If it stays unknown whether the put arrived.
    """
    path = path_of(uri)
    if path is not None:
        return _doing(Deed.PUT, uri, partial(local_files.create, path, data))
    return _doing(Deed.PUT, uri, partial(_create_remotely, uri, data))


def delete(uri: str) -> None:
    """Removes the file at `uri`; there being none is no error."""
    path = path_of(uri)
    if path is not None:
        return _doing(Deed.DELETE, uri, partial(path.unlink, missing_ok=True))
    return _doing(Deed.DELETE, uri, partial(_delete_remotely, uri))


def stat(uri: str) -> StoredFile | None:
    """What is known of the file at `uri`; None if there is none."""
    with suppress(MissingObject):
        path = path_of(uri)
        if path is not None:
            return _local_file(uri, _doing(Deed.READ, uri, path.stat))
        store, key = _remote(uri)
        return _remote_file(uri, _doing(Deed.READ, uri, partial(store.info, key)))
    return None


def list_files(prefix: str) -> Iterator[StoredFile]:
    """Every file below the folder `prefix`, at any depth and in no order; a file lists itself, a missing one nothing.

    An object whose key ends in a slash is how some tools mark a folder. It is no file.
    """
    path = path_of(prefix)
    if path is None:
        store, key = _remote(prefix)
        infos: dict[str, dict[str, Any]] = _doing(Deed.LIST, prefix, partial(store.find, key, detail=True))
        names = (name for name in infos if not name.endswith("/"))
        found = (_remote_file(join(prefix, name.removeprefix(key)), infos[name]) for name in names)
    elif path.is_dir():
        entries = _doing(Deed.LIST, prefix, lambda: list(local_files.walk(str(path))))
        found = (_local_file(join(prefix, name), status) for name, status in entries)
    else:
        found = (file for file in [stat(prefix)])
    yield from filter(None, found)


def clock(folder: str) -> datetime:
    """What the time is by the clock of the store: when an object changed that was just put there. It is removed again.

    Raises:
        ConfigError: If the store does not tell times.
    """
    uri = join(folder, f".clock-{uuid.uuid4().hex}")
    write_bytes(uri, b"")
    try:
        stored = stat(uri)
    finally:
        delete(uri)
    if stored is None or stored.modified_at is None:
        raise ConfigError(f"{redact(folder)}: its store must tell when an object was changed")
    return stored.modified_at


def arrow_filesystem(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """What pyarrow's readers and writers take for `uri`: a file system and a path in it."""
    path = path_of(uri)
    if path is not None:
        return pyarrow.fs.LocalFileSystem(), str(path)
    store, key = _remote(uri)
    return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(store)), key


@contextmanager
def explained(deed: Deed, uri: str) -> Iterator[None]:
    """Turns what a client library raises at `uri` into an error of ours; its text may hold a signed URL, so it is no cause."""
    try:
        yield
    except Exception as error:
        ours = explain(_with_a_reason(error, uri), redact(uri), _scheme(uri), deed)
        if ours is None:
            raise
        raise ours from None


def _remote(uri: str) -> tuple[Any, str]:
    """The store and the key in it. Listings are not cached: other processes write to the same store."""
    scheme = _scheme(uri)
    check_settings(scheme)
    with explained(Deed.READ, uri):
        try:
            store, key = fsspec.core.url_to_fs(uri, use_listings_cache=False)
        except ImportError as error:
            raise ConfigError(f"uri={redact(uri)!r}: {error}") from error
        except ValueError as error:
            if scheme in SETTINGS:
                raise
            raise ConfigError(f"uri={redact(uri)!r}: {error}") from error
    return store, str(key)


def _with_a_reason(error: Exception, uri: str) -> Exception:
    """`error`, or what a listing fails with: S3 answers a HEAD without a body that says whether it is about the credentials."""
    if code_of(error) in BODILESS:
        store, key = _remote(uri)
        try:
            store.call_s3("list_objects_v2", Bucket=store.split_path(key)[0], MaxKeys=1)
        except OSError as told:
            if code_of(told) in CURES:
                return told
    return error


def _scheme(uri: str) -> str:
    return "" if is_local(uri) else uri.partition("://")[0]


def _doing(deed: Deed, uri: str, operation: Callable[[], T]) -> T:
    """What `operation` gives, tried a few times while its store cannot be reached."""
    with explained(deed, uri):
        return Retrying(
            retry=retry_if_exception(lambda error: kind_of(error, _scheme(uri), deed) is StoreUnavailable),
            stop=stop_after_attempt(NUM_TRIES),
            wait=wait_exponential_jitter(multiplier=0.2, max=2),
            reraise=True,
        )(operation)


def _create_remotely(uri: str, data: bytes) -> bool:
    store, key = _remote(uri)
    try:
        store.pipe_file(key, data, mode="create")
    except FileExistsError:
        return False
    except OSError as error:
        # Some S3 servers answer a lost race without naming the condition, which s3fs reports as EINVAL.
        if error.errno == errno.EINVAL and stat(uri) is not None:
            return False
        raise
    return True


def _delete_remotely(uri: str) -> None:
    store, key = _remote(uri)
    with suppress(FileNotFoundError):
        store.rm_file(key)


def _local_file(uri: str, status: os.stat_result) -> StoredFile | None:
    if not file_modes.S_ISREG(status.st_mode):
        return None
    version = f"{status.st_mtime_ns}-{status.st_ctime_ns}-{status.st_ino}"
    modified_at = datetime.fromtimestamp(status.st_mtime, UTC)
    return StoredFile(uri=uri, num_bytes=status.st_size, version=version, modified_at=modified_at)


def _remote_file(uri: str, info: Mapping[str, Any]) -> StoredFile | None:
    if info["type"] != "file":
        return None
    version = next((info[key] for key in VERSION_KEYS if info.get(key)), "")
    modified_at = next((info[key] for key in TIME_KEYS if info.get(key)), None)
    return StoredFile(uri=uri, num_bytes=info["size"] or 0, version=str(version), modified_at=_as_time(modified_at))


def _as_time(value: Any) -> datetime | None:
    """A time as a store's library tells it: a datetime, seconds since 1970 or ISO 8601."""
    if isinstance(value, (int, float)):
        return datetime.fromtimestamp(value, UTC)
    time = datetime.fromisoformat(value) if isinstance(value, str) else value
    return time if time is None or time.tzinfo else time.replace(tzinfo=UTC)
