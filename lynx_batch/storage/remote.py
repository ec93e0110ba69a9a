"""The store of every URI that is not local, through fsspec. No other module imports fsspec.

Endpoints and credentials come from the environment, as each store's client library reads them.
"""

import errno
import math
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fsspec
import fsspec.asyn
import pyarrow.fs

from lynx_batch.client_errors import code_of
from lynx_batch.errors import ConfigError, StoreRefused, StoreUnready
from lynx_batch.redaction import redact, scrub
from lynx_batch.storage.calls import explained
from lynx_batch.storage.store import OldVersion, SignedLink, SizeLimit, StoredFile
from lynx_batch.storage.uris import join, scheme_of
from lynx_batch.store_errors import REMEDIES, Operation
from lynx_batch.store_settings import AWS, AZURE, GOOGLE, SETTINGS, check_settings

CODES_WITHOUT_BODY = ("400", "403")
"""When a refusal has no body, s3fs takes the HTTP status for its code."""

VERSION_KEYS = ("ETag", "etag", "created")
"""Names that client libraries give to an object's version, best first. A modification time does not qualify: where the store takes it
from a file, it can be set back."""

TIME_KEYS = ("LastModified", "last_modified", "mtime", "updated", "created")
"""Names that client libraries give to the time of an object's last change, best first."""


SIGNING_KEYS = {
    AZURE: "this needs the account's key: set AZURE_STORAGE_CONNECTION_STRING or AZURE_STORAGE_ACCOUNT_KEY",
    GOOGLE: "this needs the key of a service account: GOOGLE_APPLICATION_CREDENTIALS must name its file",
}


class FsspecStore:
    """Implements `Store` for all schemes that fsspec knows: `s3://`, `gs://`, `az://`, `https://`, `memory://` and more."""

    def read_bytes(self, uri: str, limit: SizeLimit | None) -> bytes:
        fs, key = _open(uri)
        if limit is not None and (stored := _find(fs, key, uri)) is not None:
            limit.check(uri, stored.num_bytes)
        return bytes(fs.cat_file(key))

    def read_whole(self, uri: str, limit: SizeLimit, deadline_s: float) -> bytes:
        fs, key = _open(uri)
        info = _call(fs, "info", key, deadline_s=deadline_s)
        if info["type"] != "file":
            raise FileNotFoundError(key)
        num_bytes = int(info["size"] or 0)
        limit.check(uri, num_bytes)
        if not num_bytes:
            return b""  # some stores refuse an empty range
        content = _call(fs, "cat_file", key, start=0, end=num_bytes + 1, deadline_s=deadline_s)
        if len(content) != num_bytes:
            raise OSError(f"{len(content)} of {num_bytes} bytes arrived")
        return bytes(content)

    def read_range(self, uri: str, start: int, end: int) -> bytes:
        fs, key = _open(uri)
        # a web server may ignore the range and send everything
        return bytes(fs.cat_file(key, start=start, end=end))[: end - start]

    def download(self, uri: str, local_path: Path) -> None:
        fs, key = _open(uri)
        fs.get_file(key, str(local_path))

    def write_bytes(self, uri: str, data: bytes) -> None:
        fs, key = _open(uri)
        fs.pipe_file(key, data)

    def upload(self, local_path: Path, uri: str) -> None:
        fs, key = _open(uri)
        fs.put_file(str(local_path), key)

    def create_only(self, uri: str, data: bytes) -> bool:
        fs, key = _open(uri)
        try:
            fs.pipe_file(key, data, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            # Some S3 servers do not name the condition when it fails; s3fs then raises EINVAL.
            if error.errno == errno.EINVAL and _find(fs, key, uri) is not None:
                return False
            raise
        return True

    def delete(self, uri: str) -> None:
        fs, key = _open(uri)
        with suppress(FileNotFoundError):
            fs.rm_file(key)

    def list_old_versions(self, folder: str) -> Iterable[OldVersion]:
        """Raises StoreRefused for a kind of store whose versions cannot be listed here."""
        fs, key = _open(folder)
        client = SETTINGS.get(scheme_of(folder))
        if client is None:
            return ()
        if client is not AWS:
            raise StoreRefused(f"{redact(folder)}: old versions cannot be listed in this kind of store")
        return _list_s3_versions(fs, folder, key)

    def delete_version(self, version: OldVersion) -> None:
        fs, key = _open(version.uri)
        bucket, name, _ = fs.split_path(key)
        fs.call_s3("delete_object", Bucket=bucket, Key=name, VersionId=version.version_id)

    def stat(self, uri: str, deadline_s: float) -> StoredFile | None:
        fs, key = _open(uri)
        return _stored(uri, _call(fs, "info", key, deadline_s=deadline_s))

    def list_files(self, prefix: str) -> Iterable[StoredFile]:
        """Leaves out objects whose key ends in a slash: some tools mark folders with them."""
        fs, key = _open(prefix)
        infos: dict[str, dict[str, Any]] = fs.find(key, detail=True)
        names = (name for name in infos if not name.endswith("/"))
        return filter(None, (_stored(join(prefix, name.removeprefix(key)), infos[name]) for name in names))

    def sign(self, uri: str, seconds: int) -> SignedLink:
        """Raises ConfigError for a kind of store whose client cannot sign links."""
        client = SETTINGS.get(scheme_of(uri))
        if client is None:
            raise ConfigError(f"{redact(uri)}: only files in a bucket (s3://, gs://, az://) can have signed links")
        fs, key = _open(uri)
        until = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=seconds)
        if client is AWS:
            return _sign_s3(fs, key, seconds, until)
        try:
            url = fs.sign(key, expiration=seconds, **({"version": "v4"} if client is GOOGLE else {}))
        except (
            AttributeError,
            TypeError,
            ValueError,
        ) as error:  # what these clients raise for credentials without a key
            raise StoreUnready(f"{redact(uri)}: cannot sign a link: {SIGNING_KEYS[client]}") from error
        return SignedLink(url=url, asked_until=until, ends_at=until)

    def arrow_filesystem(self, uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
        fs, key = _open(uri)
        return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs)), key

    def find_reason(self, error: Exception, uri: str) -> Exception:
        """S3 answers a HEAD without a body, so a failing listing has to say whether the credentials are to blame."""
        if code_of(error) in CODES_WITHOUT_BODY:
            fs, key = _open(uri)
            try:
                fs.call_s3("list_objects_v2", Bucket=fs.split_path(key)[0], MaxKeys=1)
            except OSError as reason:
                if code_of(reason) in REMEDIES:
                    return reason
        return error


def _open(uri: str) -> tuple[Any, str]:
    """The fsspec file system, and the key in it. Listings are not cached, because other processes write to the same store."""
    scheme = scheme_of(uri)
    check_settings(scheme)
    with explained(Operation.READ, uri):
        try:
            fs, key = fsspec.core.url_to_fs(uri, use_listings_cache=False)
        except ImportError as error:
            raise ConfigError(f"uri={redact(uri)!r}: {scrub(str(error), uri)}") from None
        except ValueError as error:
            if scheme in SETTINGS:
                raise
            raise ConfigError(f"uri={redact(uri)!r}: {scrub(str(error), uri)}") from None
    return fs, str(key)


def _list_s3_versions(fs: Any, folder: str, key: str) -> list[OldVersion]:
    bucket, prefix, _ = fs.split_path(key.rstrip("/") + "/")
    kept, marks, page = list[OldVersion](), list[OldVersion](), dict[str, str]()
    while True:
        try:
            answer = fs.call_s3("list_object_versions", Bucket=bucket, Prefix=prefix, **page)
        except PermissionError:
            if _may_have_versions(fs, bucket):
                raise
            return []
        for found, entries in ((kept, answer.get("Versions", ())), (marks, answer.get("DeleteMarkers", ()))):
            found += [
                OldVersion(join(folder, entry["Key"].removeprefix(prefix)), entry["VersionId"])
                for entry in entries
                if found is marks or not entry["IsLatest"]
            ]
        if not answer.get("IsTruncated"):
            return [*kept, *marks]
        page = {"KeyMarker": answer["NextKeyMarker"], "VersionIdMarker": answer["NextVersionIdMarker"]}


def _sign_s3(fs: Any, key: str, seconds: int, until: datetime) -> SignedLink:
    """By version 4: botocore would sign links by version 2, which buckets made since June 2020 refuse."""
    settings = {**(fs.config_kwargs or {}), "signature_version": "s3v4"}
    signing = type(fs)(**{**fs.storage_options, "config_kwargs": settings})
    url = signing.sign(key, expiration=seconds)
    if signing.key:  # given by fsspec's own settings, which know no end
        return SignedLink(url=url, asked_until=until, ends_at=until, may_end_earlier=bool(signing.token))
    credentials = fsspec.asyn.sync(signing.loop, signing.session.get_credentials)
    frozen = fsspec.asyn.sync(signing.loop, credentials.get_frozen_credentials)
    end = getattr(credentials, "_expiry_time", None)  # botocore has no public name for it
    return SignedLink(
        url=url,
        asked_until=until,
        ends_at=until if end is None else min(end, until),
        may_end_earlier=end is None and bool(frozen.token),
    )


def _may_have_versions(fs: Any, bucket: str) -> bool:
    """False only if the store says that nobody ever switched versions on."""
    try:
        return "Status" in fs.call_s3("get_bucket_versioning", Bucket=bucket)
    except OSError:
        return True


def _find(fs: Any, key: str, uri: str) -> StoredFile | None:
    with suppress(FileNotFoundError):
        return _stored(uri, fs.info(key))
    return None


def _call(fs: Any, method: str, *args: Any, deadline_s: float, **kwargs: Any) -> Any:
    """`fs.method(...)`. Raises TimeoutError at `deadline_s` if the file system is asynchronous; others cannot be interrupted."""
    if not fs.async_impl:
        return getattr(fs, method)(*args, **kwargs)
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("the time for all tries is over")
    timeout = left_s if math.isfinite(left_s) else None
    return fsspec.asyn.sync(fs.loop, getattr(fs, f"_{method}"), *args, timeout=timeout, **kwargs)


def _stored(uri: str, info: Mapping[str, Any]) -> StoredFile | None:
    if info["type"] != "file":
        return None
    version = next((info[key] for key in VERSION_KEYS if info.get(key)), "")
    modified_at = next((info[key] for key in TIME_KEYS if info.get(key)), None)
    return StoredFile(uri=uri, num_bytes=info["size"] or 0, version=str(version), modified_at=_as_time(modified_at))


def _as_time(value: Any) -> datetime | None:
    """A client library reports a datetime, seconds since 1970 or ISO 8601."""
    if isinstance(value, (int, float)):
        return datetime.fromtimestamp(value, UTC)
    time = datetime.fromisoformat(value) if isinstance(value, str) else value
    return time if time is None or time.tzinfo else time.replace(tzinfo=UTC)
