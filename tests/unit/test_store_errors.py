"""What each store's errors mean, of clients that raise them by themselves where one is installed here."""

import errno
import os
import ssl
from pathlib import Path

import pytest
import s3fs

from lynx_batch import storage
from lynx_batch.errors import LynxError, MissingObject, StoreRefused, StoreUnavailable, StoreUnready
from lynx_batch.store_errors import Operation, explain, kind_of
from tests.stores import refusing_server, refusing_store, use_endpoint

SECRET = "geheim"


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An S3 client that is well set up, whatever this machine's user has set; nothing answers it."""
    for name in [name for name in os.environ if name.startswith("AWS_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
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
        (403, "QuotaExceeded", StoreUnready, "free some space"),
        (403, "AccessDenied", StoreRefused, "needs s3:"),
        (400, "InvalidBucketName", StoreRefused, "cannot"),
    ],
)
def test_a_refusal_is_told_whatever_was_asked_and_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, status: int, code: str, kind: type[LynxError], told: str
) -> None:
    with refusing_store(monkeypatch) as store:
        store.method, store.status, store.code = ".*", status, code
        for touch in (storage.read_bytes, storage.stat, storage.delete, lambda uri: storage.write_bytes(uri, b"")):
            with pytest.raises(kind, match=told) as caught:
                touch("s3://bucket/a")
            assert type(caught.value) is kind
        assert store.num_refused <= 8, "one each, but a HEAD and a GET to read, and a listing where they have no words"


def test_a_missing_bucket_is_nothing_to_read_and_no_place_to_put(monkeypatch: pytest.MonkeyPatch) -> None:
    with refusing_store(monkeypatch) as store:
        store.method, store.status, store.code = ".*", 404, "NoSuchBucket"
        with pytest.raises(MissingObject):
            storage.read_bytes("s3://bucket/a")
        with pytest.raises(StoreRefused, match="NoSuchBucket"):
            storage.write_bytes("s3://bucket/a", b"")


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (503, "SlowDown"),
        (400, "RequestTimeout"),
        (409, "OperationAborted"),
        (400, "Throttling"),
        (400, "RequestLimitExceeded"),
    ],
)
def test_what_may_pass_is_not_taken_for_a_refusal(monkeypatch: pytest.MonkeyPatch, status: int, code: str) -> None:
    with refusing_store(monkeypatch) as store:
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
    told = explain(error, "/out/a", "", Operation.WRITE)
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
    assert kind_of(error, scheme, Operation.WRITE) is kind


def touch_with(settings: dict[str, str], aws: pytest.MonkeyPatch) -> str:
    """What is told of a store whose client is set up by `settings`."""
    for name, value in settings.items():
        aws.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(StoreUnready) as caught:
        storage.stat("s3://bucket/a")
    return str(caught.value)


@pytest.mark.parametrize("code", ["ExpiredToken", "ExpiredTokenException", "RequestExpired"])
def test_a_token_that_has_expired_is_to_be_renewed(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    with refusing_store(monkeypatch) as store:
        store.method, store.status, store.code = "DELETE", 400, code
        with pytest.raises(StoreUnready, match="renew AWS_SESSION_TOKEN"):
            storage.delete("s3://bucket/a")


def test_a_variable_that_holds_a_key_in_place_of_its_file_is_named_and_not_shown(aws: pytest.MonkeyPatch) -> None:
    told = touch_with({"AWS_WEB_IDENTITY_TOKEN_FILE": f"eyJ{SECRET}"}, aws)
    aws.setenv("GOOGLE_APPLICATION_CREDENTIALS", f'{{"private_key": "{SECRET}"}}')
    with pytest.raises(StoreUnready) as caught:
        storage.stat("gs://bucket/a")
    assert told.startswith("AWS_WEB_IDENTITY_TOKEN_FILE: must be a readable file")
    assert str(caught.value).startswith("GOOGLE_APPLICATION_CREDENTIALS: must be a readable file")
    assert SECRET not in f"{told} {caught.value}"


@pytest.mark.parametrize(
    "name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION"]
)
@pytest.mark.parametrize("stray", ["{}\n", " {}", "{}\r\n", "{}\x01x"])
def test_white_space_around_a_key_is_told_before_the_store_is_asked(
    aws: pytest.MonkeyPatch, name: str, stray: str
) -> None:
    told = touch_with({name: stray.format(SECRET)}, aws)
    assert told.startswith(f"{name}: must not begin or end with white space")
    assert SECRET not in told


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_ENDPOINT_URL_S3", "127.0.0.1:9000"),
        ("AWS_REQUEST_CHECKSUM_CALCULATION", "never"),
        ("AWS_DEFAULTS_MODE", "none"),
        ("AWS_MAX_ATTEMPTS", SECRET),
    ],
)
def test_what_sets_up_the_client_is_named_as_it_is_here(aws: pytest.MonkeyPatch, name: str, value: str) -> None:
    told = touch_with({name: value}, aws)
    assert name in told
    assert "AWS_SECRET_ACCESS_KEY" in told
    assert "AWS_PROFILE" not in told, "it is not set"
    assert "~/.aws" not in told, "there is no such file"
    assert SECRET not in told


def test_credentials_of_a_host_that_gives_none_are_told_with_the_variable(aws: pytest.MonkeyPatch) -> None:
    aws.delenv("AWS_ACCESS_KEY_ID")
    aws.delenv("AWS_SECRET_ACCESS_KEY")
    name = "AWS_CONTAINER_CREDENTIALS_FULL_URI"
    assert name in touch_with({name: "http://photos.invalid/a"}, aws)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("s3 = hello", "cannot use its configuration; check"),
        ("credential_process = echo hi", "cannot use its configuration; check"),
        ("credential_process = echo []", "cannot use its configuration; check"),
        ("credential_process = nosuchprogram", "a file that it needs: nosuchprogram: No such file"),
        ("credential_process = {folder}/config/a", "/config/a: Not a directory"),
        ("credential_process = {folder}/config", "/config: Permission denied"),
        ("role_arn = arn:aws:iam::1:role/a\nweb_identity_token_file = /nowhere/token", "/nowhere/token: No such file"),
        ("role_arn = arn:aws:iam::1:role/a\nweb_identity_token_file = {folder}", "Is a directory"),
    ],
)
def test_a_fault_of_the_config_file_is_no_missing_object(
    aws: pytest.MonkeyPatch, tmp_path: Path, setting: str, told: str
) -> None:
    (tmp_path / "config").write_text(f"[default]\n{setting.format(folder=tmp_path)}\n")
    aws.delenv("AWS_ACCESS_KEY_ID")
    aws.delenv("AWS_SECRET_ACCESS_KEY")
    text = touch_with({"AWS_CONFIG_FILE": str(tmp_path / "config")}, aws)
    assert told in text
    assert "AWS_CONFIG_FILE" in text
    assert "does not exist" not in text
    assert "Error" not in text, "no words of Python"


def test_a_key_of_a_file_that_fits_no_header_is_told_with_the_file(aws: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"[default]\naws_access_key_id = {SECRET}\x01b\naws_secret_access_key = b\n")
    with refusing_server() as store:
        aws.delenv("AWS_ACCESS_KEY_ID")
        aws.delenv("AWS_SECRET_ACCESS_KEY")
        told = touch_with({"AWS_ENDPOINT_URL": store.url, "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "keys")}, aws)
    assert "control character" in told
    assert "AWS_SHARED_CREDENTIALS_FILE" in told
    assert SECRET not in told


def test_a_file_of_certificates_that_is_none_is_told(aws: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("none")
    (tmp_path / "config").write_text("[default]\nca_bundle = /nowhere/ca.pem\n")
    tls = {"AWS_ENDPOINT_URL": "https://127.0.0.1:9"}
    assert "AWS_CONFIG_FILE" in touch_with({**tls, "AWS_CONFIG_FILE": str(tmp_path / "config")}, aws)
    assert "AWS_CA_BUNDLE" in touch_with({**tls, "AWS_CA_BUNDLE": str(tmp_path / "ca.pem")}, aws)


def test_tls_with_a_port_that_speaks_none_is_told_with_the_variable(aws: pytest.MonkeyPatch) -> None:
    with refusing_server() as store:
        told = touch_with({"AWS_ENDPOINT_URL": store.url.replace("http:", "https:")}, aws)
        assert "WRONG_VERSION_NUMBER" in told
        assert "AWS_ENDPOINT_URL" in told


@pytest.mark.parametrize(
    ("reason", "is_bundle_told"), [("self-signed certificate", True), ("Hostname mismatch", False)]
)
def test_a_certificate_of_an_unknown_signer_needs_a_bundle(reason: str, is_bundle_told: bool) -> None:
    words = f"[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: {reason} (_ssl.c:1006)"
    told = explain(ssl.SSLCertVerificationError(1, words), "s3://bucket/a", "s3", Operation.READ)
    assert isinstance(told, StoreUnready)
    assert ("must contain the CA" in str(told)) is is_bundle_told
    assert "_ssl.c" not in str(told)


def test_a_tls_connection_that_breaks_may_pass() -> None:
    for words in ("EOF occurred in violation of protocol", "[SSL: DECRYPTION_FAILED_OR_BAD_RECORD_MAC]"):
        assert kind_of(ssl.SSLError(1, words), "s3", Operation.READ) is StoreUnavailable


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:abc", "socks5://127.0.0.1:9"])
def test_a_proxy_that_is_none_is_told_with_the_variable(aws: pytest.MonkeyPatch, proxy: str) -> None:
    assert "http_proxy must be a URL" in touch_with({"http_proxy": proxy}, aws)


def test_a_proxy_that_does_not_answer_may_pass_and_is_named(aws: pytest.MonkeyPatch) -> None:
    aws.setenv("http_proxy", "127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(StoreUnavailable, match="check http_proxy"):
        storage.stat("s3://bucket/a", max_tries=1)


def test_a_missing_object_of_azure_is_no_file_of_this_machine() -> None:
    error = FileNotFoundError(errno.ENOENT, "No such file or directory", "container/a")  # as adlfs raises it
    assert kind_of(error, "az", Operation.READ) is MissingObject
