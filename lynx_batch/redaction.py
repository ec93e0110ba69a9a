"""URIs and texts about them as they may be shown: without user names, passwords, signatures and tokens."""

import re
from typing import Any
from urllib.parse import unquote

HIDDEN = "***"

_START = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{0,30})://(?P<authority>[^/?#\s]*)(?P<rest>.*)", re.DOTALL)
_HOST = re.compile(r"(\[[^\]]*\]|[^:]*)(:\d*)?|arn:[^@]*")
_CHAIN = re.compile(r"::(?=[A-Za-z][A-Za-z0-9+.-]*://)")
_MISSPELT = re.compile(r"((^|/)\s*(https?|s3a?|gs|gcs|az|abfss?)):/?(?=[^/])", re.IGNORECASE)
_WEB = re.compile(r"https?://", re.IGNORECASE)
_USERINFO = re.compile(r"(?<!abfs)(?<!abfss)://[^/?#\s]*@")
_USER = re.compile(r"(?<![^\s/@])([^\s/@]++)@")  # of what was meant to be a URL, but has no scheme
_QUERY = re.compile(r"\?[^\s'\"<>()]*")
_WORD = re.compile(r"[^/:@?#&=\s]{3,}")


def redact(uri: str) -> str:
    """`uri` as it may be shown: without user, query string and, on the web, fragment. A local path stays as it is.

    Where the end of a password cannot be told, nothing after the scheme is shown.
    """
    if "://" not in uri:
        misspelt = _MISSPELT.search(uri)
        return f"{uri[: misspelt.end(1)]}:{HIDDEN}" if misspelt and "@" in uri else uri
    shown = uri.partition("?")[0]
    if _WEB.search(shown):
        shown = shown.partition("#")[0]
    return "::".join(_START.sub(_without_user, link) for link in _CHAIN.split(shown))


def scrub(text: str, uri: str) -> str:
    """`text`, such as a library's error about `uri`, without what `redact` hides of that URI or of any other."""
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
    """Nothing of `name:password@`. One pattern for all of it took a time that grows with the square of the text."""
    begun = user[1].lstrip(":")
    _, colon, password = begun.partition(":")
    return user[1][: -len(begun)] if colon and password else user[0]


def _without_user(link: re.Match[str]) -> str:
    scheme, authority, rest = link.groups()
    # In `abfs://container@account` the name before the @ is an address, not a user.
    host = authority if scheme in ("abfs", "abfss") else authority.rpartition("@")[2]
    return f"{scheme}://{host}{rest}" if _HOST.fullmatch(host) else f"{scheme}://{HIDDEN}"
