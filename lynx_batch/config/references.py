"""How a run file names a secret: by the place that holds it, never by its content."""

import re
from urllib.parse import urlsplit

DEVELOPMENT = "development"
"""In place of a certificate: one that is made on the spot."""

ENVIRONMENT = "env:"

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def is_path(reference: str) -> bool:
    return reference != DEVELOPMENT and not reference.startswith(ENVIRONMENT)


def environment_name(reference: str) -> str | None:
    """The environment variable that `reference` names; None if it names a file."""
    return reference.removeprefix(ENVIRONMENT) if reference.startswith(ENVIRONMENT) else None


def explain_reference(reference: str) -> str | None:
    """The rule that `reference` breaks, or None. The rule does not repeat the value, which may be a key by mistake."""
    if "-----BEGIN" in reference or "\n" in reference:
        return "must be a path or env:NAME, not the PEM text itself"
    name = environment_name(reference)
    if name is not None and not _NAME.fullmatch(name):
        return "must be env: and the name of an environment variable"
    return None


def is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # a bad port or a bad IPv6 address
        return False
