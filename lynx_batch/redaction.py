"""Removes user names, passwords, signatures and tokens from URIs and from text about them."""

import re
from typing import Any
from urllib.parse import unquote

HIDDEN = "***"

_START = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{0,30})://(?P<authority>[^/?#\s]*)(?P<rest>.*)", re.DOTALL)
_HOST = re.compile(r"(\[[^\]]*\]|[^:]*)(:\d*)?|arn:[^@]*")
_CHAIN = re.compile(r"::(?=[A-Za-z][A-Za-z0-9+.-]*://)")
_MISSPELT = re.compile(r"((^|/)\s*(https?|s3a?|gs|gcs|az|abfss?)):/?(?=[^/])", re.IGNORECASE)
_WEB = re.compile(r"https?://", re.IGNORECASE)
_USERINFO = re.compile(r"(?<!az)(?<!abfs)(?<!abfss)://[^/?#\s]*@")
_USER = re.compile(r"(?<![^\s/@])([^\s/@]++)@")  # in something like a URL without a scheme
_QUERY = re.compile(r"\?[^\s'\"<>()]*")
_WORD = re.compile(r"[^/:@?#&=\s]{3,}")


def redact(uri: str) -> str:
    """`uri` without user, query string and, for http(s), fragment. A local path stays as it is.

    If it is unclear where a password ends, nothing after the scheme is shown.
    """
    if "://" not in uri:
        misspelt = _MISSPELT.search(uri)
        return f"{uri[: misspelt.end(1)]}:{HIDDEN}" if misspelt and "@" in uri else uri
    shown = uri.partition("?")[0]
    if _WEB.search(shown):
        shown = shown.partition("#")[0]
    return "::".join(_START.sub(_without_user, link) for link in _CHAIN.split(shown))


def scrub(text: str, uri: str) -> str:
    """`text`, such as a library's error about `uri`, without the parts that `redact` hides of `uri` or of any other URI in it."""
    shown = redact(uri)
    text = text.replace(uri, shown)
    for word in {*_WORD.findall(uri), *_WORD.findall(unquote(uri))} - {*_WORD.findall(shown)}:
        text = text.replace(word, HIDDEN)
    return hide_secrets(text)


def hide_secrets(text: str) -> str:
    """`text` without the user names, passwords and query strings of the URLs in it."""
    return _USER.sub(_without_password, _USERINFO.sub("://", _QUERY.sub("", text)))


def redact_all(value: Any) -> Any:
    """`value`, such as a run file's content, with every URI in it redacted."""
    if isinstance(value, dict):
        return {key: redact_all(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redact_all(inner) for inner in value]
    return redact(value) if isinstance(value, str) else value


def _without_password(user: re.Match[str]) -> str:
    """Removes `name:password@`. A single regular expression for all of it took quadratic time."""
    credentials = user[1].lstrip(":")
    _, colon, password = credentials.partition(":")
    return user[1][: -len(credentials)] if colon and password else user[0]


def _without_user(link: re.Match[str]) -> str:
    scheme, authority, rest = link.groups()
    # In `abfs://container@account` the part before the @ is the container, not a user.
    host = authority if scheme in ("az", "abfs", "abfss") else authority.rpartition("@")[2]
    return f"{scheme}://{host}{rest}" if _HOST.fullmatch(host) else f"{scheme}://{HIDDEN}"
