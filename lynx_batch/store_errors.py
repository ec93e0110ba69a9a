"""What an error of a store's client means: nothing is there, it is refused, the client is not fit to ask, or it may pass.

Client libraries report one fact in many ways, so every error is judged here: by the code that the store gave, then by its HTTP
status, the error number and the type, of the error itself and of its causes.
"""

import errno
import json
import os
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

from lynx_batch.errors import LynxError, MissingObject, StoreRefused, StoreUnavailable, StoreUnready
from lynx_batch.redaction import hide_secrets

PASSING_CODES = frozenset(
    {
        "BadDigest",
        "ConditionalRequestConflict",
        "IncompleteBody",
        "NoSuchUpload",
        "OperationAborted",
        "RequestTimeout",
        "XAmzContentChecksumMismatch",
        "XAmzContentSHA256Mismatch",
    }
)
"""Codes of S3 that another try can cure, though their HTTP status is that of a bad request."""

PASSING_STATUS = frozenset({408, 409, 425, 429})
NO_IDENTITY = 401
FORBIDDEN = 403
NO_ROOM = 507

PASSING_TYPES = frozenset(
    {
        "ChecksumError",
        "ConnectionError",
        "FlexibleChecksumError",
        "HTTPClientError",
        "IncompleteReadError",
        "MetadataRetrievalError",
        "RefreshError",
        "ServiceRequestError",
        "ServiceResponseError",
        "TransportError",
    }
)
"""Classes of the client libraries, and what is derived from them, that tell of a connection and not of a refusal."""

REFUSED_TYPES = frozenset({"InvalidURL", "ParamValidationError", "TooManyRedirects"})
"""Classes that tell of a URI that nothing can lie at."""

REFUSED_ERRNOS = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.EINVAL, errno.ENOSYS, errno.ENAMETOOLONG, errno.EMSGSIZE}
    | {errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EFBIG, errno.ENOENT, errno.EEXIST, errno.ENXIO, errno.ENOTSUP}
)
FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})

BAD_REGION = "AWS_DEFAULT_REGION (or `region` in the AWS config file) must be the bucket's region, such as eu-west-1"
BAD_ENDPOINT = "AWS_ENDPOINT_URL must be a URL such as https://host:9000"
OLD_TOKEN = "renew AWS_SESSION_TOKEN and the keys that belong to it"
BAD_FILE = "mend that file, or let AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE name others"
NO_ROOM_LEFT = "make room, or raise the quota"

CURES = {
    "NoCredentialsError": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "PartialCredentialsError": "set both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "ProfileNotFound": "AWS_PROFILE must name a profile of the AWS config file",
    "ConfigParseError": BAD_FILE,
    "ConfigNotFound": BAD_FILE,
    "InvalidRegionError": BAD_REGION,
    "NoRegionError": BAD_REGION,
    "AuthorizationHeaderMalformed": BAD_REGION,
    "IllegalLocationConstraintException": BAD_REGION,
    "PermanentRedirect": BAD_REGION,
    "301": BAD_REGION,
    "EndpointResolutionError": BAD_ENDPOINT,
    "InvalidRetryModeError": "AWS_RETRY_MODE must be standard, adaptive or legacy",
    "CredentialRetrievalError": "look at `credential_process`, or what else gives AWS_PROFILE its credentials",
    "InvalidAccessKeyId": "AWS_ACCESS_KEY_ID (or the key of AWS_PROFILE) must be one that the store knows",
    "SignatureDoesNotMatch": "AWS_SECRET_ACCESS_KEY must belong to AWS_ACCESS_KEY_ID",
    "InvalidToken": OLD_TOKEN,
    "ExpiredToken": OLD_TOKEN,
    "TokenRefreshRequired": OLD_TOKEN,
    "RequestTimeTooSkewed": "set the clock of this machine",
    "QuotaExceeded": NO_ROOM_LEFT,
    "XMinioStorageFull": NO_ROOM_LEFT,
    "XMinioAdminBucketQuotaExceeded": NO_ROOM_LEFT,
    "ClientAuthenticationError": "look at AZURE_STORAGE_CONNECTION_STRING, or at AZURE_STORAGE_ACCOUNT_KEY",
    "AuthenticationFailed": "look at AZURE_STORAGE_CONNECTION_STRING, or at AZURE_STORAGE_ACCOUNT_KEY",
    "DefaultCredentialsError": "GOOGLE_APPLICATION_CREDENTIALS must be the path of a JSON file of credentials",
}
"""What to do about a code or an exception's class, where who asks can be mended and not what is asked for."""

AWS = "look at AWS_ENDPOINT_URL, AWS_PROFILE, AWS_MAX_ATTEMPTS and the AWS config file"
AZURE = "set AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY"
GOOGLE = "look at GOOGLE_APPLICATION_CREDENTIALS and STORAGE_EMULATOR_HOST"

GOOGLE_FILE = "GOOGLE_APPLICATION_CREDENTIALS"

SETTINGS = {"s3": AWS, "s3a": AWS, "gs": GOOGLE, "gcs": GOOGLE, "az": AZURE, "abfs": AZURE, "abfss": AZURE}
"""The schemes whose clients are set up by the environment, and by what of it."""

FILE_VARIABLES = {AWS: ("AWS_CA_BUNDLE", "AWS_WEB_IDENTITY_TOKEN_FILE"), GOOGLE: (GOOGLE_FILE,)}
"""What must name a file that is there, Google's one of JSON; the clients tell that late, as another error, or not at all."""


class Deed(StrEnum):
    """What was asked of a store."""

    READ = "read"
    LIST = "list"
    PUT = "put"
    DELETE = "delete"


S3_RIGHTS = {
    Deed.READ: "s3:GetObject",
    Deed.LIST: "s3:ListBucket",
    Deed.PUT: "s3:PutObject",
    Deed.DELETE: "s3:DeleteObject",
}


def check_settings(scheme: str) -> None:
    """Raises StoreUnready if the environment names a file for the client of a store, but none can be read there."""
    for variable in FILE_VARIABLES.get(SETTINGS.get(scheme, ""), ()):
        file = os.environ.get(variable)
        if not file:
            continue
        try:
            content = Path(file).read_bytes()
            if variable == GOOGLE_FILE:
                json.loads(content)
        except (OSError, ValueError) as error:
            raise StoreUnready(f"{variable}={file}: must be a file that can be read: {error}") from error


def kind_of(error: BaseException, scheme: str, deed: Deed) -> type[LynxError] | None:
    """What an error means that a client raised at `deed`; `scheme` is empty for local files. None if no store is to blame."""
    if isinstance(error, LynxError):
        return None
    if kind := _by_code(error):
        return kind
    if isinstance(error, (FileNotFoundError, IsADirectoryError, NotADirectoryError)):
        return MissingObject if deed in (Deed.READ, Deed.LIST) else StoreRefused
    return _by_status(error, scheme) or _by_number(error) or _by_type(error, scheme)


def explain(error: BaseException, place: str, scheme: str, deed: Deed) -> LynxError | None:
    """The same as an error of ours, which names the `place`, what was refused and what to do, and shows no secret."""
    kind = kind_of(error, scheme, deed)
    if kind is None:
        return None
    if kind is MissingObject:
        return kind(f"{place}: nothing lies there")
    if kind is StoreUnready:
        return kind(f"{place}: {_story(error)}; {_cure(error, scheme)}")
    if kind is StoreRefused:
        return kind(f"{place}: cannot {deed}: {_story(error)}{_need(error, scheme, deed)}")
    return kind(f"{place}: {_story(error)}")


def _by_code(error: BaseException) -> type[LynxError] | None:
    code = code_of(error)
    if code in PASSING_CODES:
        return StoreUnavailable
    return StoreUnready if code in CURES else None


def _by_status(error: BaseException, scheme: str) -> type[LynxError] | None:
    status = _status(error)
    if status is None:
        return None
    if status == NO_ROOM or (status == NO_IDENTITY and scheme in SETTINGS):
        return StoreUnready
    return StoreRefused if 400 <= status < 500 and status not in PASSING_STATUS else StoreUnavailable


def _by_number(error: BaseException) -> type[LynxError] | None:
    number = getattr(error, "errno", None)
    if number in FULL_ERRNOS:
        return StoreUnready
    return StoreRefused if isinstance(error, PermissionError) or number in REFUSED_ERRNOS else None


def _by_type(error: BaseException, scheme: str) -> type[LynxError] | None:
    types = _types(error)
    if types & CURES.keys():
        return StoreUnready
    if types & REFUSED_TYPES or _is_forbidden(error):
        return StoreRefused
    if types & PASSING_TYPES or isinstance(error, OSError):
        return StoreUnavailable
    if "ArrowException" in types:  # a file that is there, but damaged
        return None
    if scheme in SETTINGS:
        return StoreUnready
    if isinstance(error, ValueError):
        return StoreRefused
    return StoreUnavailable if type(error).__module__.startswith("aiohttp") else None


def _is_forbidden(error: BaseException) -> bool:
    """Whether a right is missing. A gcsfs error says so in its text alone. Source: gcsfs/retry.py, validate_response."""
    is_read_only = getattr(error, "errno", None) == errno.EROFS
    return (
        isinstance(error, PermissionError)
        or is_read_only
        or _status(error) == FORBIDDEN
        or str(error).startswith("Forbidden: ")
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__


def _types(error: BaseException) -> set[str]:
    return {kind.__name__ for link in _chain(error) for kind in type(link).__mro__}


def code_of(error: BaseException) -> str | None:
    """What the store calls it: S3 in the body of its answer, Azure in a header."""
    for link in _chain(error):
        response = getattr(link, "response", None)
        code = (
            response.get("Error", {}).get("Code") if isinstance(response, dict) else getattr(link, "error_code", None)
        )
        if code:
            return str(getattr(code, "value", code))
    return None


def _status(error: BaseException) -> int | None:
    """Its HTTP status, for which every library has another name."""
    for link in _chain(error):
        response = getattr(link, "response", None)
        given = [response.get("ResponseMetadata", {}).get("HTTPStatusCode")] if isinstance(response, dict) else []
        for status in (*given, *(vars(link).get(name) for name in ("status", "status_code", "code"))):
            if str(status).isdecimal():
                return int(str(status))
    return None


def _story(error: BaseException) -> str:
    """The store's own words. Of a local file those of the system alone, as the path may be a temporary one."""
    words = error.strerror if isinstance(error, OSError) else None
    if words and error.__cause__ is None:
        return words
    text = hide_secrets(" ".join((words or str(error)).split()))
    name = code_of(error) or type(error).__name__
    return f"{name}: {text}" if text else name


def _cure(error: BaseException, scheme: str) -> str:
    names = [name for name in (code_of(error), *_types(error)) if name in CURES]
    is_full = getattr(error, "errno", None) in FULL_ERRNOS or _status(error) == NO_ROOM
    return CURES[names[0]] if names else NO_ROOM_LEFT if is_full else SETTINGS.get(scheme, "")


def _need(error: BaseException, scheme: str, deed: Deed) -> str:
    """The right that is missing, if one is."""
    if not _is_forbidden(error):
        return ""
    right = S3_RIGHTS[deed] if SETTINGS.get(scheme) is AWS else f"the right to {deed} there"
    return f"; this needs {right}"
