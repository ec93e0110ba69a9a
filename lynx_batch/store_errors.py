"""What an error of a store's client means: nothing is there, it is refused, the client is not fit to ask, or it may pass.

Client libraries report one fact in many ways, so every error is judged here: by the code that the store gave, then by its HTTP
status, the error number and the type, of the error itself and of its causes.
"""

import errno
import os
import re
import sys
from enum import StrEnum

from lynx_batch.client_errors import code_of, status_of, types_of, unwrapped
from lynx_batch.errors import LynxError, MissingObject, StoreRefused, StoreUnavailable, StoreUnready
from lynx_batch.redaction import hide_secrets
from lynx_batch.store_settings import AWS, SETTINGS, is_proxy_foreign, proxy_variables, what_to_look_at

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
FILE_ERRNOS = REFUSED_ERRNOS | {errno.ENOEXEC}

TLS_TYPES = frozenset({"ClientSSLError", "SSLError"})
PASSING_TLS = re.compile("EOF|BAD_RECORD_MAC|timed out", re.IGNORECASE)
"""What OpenSSL says of a connection that broke; all else that it says is about certificates, or a port without TLS."""

TLS_RULES = {
    "WRONG_VERSION_NUMBER": "an https:// URL needs a port that speaks TLS",
    "self.signed|issuer": "the file of certificates (AWS_CA_BUNDLE for S3) must hold that of who signed the store's",
}
"""What must be so, by what OpenSSL says."""

PYTHON_WORDS = re.compile(r" ssl:(<[^>]*>|\w+)| \(_ssl\.c:\d+\)")
BAD_NUMBER = re.compile("invalid literal for int|could not convert string to float")

BAD_REGION = "AWS_DEFAULT_REGION (or `region` in the AWS config file) must be the bucket's region, such as eu-west-1"
OLD_TOKEN = "renew AWS_SESSION_TOKEN and the keys that belong to it"
BAD_FILE = "mend that file, or let AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE name others"
NO_ROOM_LEFT = "make room, or raise the quota"

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


class Operation(StrEnum):
    """What was asked of a store."""

    READ = "read"
    LIST = "list"
    PUT = "put"
    DELETE = "delete"


S3_RIGHTS = {
    Operation.READ: "s3:GetObject",
    Operation.LIST: "s3:ListBucket",
    Operation.PUT: "s3:PutObject",
    Operation.DELETE: "s3:DeleteObject",
}


def kind_of(error: BaseException, scheme: str, operation: Operation) -> type[LynxError] | None:
    """What an error means that a client raised at `operation`; `scheme` is empty for local files. None if no store is to blame."""
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
    return _by_status(error, scheme) or _by_number(error) or _by_type(error, scheme)


def explain(error: BaseException, place: str, scheme: str, operation: Operation) -> LynxError | None:
    """The same as an error of ours, which names the `place`, what was refused and what to do, and shows no secret."""
    kind = kind_of(error, scheme, operation)
    if kind is None:
        return None
    if kind is MissingObject:
        return kind(f"{place}: nothing lies there")
    if kind is StoreUnready:
        return kind(f"{place}: {_unready_story(error, scheme)}; {_remedy(error, scheme)}")
    if kind is StoreRefused:
        return kind(f"{place}: cannot {operation}: {_story(error)}{_need(error, scheme, operation)}")
    proxies = proxy_variables() if "ProxyConnectionError" in types_of(error) else ""
    return kind(f"{place}: {_story(error)}{proxies and f'; look at {proxies}'}")


def _by_code(error: BaseException) -> type[LynxError] | None:
    code = code_of(error)
    if code in PASSING_CODES:
        return StoreUnavailable
    return StoreUnready if code in REMEDIES else None


def _by_tls(error: BaseException, scheme: str) -> type[LynxError] | None:
    inner = unwrapped(error)
    if not types_of(inner) & TLS_TYPES:
        return None
    if PASSING_TLS.search(str(inner)):
        return StoreUnavailable
    return StoreUnready if scheme in SETTINGS else None


def _is_about_settings(error: BaseException, scheme: str) -> bool:
    """Whether the client failed over its own settings, before the store could answer: a file, a proxy, a header."""
    inner = unwrapped(error)
    if _file_fault(inner, scheme) or _is_about_proxy(inner):
        return True
    return inner is not error and isinstance(inner, ValueError)


def _is_about_proxy(error: BaseException) -> bool:
    types = types_of(error)
    return "InvalidProxiesConfigError" in types or ("EndpointConnectionError" in types and is_proxy_foreign())


def _file_fault(error: BaseException, scheme: str) -> str | None:
    """What the system says of a file of this machine that the client needs.

    Of a missing object s3fs and gcsfs give no error number, or a cause; adlfs gives the number, and the object's path.
    """
    if not isinstance(error, OSError) or error.errno not in FILE_ERRNOS or error.__cause__ is not None:
        return None
    if types_of(error) & TLS_TYPES:  # OpenSSL has numbers of its own
        return None
    if SETTINGS[scheme] is not AWS and not os.path.isabs(str(error.filename)):
        return None
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)


def _by_status(error: BaseException, scheme: str) -> type[LynxError] | None:
    status = status_of(error)
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
    types = types_of(error)
    if types & REMEDIES.keys():
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
        or status_of(error) == FORBIDDEN
        or str(error).startswith("Forbidden: ")
    )


def _story(error: BaseException) -> str:
    """The store's own words. Of a local file those of the system alone, as the path may be a temporary one."""
    words = error.strerror if isinstance(error, OSError) else None
    if words and error.__cause__ is None:
        return PYTHON_WORDS.sub("", words)
    text = hide_secrets(" ".join(PYTHON_WORDS.sub("", words or str(error)).split())).rstrip(".")
    name = code_of(error) or type(error).__name__
    return f"{name}: {text}" if text else name


def _unready_story(error: BaseException, scheme: str) -> str:
    """As `_story`, and in words where the client stumbled over its settings with an error of Python."""
    inner = unwrapped(error)
    if scheme not in SETTINGS or code_of(error):
        return _story(error)
    if fault := _file_fault(inner, scheme):
        return f"a file that the store's client needs cannot be used: {fault}"
    if isinstance(inner, OSError) or type(inner).__module__.partition(".")[0] not in sys.stdlib_module_names:
        return _story(inner)
    is_plain = type(inner) is ValueError and not BAD_NUMBER.match(str(inner))
    words = hide_secrets(" ".join(str(inner).split())) if is_plain else ""
    return f"the configuration of the store's client cannot be used{words and f': {words}'}"


def _remedy(error: BaseException, scheme: str) -> str:
    names = [name for name in (code_of(error), *types_of(error)) if name in REMEDIES]
    if names:
        return REMEDIES[names[0]]
    if getattr(error, "errno", None) in FULL_ERRNOS or status_of(error) == NO_ROOM:
        return NO_ROOM_LEFT
    if _is_about_proxy(unwrapped(error)):
        return f"{proxy_variables()} must be a URL such as http://host:3128"
    if types_of(unwrapped(error)) & TLS_TYPES:
        rules = [rule for sign, rule in TLS_RULES.items() if re.search(sign, str(error), re.IGNORECASE)]
        return "; ".join([*rules, what_to_look_at(scheme)])
    return what_to_look_at(scheme)


def _need(error: BaseException, scheme: str, operation: Operation) -> str:
    """The right that is missing, if one is."""
    if not _is_forbidden(error):
        return ""
    right = S3_RIGHTS[operation] if SETTINGS.get(scheme) is AWS else f"the right to {operation} there"
    return f"; this needs {right}"
