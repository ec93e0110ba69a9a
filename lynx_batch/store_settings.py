"""Settings of the stores' clients in the environment: checked before the first request, and named when a request fails."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

from lynx_batch.errors import StoreUnready

AWS, AZURE, GOOGLE = "aws", "azure", "google"

SETTINGS = {"s3": AWS, "s3a": AWS, "gs": GOOGLE, "gcs": GOOGLE, "az": AZURE, "abfs": AZURE, "abfss": AZURE}
"""The vendor whose settings a scheme's client reads from the environment. Other schemes have no such settings."""

ADVICE = {
    AZURE: "set AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    GOOGLE: "check GOOGLE_APPLICATION_CREDENTIALS and STORAGE_EMULATOR_HOST",
}

GOOGLE_FILE = "GOOGLE_APPLICATION_CREDENTIALS"

FILE_VARIABLES = {AWS: ("AWS_CA_BUNDLE", "AWS_WEB_IDENTITY_TOKEN_FILE"), GOOGLE: (GOOGLE_FILE,)}
"""Variables that must name a readable file, Google's a JSON file. The clients report a bad one late, as some other error, or not at all."""

HEADER_VARIABLES = {
    AWS: (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_SECURITY_TOKEN",
        "AWS_DEFAULT_REGION",
        "FSSPEC_S3_KEY",
        "FSSPEC_S3_SECRET",
        "FSSPEC_S3_TOKEN",
    )
}
"""Variables that go into the signature of each request. A secret that was created from a file often ends in a newline."""

AWS_VARIABLE = re.compile(r"AWS_.+|FSSPEC_S3A?(_.+)?|FSSPEC_CONFIG_DIR")
PROXY_VARIABLE = re.compile(r"https?_proxy", re.IGNORECASE)

AWS_FILES = {
    "AWS_CONFIG_FILE": "~/.aws/config",
    "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials",
    "FSSPEC_CONFIG_DIR": "~/.config/fsspec",
}
"""Variables that name settings files, and the default location of each."""

NOTHING_SET = "no AWS_* variable is set here, and there is no AWS config file"


def check_settings(scheme: str) -> None:
    """Raises StoreUnready if a variable has white space that the client would send, or names a file that cannot be read."""
    client = SETTINGS.get(scheme, "")
    for variable in HEADER_VARIABLES.get(client, ()):
        value = os.environ.get(variable, "")
        if value != value.strip() or not value.isprintable():
            raise StoreUnready(f"{variable}: must not begin or end with white space, nor contain a control character")
    for variable in FILE_VARIABLES.get(client, ()):
        file = os.environ.get(variable)
        if not file:
            continue
        try:
            content = Path(file).read_bytes()
            if variable == GOOGLE_FILE:
                json.loads(content)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is not JSON"
            shown = f"={file}" if os.path.isabs(file) else ""  # anything else may be the key itself
            raise StoreUnready(f"{variable}{shown}: must be a readable file: {reason}") from None


def settings_to_check(scheme: str) -> str:
    """Advice on which settings of a store's client to check, by name only: values may be secret. Empty if the client has none."""
    client = SETTINGS.get(scheme)
    if client is not AWS:
        return ADVICE.get(client or "", "")
    names = _names(lambda name: AWS_VARIABLE.fullmatch(name) or PROXY_VARIABLE.fullmatch(name))
    defaults = [file for variable, file in AWS_FILES.items() if variable not in names]
    found = names + [file for file in defaults if os.path.exists(os.path.expanduser(file))]
    return f"check its settings here: {', '.join(found)}" if found else NOTHING_SET


def proxy_variables() -> str:
    """The names of the proxy variables that are set."""
    return ", ".join(_names(PROXY_VARIABLE.fullmatch))


def has_foreign_proxy() -> bool:
    """Whether a proxy is set that is not HTTP, such as SOCKS; the clients mistake its scheme for a host name."""
    values = (os.environ[name].lower() for name in _names(PROXY_VARIABLE.fullmatch))
    return any("://" in value and not value.startswith(("http://", "https://")) for value in values)


def _names(is_wanted: Callable[[str], object]) -> list[str]:
    return sorted(name for name, value in os.environ.items() if value and is_wanted(name))
