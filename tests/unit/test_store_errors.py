"""What each store's errors mean, of clients that raise them by themselves where one is installed here."""

import errno
from pathlib import Path

import pytest
import s3fs

from lynx_batch import storage
from lynx_batch.errors import LynxError, MissingObject, StoreRefused, StoreUnavailable, StoreUnready
from lynx_batch.store_errors import Deed, explain, kind_of
from tests.stores import refusing_server, use_endpoint

SECRET = "geheim"


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An S3 client that is well set up, whatever this machine's user has set; nothing answers it."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    use_endpoint("http://127.0.0.1:9", monkeypatch)
    return monkeypatch


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_ENDPOINT_URL", "127.0.0.1:9000"),
        ("AWS_ENDPOINT_URL", f"me:{SECRET}@127.0.0.1:9000"),
        ("AWS_ENDPOINT_URL", "ftp://x"),
        ("AWS_DEFAULT_REGION", "us east!1"),
        ("AWS_PROFILE", "nosuch"),
        ("AWS_CONFIG_FILE", "broken"),
        ("AWS_SHARED_CREDENTIALS_FILE", "broken"),
        ("AWS_SECRET_ACCESS_KEY", None),
        ("AWS_ACCESS_KEY_ID", None),
        ("AWS_CA_BUNDLE", "/nowhere"),
        ("AWS_MAX_ATTEMPTS", "many"),
        ("AWS_RETRY_MODE", "never"),
    ],
)
def test_a_client_that_is_badly_set_up_is_told_with_the_variable(
    aws: pytest.MonkeyPatch, tmp_path: Path, name: str, value: str | None
) -> None:
    (tmp_path / "broken").write_text("[[[")
    if value is None:
        aws.delenv(name)
    else:
        aws.setenv(name, str(tmp_path / value) if value == "broken" else value)
    if name in ("AWS_ACCESS_KEY_ID", "AWS_SHARED_CREDENTIALS_FILE"):  # nothing is left in the environment
        aws.delenv("AWS_ACCESS_KEY_ID", raising=False)
        aws.delenv("AWS_SECRET_ACCESS_KEY")
    s3fs.S3FileSystem.clear_instance_cache()
    for touch in (storage.read_bytes, storage.stat, storage.delete, lambda uri: storage.write_bytes(uri, b"")):
        with pytest.raises(StoreUnready, match=name) as caught:
            touch("s3://bucket/a")
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "code", "kind", "told"),
    [
        (403, "InvalidAccessKeyId", StoreUnready, "AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", StoreUnready, "AWS_SECRET_ACCESS_KEY"),
        (400, "ExpiredToken", StoreUnready, "AWS_SESSION_TOKEN"),
        (403, "RequestTimeTooSkewed", StoreUnready, "clock"),
        (403, "QuotaExceeded", StoreUnready, "make room"),
        (403, "AccessDenied", StoreRefused, "needs s3:"),
        (400, "InvalidBucketName", StoreRefused, "cannot"),
    ],
)
def test_a_refusal_is_told_whatever_was_asked_and_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, status: int, code: str, kind: type[LynxError], told: str
) -> None:
    with refusing_server() as store:
        use_endpoint(store.url, monkeypatch)
        store.method, store.status, store.code = ".*", status, code
        for touch in (storage.read_bytes, storage.stat, storage.delete, lambda uri: storage.write_bytes(uri, b"")):
            with pytest.raises(kind, match=told) as caught:
                touch("s3://bucket/a")
            assert type(caught.value) is kind
        assert store.num_refused <= 8, "one each, but a HEAD and a GET to read, and a listing where they have no words"


def test_a_missing_bucket_is_nothing_to_read_and_no_place_to_put(monkeypatch: pytest.MonkeyPatch) -> None:
    with refusing_server() as store:
        use_endpoint(store.url, monkeypatch)
        store.method, store.status, store.code = ".*", 404, "NoSuchBucket"
        with pytest.raises(MissingObject):
            storage.read_bytes("s3://bucket/a")
        with pytest.raises(StoreRefused, match="NoSuchBucket"):
            storage.write_bytes("s3://bucket/a", b"")


@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (400, "RequestTimeout"), (409, "OperationAborted")])
def test_what_may_pass_is_not_taken_for_a_refusal(monkeypatch: pytest.MonkeyPatch, status: int, code: str) -> None:
    with refusing_server() as store:
        use_endpoint(store.url, monkeypatch)
        store.method, store.status, store.code = "DELETE", status, code
        with pytest.raises(StoreUnavailable):
            storage.delete("s3://bucket/a")
        assert store.num_refused > 1


def test_a_file_of_credentials_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for content in (None, "{broken"):
        file = tmp_path / "google.json"
        if content is not None:
            file.write_text(content)
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
        with pytest.raises(StoreUnready, match=f"GOOGLE_APPLICATION_CREDENTIALS={file}"):
            storage.read_bytes("gs://bucket/a")


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EACCES, StoreRefused),
        (errno.EPERM, StoreRefused),
        (errno.EROFS, StoreRefused),
        (errno.ENOTDIR, StoreRefused),
        (errno.ENOENT, StoreRefused),
        (errno.ENOSPC, StoreUnready),
        (errno.EDQUOT, StoreUnready),
        (errno.EIO, StoreUnavailable),
        (errno.ESTALE, StoreUnavailable),
        (errno.EMFILE, StoreUnavailable),
    ],
    ids=lambda value: errno.errorcode[value] if isinstance(value, int) else value.__name__,
)
def test_a_local_file_system_speaks_in_numbers(number: int, kind: type[LynxError]) -> None:
    error = OSError(number, "words of the system", "/out/.0123.tmp")
    told = explain(error, "/out/a", "", Deed.PUT)
    assert type(told) is kind
    assert str(told).startswith("/out/a: ")
    assert "words of the system" in str(told)
    assert "tmp" not in str(told)


class HttpError(Exception):
    """As gcsfs raises it, which is not installed here."""

    code = 401

    def __init__(self) -> None:
        super().__init__("Invalid Credentials, 401")
        self.code = 401


class HttpResponseError(Exception):
    """As azure.core raises it, which is not installed here."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__("Operation returned an invalid status")
        self.status_code, self.error_code = status, code


def wrapped(cause: Exception) -> Exception:
    error = RuntimeError("Failed to upload block")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("scheme", "error", "kind"),
    [
        ("gs", HttpError(), StoreUnready),
        ("gs", OSError("Forbidden: b/bucket/o\nno access"), StoreRefused),
        ("az", HttpResponseError(403, "AuthorizationPermissionMismatch"), StoreRefused),
        ("az", HttpResponseError(403, "AuthenticationFailed"), StoreUnready),
        ("az", wrapped(HttpResponseError(403, "AuthorizationFailure")), StoreRefused),
        ("az", wrapped(HttpResponseError(503, "ServerBusy")), StoreUnavailable),
        ("az", ValueError("Must provide either a connection_string or account_name"), StoreUnready),
    ],
)
def test_other_stores_say_the_same_in_other_ways(scheme: str, error: Exception, kind: type[LynxError]) -> None:
    assert kind_of(error, scheme, Deed.PUT) is kind
