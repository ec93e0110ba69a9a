"""Where photos may be: compares a URI with the places in `inputs.allow`, as text. Reads no file and resolves no name."""

import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from posixpath import normpath
from urllib.parse import unquote, urlsplit

ANYWHERE = ("/", "s3://", "gs://", "az://", "http://", "https://")
"""Local files, the three stores and the web."""

WEB = frozenset({"http", "https"})

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_MISSPELT = re.compile(r"(^|/)\s*(https?|s3a?|gs|gcs|az|abfss?|file):(/[^/]|$)", re.IGNORECASE)
_HOST = re.compile(r"[a-z0-9_-]([a-z0-9_.-]{0,251}[a-z0-9_-])?\.?|\[[0-9a-f:.]+\]")
_DEFAULT_PORTS = {"http": 80, "https": 443}

NAT64, COMPATIBLE = IPv6Network("64:ff9b::/96"), IPv6Network("::/96")
"""Addresses whose last 32 bits are an IPv4 address."""

METADATA_OF_AWS = IPv6Address("fd00:ec2::254")
"""Where a machine at AWS asks for its own credentials."""

# no two dots in a row, no IP address
_DOTTED = r"(?!.*\.\.)(?!(\d+\.){3}\d+$)"
_S3 = (
    re.compile(rf"{_DOTTED}[A-Za-z0-9_][A-Za-z0-9._-]{{2,254}}|arn:aws[a-z-]*:s3[a-z-]*:[^/@]+"),
    "must name a bucket after s3://: 3 to 255 letters, digits and . _ -, no dot or hyphen first, no two dots in a row, no IP address",
)
"""Looser than AWS's rules for new buckets: its oldest buckets, and other stores, allow long names, capitals and underscores."""
_GOOGLE = (
    re.compile(rf"{_DOTTED}[a-z0-9][a-z0-9._-]{{1,220}}[a-z0-9]"),
    "must name a bucket after gs://: 3 to 222 lower-case letters, digits and . _ -, a letter or digit first and last, no two dots "
    "in a row, no IP address",
)
_AZURE = (
    re.compile(r"((?=[^@]{3,63}(@|$))[a-z0-9]+(-[a-z0-9]+)*|\$[a-z]{2,62})(@[A-Za-z0-9.-]+)?"),
    "must name a container after az://: 3 to 63 lower-case letters and digits, with single hyphens between them",
)
_BUCKETS = {"s3": _S3, "s3a": _S3, "gs": _GOOGLE, "gcs": _GOOGLE, "az": _AZURE, "abfs": _AZURE, "abfss": _AZURE}
"""The pattern of a bucket name for each scheme, and the rule in words. Only names that no such store accepts are refused."""

STORES = frozenset(_BUCKETS)


@dataclass(frozen=True, slots=True)
class Place:
    """A file, or a folder with everything below it. No scheme means local files; no host, every host or bucket of the scheme."""

    scheme: str
    host: str
    path: tuple[str, ...]

    def holds(self, other: "Place") -> bool:
        """Whether `other` is this place or below it. A path with `..` never is: a server may follow it out of the folder."""
        if self.scheme != other.scheme or self.host not in ("", other.host):
            return False
        is_everything = not self.host and not self.path
        return is_everything or (other.path[: len(self.path)] == self.path and ".." not in other.path)


@lru_cache(maxsize=10_000)
def locate(uri: str) -> Place:
    """The place of an absolute path or URI.

    Raises:
        ValueError: If it is malformed or chained. The message states the rule and quotes nothing of the URI.
    """
    scheme, separator, rest = uri.partition("://")
    if _CONTROL.search(uri):
        raise ValueError("must not contain line breaks or other control characters")
    if scheme not in WEB and _MISSPELT.search(rest or uri):
        raise ValueError("must have :// after its scheme")
    if not separator or scheme == "file":
        return _locate_file(rest if separator else uri)
    if "::" in scheme or (scheme not in WEB and "::" in rest.partition("/")[2]):
        raise ValueError("must not be a chained URL (`::`)")
    if not _SCHEME.fullmatch(scheme):
        raise ValueError("must begin with a scheme in lower case, such as https://")
    if scheme in WEB:
        return _locate_web(uri)
    if scheme in STORES:
        return _locate_object(scheme, rest)
    raise ValueError(f"must be a local file or begin with one of {', '.join(f'{s}://' for s in sorted(STORES | WEB))}")


def explain_entry(entry: str) -> str | None:
    """The rule that `entry` breaks as an item of `inputs.allow`, or None."""
    scheme, separator, rest = entry.partition("://")
    if separator and not rest and scheme in STORES | WEB:
        return None
    try:
        locate(entry)
    except ValueError as rule:
        return str(rule)
    if not separator and not entry.startswith("/"):
        return "must be an absolute folder, or a URI such as s3://bucket/photos/"
    is_plain = "?" not in rest and not (scheme in WEB and ("#" in rest or "@" in rest.partition("/")[0]))
    return None if is_plain else "must not contain a user, a query or a fragment"


def explain_photo(uri: str, allow: Sequence[str]) -> str | None:
    """The rule that an absolute `uri` breaks as the URI of a photo, or None. Found without touching the disk or the network."""
    try:
        place = locate(uri)
    except ValueError as rule:
        return str(rule)
    if place.scheme not in WEB and (not place.path or uri.endswith("/")):
        return "must name a file"
    holders = [entry for entry in map(_locate_entry, allow) if entry.holds(place)]
    if not holders:
        return f"must be in or below one of the places in inputs.allow: {', '.join(allow)}{_explain_port(place, allow)}"
    if place.scheme in WEB and is_inward(host_of(place)) and not any(entry.host for entry in holders):
        return explain_inward(place)
    return None


def explain_inward(place: Place) -> str:
    """Why a web server on this machine or its local link is refused, and what to add to `inputs.allow`."""
    return (
        "must not be at a loopback or link-local address, unless inputs.allow names its host and port; "
        f"if it may be read, add {place.scheme}://{place.host}/"
    )


def is_named(uri: str, allow: Sequence[str]) -> bool:
    """Whether `allow` names the host of `uri`; that host may then have any address."""
    place = locate(uri)
    return any(entry.host and entry.holds(place) for entry in map(_locate_entry, allow))


def host_of(place: Place) -> str:
    """The host as a resolver takes it: without port and brackets."""
    return place.host.rpartition(":")[0].strip("[]")


def port_of(place: Place) -> int:
    return int(place.host.rpartition(":")[2])


def is_inward(host: str) -> bool:
    """Whether `host`, a name or an address in any notation, is this machine or on its local link. Does not query DNS."""
    name = host.rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return False
    return any(_is_inward_address(str(address[0])) for *_, address in found)


def _is_inward_address(text: str) -> bool:
    address = ip_address(text.partition("%")[0])
    if isinstance(address, IPv6Address):
        address = _ipv4_in(address) or address
    return address.is_loopback or address.is_link_local or address.is_unspecified or address == METADATA_OF_AWS


def _ipv4_in(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6 one stands for: mapped, by 6to4 or NAT64, or in the old compatible form; None if it stands for none."""
    is_at_its_end = address in NAT64 or (address in COMPATIBLE and int(address) > 1)
    return address.ipv4_mapped or address.sixtofour or (IPv4Address(int(address) % 2**32) if is_at_its_end else None)


def _explain_port(place: Place, allow: Sequence[str]) -> str:
    """What to add if `allow` names another port of the same host; else empty."""
    entries = [entry for entry in map(_locate_entry, allow) if entry.scheme == place.scheme in WEB and entry.host]
    others = [entry for entry in entries if host_of(entry) == host_of(place) and entry.host != place.host]
    if not others:
        return ""
    return f"; these allow port {port_of(others[0])} of this host: for port {port_of(place)} add {place.scheme}://{place.host}/"


@lru_cache(maxsize=1_000)
def _locate_entry(entry: str) -> Place:
    scheme, separator, rest = entry.partition("://")
    return Place(scheme, "", ()) if separator and not rest else locate(entry)


def _locate_file(path: str) -> Place:
    if not path.startswith("/"):
        raise ValueError("must be file:/// and an absolute path")
    return Place("", "", tuple(filter(None, normpath(path).split("/"))))


def _locate_object(scheme: str, rest: str) -> Place:
    bucket, _, key = rest.partition("/")
    names, rule = _BUCKETS[scheme]
    if not names.fullmatch(bucket):
        raise ValueError(rule)
    return Place(scheme, bucket, _split(key))


def _locate_web(uri: str) -> Place:
    try:
        parts = urlsplit(uri)
        port = parts.port or _DEFAULT_PORTS[parts.scheme]
        host = (parts.hostname or "").encode("idna").decode().lower()
    except ValueError:  # its message may contain a password
        raise ValueError("must be a URL with a valid host and a port of 1 to 65535") from None
    host = f"[{host}]" if ":" in host else host.rstrip(".")
    if not _HOST.fullmatch(host) or parts.port == 0:
        raise ValueError("must be a URL with a valid host and a port of 1 to 65535")
    return Place(parts.scheme, f"{host}:{port}", _split(unquote(parts.path).replace("\\", "/")))


def _split(path: str) -> tuple[str, ...]:
    return tuple(path.removeprefix("/").removesuffix("/").split("/")) if path.strip("/") else ()
