"""Classifies an error of a store's client, and explains it: missing object, refusal, bad client setup, or a passing fault.

Client libraries report the same fault in many ways, so all errors are classified here: by the store's error code, then by HTTP status,
errno and exception type, of the error itself and of its causes.
"""

import errno
import os
import re
import sys
from enum import StrEnum

from lynx_batch.client_errors import code_of, status_of, types_of, unwrapped
from lynx_batch.errors import LynxError, MissingObject, StoreRefused, StoreUnavailable, StoreUnready
from lynx_batch.redaction import hide_secrets
from lynx_batch.store_settings import AWS, SETTINGS, has_foreign_proxy, proxy_variables, settings_to_check

RETRYABLE_CODES = frozenset(
    {
        "BadDigest",
        "ConditionalRequestConflict",
        "IncompleteBody",
        "NoSuchUpload",
        "OperationAborted",
        "PriorRequestNotComplete",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "RequestTimeout",
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "TooManyRequestsException",
        "XAmzContentChecksumMismatch",
        "XAmzContentSHA256Mismatch",
    }
)
"""Codes of S3, and of the services that hand out its credentials, that a retry can cure though their HTTP status says bad request."""

RETRYABLE_STATUS = frozenset({408, 409, 425, 429})
UNAUTHORIZED = 401
FORBIDDEN = 403
INSUFFICIENT_STORAGE = 507

RETRYABLE_TYPES = frozenset(
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
"""Exception classes of the client libraries, subclasses included, that mean a connection failed, not that the store refused."""

REFUSED_TYPES = frozenset({"InvalidURL", "ParamValidationError", "TooManyRedirects"})
"""Exception classes that mean the URI cannot name an object."""

REFUSED_ERRNOS = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.EINVAL, errno.ENOSYS, errno.ENAMETOOLONG, errno.EMSGSIZE}
    | {errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EFBIG, errno.ENOENT, errno.EEXIST, errno.ENXIO, errno.ENOTSUP}
)
FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})
FILE_ERRNOS = REFUSED_ERRNOS | {errno.ENOEXEC}

TLS_TYPES = frozenset({"ClientSSLError", "SSLError"})
RETRYABLE_TLS = re.compile("EOF|BAD_RECORD_MAC|timed out", re.IGNORECASE)
"""OpenSSL's words for a broken connection. Its other errors are about certificates or a port without TLS."""

TLS_RULES = {
    "WRONG_VERSION_NUMBER": "an https:// URL needs a port that speaks TLS",
    "self.signed|issuer": "the CA bundle (AWS_CA_BUNDLE for S3) must contain the CA that signed the store's certificate",
}
"""The rule that is broken, by a pattern in OpenSSL's message."""

PYTHON_NOISE = re.compile(r" ssl:(<[^>]*>|\w+)| \(_ssl\.c:\d+\)")
BAD_NUMBER = re.compile("invalid literal for int|could not convert string to float")

BAD_REGION = "AWS_DEFAULT_REGION (or `region` in the AWS config file) must be the bucket's region, such as eu-west-1"
OLD_TOKEN = "renew AWS_SESSION_TOKEN and the keys that belong to it"
BAD_FILE = "fix that file, or point AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE to others"
STORE_FULL = "free some space, or raise the quota"

REMEDIES = {
    "NoCredentialsError": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "PartialCredentialsError": "set both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "ProfileNotFound": "AWS_PROFILE (or AWS_DEFAULT_PROFILE) must name a profile of the AWS config file",
    "ConfigParseError": BAD_FILE,
    "ConfigNotFound": BAD_FILE,
    "InvalidRegionError": BAD_REGION,
    "NoRegionError": BAD_REGION,
    "AuthorizationHeaderMalformed": BAD_REGION,
    "IllegalLocationConstraintException": BAD_REGION,
    "PermanentRedirect": BAD_REGION,
    "301": BAD_REGION,
    "CredentialRetrievalError": "check `credential_process`, or whatever else provides the credentials of AWS_PROFILE",
    "InvalidAccessKeyId": "AWS_ACCESS_KEY_ID (or the key of AWS_PROFILE) must be a key that the store knows",
    "SignatureDoesNotMatch": "AWS_SECRET_ACCESS_KEY must belong to AWS_ACCESS_KEY_ID",
    "InvalidToken": OLD_TOKEN,
    "ExpiredToken": OLD_TOKEN,
    "ExpiredTokenException": OLD_TOKEN,
    "RequestExpired": OLD_TOKEN,
    "TokenRefreshRequired": OLD_TOKEN,
    "RequestTimeTooSkewed": "correct the clock of this machine",
    "QuotaExceeded": STORE_FULL,
    "XMinioStorageFull": STORE_FULL,
    "XMinioAdminBucketQuotaExceeded": STORE_FULL,
    "ClientAuthenticationError": "check AZURE_STORAGE_CONNECTION_STRING or AZURE_STORAGE_ACCOUNT_KEY",
    "AuthenticationFailed": "check AZURE_STORAGE_CONNECTION_STRING or AZURE_STORAGE_ACCOUNT_KEY",
    "DefaultCredentialsError": "GOOGLE_APPLICATION_CREDENTIALS must be the path of a JSON credentials file",
}
"""What to do, by error code or exception class. All of these are about the client's setup or the store's space, not about the object."""


class Operation(StrEnum):
    """What a store was asked to do."""

    READ = "read"
    LIST = "list"
    WRITE = "write"
    DELETE = "delete"
    LIST_VERSIONS = "list old versions"
    DELETE_VERSION = "delete an old version"
    SIGN = "sign a link"


S3_PERMISSIONS = {
    Operation.READ: "s3:GetObject",
    Operation.LIST: "s3:ListBucket",
    Operation.WRITE: "s3:PutObject",
    Operation.DELETE: "s3:DeleteObject",
    Operation.LIST_VERSIONS: "s3:ListBucketVersions",
    Operation.DELETE_VERSION: "s3:DeleteObjectVersion",
    Operation.SIGN: "s3:GetObject",
}


def kind_of(error: BaseException, scheme: str, operation: Operation) -> type[LynxError] | None:
    """The class of ours for a client's error; None if no store is to blame. `scheme` is empty for local files."""
    if isinstance(error, LynxError):
        return None
    if kind := _by_code(error):
        return kind
    if kind := _by_tls(error, scheme):
        return kind
    if scheme in SETTINGS and _is_about_settings(error, scheme):
        return StoreUnready
    if isinstance(error, (FileNotFoundError, IsADirectoryError, NotADirectoryError)):
        return MissingObject if operation in (Operation.READ, Operation.LIST) else StoreRefused
    return _by_status(error, scheme) or _by_errno(error) or _by_type(error, scheme)


def explain(error: BaseException, place: str, scheme: str, operation: Operation) -> LynxError | None:
    """An error of ours that says which `place`, what went wrong and what to do. It shows no secret that `error` itself may hold."""
    kind = kind_of(error, scheme, operation)
    if kind is None:
        return None
    if kind is MissingObject:
        return kind(f"{place}: does not exist")
    if kind is StoreUnready:
        return kind(f"{place}: {_describe_setup(error, scheme)}; {_remedy(error, scheme)}")
    if kind is StoreRefused:
        return kind(f"{place}: cannot {operation}: {_describe(error)}{_missing_permission(error, scheme, operation)}")
    proxies = proxy_variables() if "ProxyConnectionError" in types_of(error) else ""
    return kind(f"{place}: {_describe(error)}{proxies and f'; check {proxies}'}")


def _by_code(error: BaseException) -> type[LynxError] | None:
    code = code_of(error)
    if code in RETRYABLE_CODES:
        return StoreUnavailable
    return StoreUnready if code in REMEDIES else None


def _by_tls(error: BaseException, scheme: str) -> type[LynxError] | None:
    inner = unwrapped(error)
    if not types_of(inner) & TLS_TYPES:
        return None
    if RETRYABLE_TLS.search(str(inner)):
        return StoreUnavailable
    return StoreUnready if scheme in SETTINGS else None


def _is_about_settings(error: BaseException, scheme: str) -> bool:
    """Whether the client failed on its own settings (a file, a proxy, a header) before it reached the store."""
    inner = unwrapped(error)
    if _bad_file(inner, scheme) or _is_about_proxy(inner):
        return True
    return inner is not error and isinstance(inner, ValueError)


def _is_about_proxy(error: BaseException) -> bool:
    types = types_of(error)
    return "InvalidProxiesConfigError" in types or ("EndpointConnectionError" in types and has_foreign_proxy())


def _bad_file(error: BaseException, scheme: str) -> str | None:
    """The operating system's message about a local file that the client needs; None if `error` is about something else.

    For a missing object, s3fs and gcsfs set no errno or set a cause; adlfs sets an errno and the object's path.
    """
    if not isinstance(error, OSError) or error.errno not in FILE_ERRNOS or error.__cause__ is not None:
        return None
    if types_of(error) & TLS_TYPES:  # OpenSSL has error numbers of its own
        return None
    if SETTINGS[scheme] is not AWS and not os.path.isabs(str(error.filename)):
        return None
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)


def _by_status(error: BaseException, scheme: str) -> type[LynxError] | None:
    status = status_of(error)
    if status is None:
        return None
    if status == INSUFFICIENT_STORAGE or (status == UNAUTHORIZED and scheme in SETTINGS):
        return StoreUnready
    return StoreRefused if 400 <= status < 500 and status not in RETRYABLE_STATUS else StoreUnavailable


def _by_errno(error: BaseException) -> type[LynxError] | None:
    number = getattr(error, "errno", None)
    if number in FULL_ERRNOS:
        return StoreUnready
    return StoreRefused if isinstance(error, PermissionError) or number in REFUSED_ERRNOS else None


def _by_type(error: BaseException, scheme: str) -> type[LynxError] | None:
    types = types_of(error)
    if types & REMEDIES.keys():
        return StoreUnready
    if types & REFUSED_TYPES or _is_forbidden(error):
        return StoreRefused
    if types & RETRYABLE_TYPES or isinstance(error, OSError):
        return StoreUnavailable
    if "ArrowException" in types:  # the file exists, but is damaged
        return None
    if scheme in SETTINGS:
        return StoreUnready
    if isinstance(error, ValueError):
        return StoreRefused
    return StoreUnavailable if type(error).__module__.startswith("aiohttp") else None


def _is_forbidden(error: BaseException) -> bool:
    """Whether a permission is missing. gcsfs says so only in its message. Source: gcsfs/retry.py, validate_response."""
    is_read_only = getattr(error, "errno", None) == errno.EROFS
    return (
        isinstance(error, PermissionError)
        or is_read_only
        or status_of(error) == FORBIDDEN
        or str(error).startswith("Forbidden: ")
    )


def _describe(error: BaseException) -> str:
    """The store's own message. For a local file without its path, which may be that of a temporary file."""
    message = error.strerror if isinstance(error, OSError) else None
    if message and error.__cause__ is None:
        return PYTHON_NOISE.sub("", message)
    text = hide_secrets(" ".join(PYTHON_NOISE.sub("", message or str(error)).split())).rstrip(".")
    name = code_of(error) or type(error).__name__
    return f"{name}: {text}" if text else name


def _describe_setup(error: BaseException, scheme: str) -> str:
    """As `_describe`, but in our words if the client tripped over its settings with a plain Python error."""
    inner = unwrapped(error)
    if scheme not in SETTINGS or code_of(error):
        return _describe(error)
    if fault := _bad_file(inner, scheme):
        return f"the store's client cannot use a file that it needs: {fault}"
    if isinstance(inner, OSError) or type(inner).__module__.partition(".")[0] not in sys.stdlib_module_names:
        return _describe(inner)
    is_readable = type(inner) is ValueError and not BAD_NUMBER.match(str(inner))
    message = hide_secrets(" ".join(str(inner).split())) if is_readable else ""
    return f"the store's client cannot use its configuration{message and f': {message}'}"


def _remedy(error: BaseException, scheme: str) -> str:
    names = [name for name in (code_of(error), *types_of(error)) if name in REMEDIES]
    if names:
        return REMEDIES[names[0]]
    if getattr(error, "errno", None) in FULL_ERRNOS or status_of(error) == INSUFFICIENT_STORAGE:
        return STORE_FULL
    if _is_about_proxy(unwrapped(error)):
        return f"{proxy_variables()} must be a URL such as http://host:3128"
    if types_of(unwrapped(error)) & TLS_TYPES:
        rules = [rule for pattern, rule in TLS_RULES.items() if re.search(pattern, str(error), re.IGNORECASE)]
        return "; ".join([*rules, settings_to_check(scheme)])
    return settings_to_check(scheme)


def _missing_permission(error: BaseException, scheme: str, operation: Operation) -> str:
    """The permission that the operation needs; empty if the error is about something else."""
    if not _is_forbidden(error):
        return ""
    is_s3 = SETTINGS.get(scheme) is AWS
    return f"; this needs {S3_PERMISSIONS[operation] if is_s3 else f'permission to {operation} there'}"
