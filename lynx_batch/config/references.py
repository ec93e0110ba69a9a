"""How a run file names a secret: by the place that holds it, never by its content."""

import re
from urllib.parse import urlsplit

DEVELOPMENT = "development"
"""In place of a certificate: one that is made on the spot."""

ENVIRONMENT = "env:"

STANDARD_SECRET = "whsec_"
"""Marks a secret whose rest is base64, as the libraries of Standard Webhooks expect it."""

WEB_SCHEMES = ("http", "https")

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def is_path(reference: str) -> bool:
    return reference != DEVELOPMENT and not reference.startswith(ENVIRONMENT)


def environment_name(reference: str) -> str | None:
    """The environment variable that `reference` names; None if it names a file."""
    return reference.removeprefix(ENVIRONMENT) if reference.startswith(ENVIRONMENT) else None


def explain_reference(reference: str) -> str | None:
    """The rule that `reference` breaks, or None. The rule does not repeat the value, which may be a key by mistake."""
    if "-----BEGIN" in reference or "\n" in reference:
        return "must be a path or env:NAME, not the PEM text itself"
    if reference.startswith(STANDARD_SECRET):
        return "must be a path or env:NAME, not the secret itself"
    name = environment_name(reference)
    if name is not None and not _NAME.fullmatch(name):
        return "must be env: and the name of an environment variable"
    return None


def explain_address(address: str) -> str | None:
    """The rule that the address of somebody to notify breaks, or None. The rule does not repeat the address, which holds secrets."""
    name = environment_name(address)
    if name is not None:
        return None if _NAME.fullmatch(name) else "must be env: and the name of an environment variable"
    scheme = scheme_of(address)
    if scheme is None or not address.isprintable() or " " in address:
        return "must be a URL such as https://host/path or slack://..., or env:NAME"
    if scheme in WEB_SCHEMES and not is_web_address(address):
        return "must be an http:// or https:// address with a host"
    return None


def scheme_of(address: str) -> str | None:
    """The scheme of a URL in lower case; None for anything else."""
    match = _SCHEME.match(address)
    return match and match[1].lower()


def mask_address(address: str) -> str:
    """What may be shown of the address of somebody to notify: the scheme and, for a webhook, the host. The rest may hold secrets."""
    scheme = scheme_of(address)
    if scheme is None:
        return address  # env:NAME
    host = urlsplit(address).netloc.rpartition("@")[2] if scheme in WEB_SCHEMES else ""
    return f"{scheme}://{host}/***" if host else f"{scheme}://***"


def is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in WEB_SCHEMES and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # a bad port or a bad IPv6 address
        return False
