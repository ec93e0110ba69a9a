"""A photo from a web server, which may be slow, silent, endless or hostile: no other module speaks HTTP for photos.

The address that is connected to is the address that was checked, and each redirect is checked as the photo's own URI is. A link
is sent as it is written, because its percent-encoding may be part of a signature.
"""

import base64
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from urllib.parse import quote, unquote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpcore2
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, stop_before_delay, wait_exponential_jitter

from lynx_batch.config import InputsConfig
from lynx_batch.errors import ConfigError, InputRefused, MissingObject, PhotoUnreachable, StoreRefused
from lynx_batch.photo_places import WEB, explain_inward, explain_photo, host_of, is_inward, is_named, locate, port_of
from lynx_batch.redaction import redact, scrub
from lynx_batch.storage import SizeLimit

MAX_REDIRECTS = 10
REDIRECTS = frozenset({301, 302, 303, 307, 308})
GONE = frozenset({404, 410})
PASSING = frozenset({408, 425, 429})
"""Of the answers below 500, those that may be others later."""

CANNOT_CONNECT, NO_ANSWER = "cannot connect", "no answer"
"""Causes of which another photo's try would be as long."""

AS_WRITTEN = "".join(map(chr, range(0x21, 0x7F)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a web server gave. `num_bytes` is what it announced; `version` is empty unless the content is sure to be whole."""

    num_bytes: int | None
    version: str
    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """What is asked for, wherever it redirects to, and until when."""

    uri: str
    inputs: InputsConfig
    is_head_enough: bool
    deadline_s: float

    @property
    def shown(self) -> str:
        return redact(self.uri)


class _Redirect(Exception):
    """The server sends elsewhere: `str` of it is where to."""


def fetch(uri: str, inputs: InputsConfig, *, is_head_enough: bool = False) -> Answer:
    """What lies at `uri`; its content is empty if its head is enough.

    Raises:
        InputRefused: If the URI, what it resolves to or redirects to is no place for photos, or the content is too large.
        MissingObject, StoreRefused: If the server says so.
        PhotoUnreachable: If all tries have failed, within `inputs.longest_s`.
    """
    request = _Request(
        uri=uri, inputs=inputs, is_head_enough=is_head_enough, deadline_s=time.monotonic() + inputs.longest_s
    )
    retrying = Retrying(
        retry=retry_if_exception_type(PhotoUnreachable),
        wait=wait_exponential_jitter(multiplier=0.2, max=2),
        stop=stop_after_attempt(inputs.max_tries) | stop_before_delay(inputs.longest_s),
        reraise=True,
    )
    return retrying(_follow, request)


def _follow(request: _Request) -> Answer:
    here = request.uri
    for _ in range(MAX_REDIRECTS + 1):
        if (rule := explain_photo(here, request.inputs.allow)) is not None:
            way = "" if here == request.uri else f", which redirects to {redact(here)}"
            raise InputRefused(f"{request.shown}{way}: {rule}")
        try:
            return _ask(request, here)
        except _Redirect as redirect:
            here = _beyond(request, here, str(redirect))
    raise StoreRefused(f"{request.shown}: redirects more than {MAX_REDIRECTS} times")


def _beyond(request: _Request, here: str, location: str) -> str:
    """Where `location` leads from `here`, which is the web: a server must not choose a file or a store for us to read."""
    try:
        scheme, _, rest = urljoin(here, location).partition(":")
    except ValueError:
        raise StoreRefused(f"{request.shown}: redirects to a malformed URL") from None
    if scheme.lower() not in WEB:
        raise InputRefused(
            f"{request.shown}, which redirects to {scheme!r}: a redirect must lead to http:// or https://"
        )
    return f"{scheme.lower()}:{rest}"


def _ask(request: _Request, here: str) -> Answer:
    """What one request for `here`, where the request has led to, gives."""
    timeout = {"connect": request.inputs.connect_timeout_s}
    timeout |= dict.fromkeys(("read", "write", "pool"), request.inputs.read_timeout_s)
    try:
        with (
            _connections(request, here) as pool,
            pool.stream("GET", _url(here), headers=_headers(here), extensions={"timeout": timeout}) as response,
        ):
            _judge(request, response)
            return _read(request, response)
    except (httpcore2.ConnectError, httpcore2.ConnectTimeout, socket.gaierror) as error:
        raise _unreachable(request, here, CANNOT_CONNECT, error) from None
    except httpcore2.TimeoutException as error:
        raise _unreachable(request, here, NO_ANSWER, error) from None
    except (httpcore2.NetworkError, httpcore2.RemoteProtocolError, httpcore2.ProxyError) as error:
        raise _unreachable(request, here, "broken answer", error) from None


def _unreachable(request: _Request, here: str, cause: str, error: Exception) -> PhotoUnreachable:
    detail = scrub(scrub(str(error), request.uri), here)
    return PhotoUnreachable(f"{request.shown}: {cause}: {detail or type(error).__name__}")


def _judge(request: _Request, response: httpcore2.Response) -> None:
    """Raises what any status but 200 means."""
    status, location = response.status, _header(response, b"location")
    if status == 200:
        return
    if status in REDIRECTS and location:
        raise _Redirect(location)
    if status in GONE:
        raise MissingObject(f"{request.shown}: nothing lies there (HTTP {status})")
    if status >= 500 or status in PASSING:
        raise PhotoUnreachable(f"{request.shown}: HTTP {status}")
    raise StoreRefused(f"{request.shown}: HTTP {status}")


def _read(request: _Request, response: httpcore2.Response) -> Answer:
    limit = SizeLimit(request.inputs.max_photo_bytes, "inputs.max_photo_bytes")
    announced = _header(response, b"content-length")
    num_bytes = int(announced) if announced else None
    limit.check(request.uri, num_bytes or 0)
    content = bytearray()
    for chunk in () if request.is_head_enough else response.iter_stream():
        content += chunk
        limit.check(request.uri, len(content))
    is_sure_to_be_whole = bool(announced or _header(response, b"transfer-encoding"))
    version = _header(response, b"etag") or _header(response, b"last-modified") if is_sure_to_be_whole else ""
    return Answer(num_bytes=num_bytes, version=version, content=bytes(content))


def _header(response: httpcore2.Response, name: bytes) -> str:
    return next((value.decode("utf-8", "replace") for key, value in response.headers if key.lower() == name), "")


def _url(uri: str) -> httpcore2.URL:
    place, parts = locate(uri), urlsplit(uri)
    target = uri.partition("#")[0].partition("://")[2].removeprefix(parts.netloc)
    target = quote(target if target.startswith("/") else f"/{target}", safe=AS_WRITTEN)
    return httpcore2.URL(scheme=parts.scheme, host=host_of(place), port=port_of(place), target=target)


def _headers(uri: str) -> list[tuple[bytes, bytes]]:
    place, parts = locate(uri), urlsplit(uri)
    default_port = {"http": ":80", "https": ":443"}[parts.scheme]
    headers = {"Host": place.host.removesuffix(default_port), "Accept": "*/*", "Accept-Encoding": "identity"}
    headers["User-Agent"] = "lynx-batch"
    if (user := _user_of(uri)) is not None:
        headers["Authorization"] = f"Basic {base64.b64encode(b':'.join(user)).decode()}"
    return [(name.encode(), value.encode()) for name, value in headers.items()]


def _connections(request: _Request, here: str) -> httpcore2.ConnectionPool:
    """A pool for one request to `here`, by way of the environment's proxy, if there is one."""
    place = locate(here)
    resolve = partial(_resolve, request, here)
    tls = _tls(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")) if place.scheme == "https" else None
    proxy = getproxies().get(place.scheme)
    if proxy is None or proxy_bypass(place.host):
        return httpcore2.ConnectionPool(ssl_context=tls, network_backend=_Network(request.deadline_s, resolve))
    with suppress(OSError):  # a proxy resolves names itself, and knows some that this machine does not
        resolve(host_of(place), port_of(place))
    address = proxy if "://" in proxy else f"http://{proxy}"
    try:
        there = locate(address)
    except ValueError as rule:
        raise ConfigError(f"{place.scheme}_proxy={redact(address)!r}: {rule}") from None
    if there.scheme not in WEB:
        raise ConfigError(f"{place.scheme}_proxy={redact(address)!r}: must be an http:// or https:// proxy")
    return httpcore2.HTTPProxy(
        f"{there.scheme}://{there.host}",
        proxy_auth=_user_of(address),
        ssl_context=tls,
        network_backend=_Network(request.deadline_s, lambda host, port: [host]),
    )


def _user_of(uri: str) -> tuple[bytes, bytes] | None:
    """Name and password in `uri`, if there is a name."""
    parts = urlsplit(uri)
    if parts.username is None:
        return None
    return unquote(parts.username).encode(), unquote(parts.password or "").encode()


@lru_cache
def _tls(*locations: str | None) -> ssl.SSLContext:
    """OpenSSL looks at `locations`, of the environment, by itself."""
    return ssl.create_default_context()


def _resolve(request: _Request, here: str, host: str, port: int) -> list[str]:
    """The addresses of `host`, which `here` names, all of them checked."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
    if not is_named(here, request.inputs.allow) and any(map(is_inward, addresses)):
        raise InputRefused(f"{request.shown}: {explain_inward(locate(here))}")
    return addresses


class _Network(httpcore2.NetworkBackend):
    """TCP to the addresses that `resolve` gives, none of it beyond a deadline."""

    def __init__(self, deadline_s: float, resolve: Callable[[str, int], Sequence[str]]) -> None:
        self._deadline_s, self._resolve = deadline_s, resolve
        self._tcp = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        failure: Exception = httpcore2.ConnectError(f"{host} has no address")
        for address in self._resolve(host, port):
            left_s = _left_s(self._deadline_s, timeout, httpcore2.ConnectTimeout)
            try:
                stream = self._tcp.connect_tcp(address, port, left_s, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
            else:
                return _Stream(stream, self._deadline_s)
        raise failure


class _Stream(httpcore2.NetworkStream):
    """A connection of which nothing is awaited beyond a deadline."""

    def __init__(self, stream: httpcore2.NetworkStream, deadline_s: float) -> None:
        self._stream, self._deadline_s = stream, deadline_s

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left_s(self._deadline_s, timeout, httpcore2.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left_s(self._deadline_s, timeout, httpcore2.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        left_s = _left_s(self._deadline_s, timeout, httpcore2.ConnectTimeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, left_s), self._deadline_s)

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)


def _left_s(deadline_s: float, timeout: float | None, late: type[httpcore2.TimeoutException]) -> float:
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise late("not within the time for all tries")
    return left_s if timeout is None else min(left_s, timeout)
