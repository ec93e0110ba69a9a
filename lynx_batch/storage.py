"""Objects by URI: a local path, `file://`, `s3://`, `gs://`, `az://`, `https://`, `memory://`.

The only module that imports fsspec. Endpoints and credentials come from the environment, as each store's own library
reads them. Every function may be called from any thread and any process.

Errors are ours (`store_errors` says which) and show redacted URIs only. Any function may raise StoreRefused, as a StoreUnready if
its client is not fit to ask, or StoreUnavailable for what was tried again for a few seconds and may pass.
"""

import errno
import math
import os
import shutil
import stat as file_modes
import time
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
import fsspec.asyn
import pyarrow.fs
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from lynx_batch import local_files
from lynx_batch.client_errors import code_of
from lynx_batch.errors import ConfigError, InputRefused, MissingObject, StoreUnavailable
from lynx_batch.redaction import redact as redact
from lynx_batch.redaction import redact_all as redact_all
from lynx_batch.redaction import scrub
from lynx_batch.store_errors import CURES, Deed, explain, kind_of
from lynx_batch.store_settings import SETTINGS, check_settings

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


@dataclass(frozen=True, slots=True)
class SizeLimit:
    """The most bytes that are read of a file that a user names; `name` is what to call that limit."""

    num_bytes: int
    name: str

    def check(self, uri: str, num_bytes: int) -> None:
        """Raises InputRefused if `num_bytes` are more."""
        if num_bytes > self.num_bytes:
            raise InputRefused(f"{redact(uri)}: must have at most {self.num_bytes:,} bytes ({self.name})")


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


def is_within(uri: str, folder: str) -> bool:
    """Whether `uri` is `folder` or lies below it; local paths are compared as the file system resolves them."""
    path, parent = path_of(uri), path_of(folder)
    if path is not None and parent is not None:
        return path.resolve().is_relative_to(parent.resolve())
    return f"{uri.rstrip('/')}/".startswith(f"{folder.rstrip('/')}/")


def is_local(uri: str) -> bool:
    """Whether `uri` means a file of whatever machine reads it."""
    return path_of(uri) is not None


def path_of(uri: str) -> Path | None:
    """The file of whatever machine reads `uri`, if that is what it means."""
    path = uri.removeprefix("file://")
    return None if "://" in path else Path(path)


def read_bytes(uri: str, limit: SizeLimit | None = None) -> bytes:
    """The whole object. Raises MissingObject, and InputRefused beyond `limit`."""
    path = path_of(uri)
    if path is None:
        store, key = _remote(uri)
        if limit is not None and (stored := stat(uri)) is not None:
            limit.check(uri, stored.num_bytes)
        return _doing(Deed.READ, uri, lambda: bytes(store.cat_file(key)))
    if limit is None:
        return _doing(Deed.READ, uri, path.read_bytes)
    content = _doing(Deed.READ, uri, partial(local_files.read_at_most, path, limit.num_bytes + 1))
    limit.check(uri, len(content))
    return content


def read_whole(uri: str, limit: SizeLimit, *, max_tries: int, longest_s: float) -> bytes:
    """The content of a regular file, sure to be whole: a read that was cut short is tried again.

    Raises as `read_bytes` does, and InputRefused if it is no regular file; a store is waited for no longer than `longest_s`.
    """
    path = path_of(uri)
    deadline_s = time.monotonic() + longest_s
    read = partial(_read_regular, uri, path, limit) if path else partial(_read_object, uri, limit, deadline_s)
    return _doing(Deed.READ, uri, read, max_tries=max_tries)


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


def stat(uri: str, *, max_tries: int = NUM_TRIES, longest_s: float = math.inf) -> StoredFile | None:
    """What is known of the file at `uri`; None if there is none. Raises as `read_bytes` does, within `longest_s`."""
    with suppress(MissingObject):
        path = path_of(uri)
        if path is not None:
            return _local_file(uri, _doing(Deed.READ, uri, path.stat))
        store, key = _remote(uri)
        look = partial(_call, store, "info", key, deadline_s=time.monotonic() + longest_s)
        return _remote_file(uri, _doing(Deed.READ, uri, look, max_tries=max_tries))
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
        raise (ours if is_local(uri) else type(ours)(scrub(str(ours), uri))) from None


def _remote(uri: str) -> tuple[Any, str]:
    """The store and the key in it. Listings are not cached: other processes write to the same store."""
    scheme = _scheme(uri)
    check_settings(scheme)
    with explained(Deed.READ, uri):
        try:
            store, key = fsspec.core.url_to_fs(uri, use_listings_cache=False)
        except ImportError as error:
            raise ConfigError(f"uri={redact(uri)!r}: {scrub(str(error), uri)}") from None
        except ValueError as error:
            if scheme in SETTINGS:
                raise
            raise ConfigError(f"uri={redact(uri)!r}: {scrub(str(error), uri)}") from None
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


def _read_regular(uri: str, path: Path, limit: SizeLimit) -> bytes:
    content, num_bytes = local_files.read_regular(path, limit.num_bytes + 1)
    limit.check(uri, max(num_bytes, len(content)))
    return _checked_whole(content, num_bytes)


def _read_object(uri: str, limit: SizeLimit, deadline_s: float) -> bytes:
    store, key = _remote(uri)
    info = _call(store, "info", key, deadline_s=deadline_s)
    if info["type"] != "file":
        raise FileNotFoundError(key)
    num_bytes = int(info["size"] or 0)
    limit.check(uri, num_bytes)
    if not num_bytes:
        return b""  # a range of nothing is an error in some stores
    return _checked_whole(_call(store, "cat_file", key, start=0, end=num_bytes + 1, deadline_s=deadline_s), num_bytes)


def _call(store: Any, method: str, *args: Any, deadline_s: float, **kwargs: Any) -> Any:
    """`store.method(...)`, given up at `deadline_s` where the store's library can give up."""
    if not store.async_impl:
        return getattr(store, method)(*args, **kwargs)
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("not within the time for all tries")
    timeout = left_s if math.isfinite(left_s) else None
    return fsspec.asyn.sync(store.loop, getattr(store, f"_{method}"), *args, timeout=timeout, **kwargs)


def _checked_whole(content: bytes, num_bytes: int) -> bytes:
    if len(content) != num_bytes:
        raise OSError(f"{len(content)} of {num_bytes} bytes came")
    return bytes(content)


def _scheme(uri: str) -> str:
    return "" if is_local(uri) else uri.partition("://")[0]


def _doing(deed: Deed, uri: str, operation: Callable[[], T], *, max_tries: int = NUM_TRIES) -> T:
    """What `operation` gives, tried a few times while its store cannot be reached."""
    with explained(deed, uri):
        return Retrying(
            retry=retry_if_exception(lambda error: kind_of(error, _scheme(uri), deed) is StoreUnavailable),
            stop=stop_after_attempt(max_tries),
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
