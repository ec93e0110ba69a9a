"""How the environment sets up the client of a store: what is checked before it is asked, and what to look at when it fails."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

from lynx_batch.errors import StoreUnready

AWS, AZURE, GOOGLE = "aws", "azure", "google"

SETTINGS = {"s3": AWS, "s3a": AWS, "gs": GOOGLE, "gcs": GOOGLE, "az": AZURE, "abfs": AZURE, "abfss": AZURE}
"""The schemes whose clients are set up by the environment, and whose settings those are."""

ADVICE = {
    AZURE: "set AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    GOOGLE: "look at GOOGLE_APPLICATION_CREDENTIALS and STORAGE_EMULATOR_HOST",
}

GOOGLE_FILE = "GOOGLE_APPLICATION_CREDENTIALS"

FILE_VARIABLES = {AWS: ("AWS_CA_BUNDLE", "AWS_WEB_IDENTITY_TOKEN_FILE"), GOOGLE: (GOOGLE_FILE,)}
"""What must name a file that is there, Google's one of JSON; the clients tell that late, as another error, or not at all."""

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
"""What each request's signature is made of; a secret that was made from a file often ends in that file's line end."""

AWS_VARIABLE = re.compile(r"AWS_.+|FSSPEC_S3A?(_.+)?|FSSPEC_CONFIG_DIR")
PROXY_VARIABLE = re.compile(r"https?_proxy", re.IGNORECASE)

AWS_FILES = {
    "AWS_CONFIG_FILE": "~/.aws/config",
    "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials",
    "FSSPEC_CONFIG_DIR": "~/.config/fsspec",
}
"""The variables that name files of settings, and where those lie otherwise."""

NOTHING_SET = "nothing sets it up here: no AWS_* variable, and no AWS config file"


def check_settings(scheme: str) -> None:
    """Raises StoreUnready if a variable has white space around it that the store's client sends, or names a file that cannot be read."""
    client = SETTINGS.get(scheme, "")
    for variable in HEADER_VARIABLES.get(client, ()):
        value = os.environ.get(variable, "")
        if value != value.strip() or not value.isprintable():
            raise StoreUnready(
                f"{variable}: must have no white space around it and no control character; set it without"
            )
    for variable in FILE_VARIABLES.get(client, ()):
        file = os.environ.get(variable)
        if not file:
            continue
        try:
            content = Path(file).read_bytes()
            if variable == GOOGLE_FILE:
                json.loads(content)
        except (OSError, ValueError) as error:
            raise StoreUnready(f"{variable}={file}: must be a file that can be read: {error}") from error


def what_to_look_at(scheme: str) -> str:
    """The settings of a store's client, by the names of those that are there; their values may be secret. Empty if it has none."""
    client = SETTINGS.get(scheme)
    if client is not AWS:
        return ADVICE.get(client or "", "")
    names = _names(lambda name: AWS_VARIABLE.fullmatch(name) or PROXY_VARIABLE.fullmatch(name))
    defaults = [file for variable, file in AWS_FILES.items() if variable not in names]
    found = names + [file for file in defaults if os.path.exists(os.path.expanduser(file))]
    return f"look at what sets it up here: {', '.join(found)}" if found else NOTHING_SET


def proxy_variables() -> str:
    """The names of the variables that are set and name a proxy."""
    return ", ".join(_names(PROXY_VARIABLE.fullmatch))


def is_proxy_foreign() -> bool:
    """Whether a proxy is set that speaks no HTTP, such as a SOCKS one: the clients take its scheme for the name of a host."""
    values = (os.environ[name].lower() for name in _names(PROXY_VARIABLE.fullmatch))
    return any("://" in value and not value.startswith(("http://", "https://")) for value in values)


def _names(is_asked: Callable[[str], object]) -> list[str]:
    return sorted(name for name, value in os.environ.items() if value and is_asked(name))
