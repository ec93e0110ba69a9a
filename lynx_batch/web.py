"""Fetches a photo from a web server, which may be slow, silent, endless or hostile. No other module fetches photos over HTTP.

We connect to the very address that was checked, and check every redirect like the photo's own URI. A link is sent exactly as
written, because a signature may cover its percent-encoding.
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
RETRYABLE = frozenset({408, 425, 429})
"""Statuses below 500 that a retry may cure."""

CANNOT_CONNECT, NO_ANSWER = "cannot connect", "no answer"
"""Causes that would make the next photo of the same host take just as long."""

PRINTABLE_ASCII = "".join(map(chr, range(0x21, 0x7F)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A web server's response. `num_bytes` is its Content-Length; `version` is empty unless the content is certain to be complete."""

    num_bytes: int | None
    version: str
    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """One fetch: the photo's own URI, whatever it redirects to, and the time by which all tries must end."""

    uri: str
    inputs: InputsConfig
    is_head_only: bool
    deadline_s: float

    @property
    def shown(self) -> str:
        return redact(self.uri)


class _Redirect(Exception):
    """The server redirects to the location `str(self)`."""


def fetch(uri: str, inputs: InputsConfig, *, is_head_only: bool = False) -> Answer:
    """The file at `uri`. With `is_head_only` the headers are read and `content` is empty.

    Raises:
        InputRefused: If `inputs` does not allow the URI, a redirect or an address that its host has, or the content is too large.
        MissingObject, StoreRefused: If the server says so.
        PhotoUnreachable: If all tries failed, within `inputs.longest_s`.
    """
    request = _Request(
        uri=uri, inputs=inputs, is_head_only=is_head_only, deadline_s=time.monotonic() + inputs.longest_s
    )
    retrying = Retrying(
        retry=retry_if_exception_type(PhotoUnreachable),
        wait=wait_exponential_jitter(multiplier=0.2, max=2),
        stop=stop_after_attempt(inputs.max_tries) | stop_before_delay(inputs.longest_s),
        reraise=True,
    )
    return retrying(_follow, request)


def _follow(request: _Request) -> Answer:
    url = request.uri
    for _ in range(MAX_REDIRECTS + 1):
        if (rule := explain_photo(url, request.inputs.allow)) is not None:
            redirect = "" if url == request.uri else f", which redirects to {redact(url)}"
            raise InputRefused(f"{request.shown}{redirect}: {rule}")
        try:
            return _get(request, url)
        except _Redirect as target:
            url = _redirected(request, url, str(target))
    raise StoreRefused(f"{request.shown}: redirects more than {MAX_REDIRECTS} times")


def _redirected(request: _Request, url: str, location: str) -> str:
    """The absolute URL of `location`, sent by `url`. Only http and https: a server must not make us read a file or a store."""
    try:
        scheme, _, rest = urljoin(url, location).partition(":")
    except ValueError:
        raise StoreRefused(f"{request.shown}: redirects to a malformed URL") from None
    if scheme.lower() not in WEB:
        raise InputRefused(
            f"{request.shown}, which redirects to {scheme!r}: a redirect must lead to http:// or https://"
        )
    return f"{scheme.lower()}:{rest}"


def _get(request: _Request, url: str) -> Answer:
    """One GET of `url`, the photo's own URI or a redirect."""
    timeout = {"connect": request.inputs.connect_timeout_s}
    timeout |= dict.fromkeys(("read", "write", "pool"), request.inputs.read_timeout_s)
    try:
        with (
            _connection_pool(request, url) as pool,
            pool.stream("GET", _parse(url), headers=_headers(url), extensions={"timeout": timeout}) as response,
        ):
            _check_status(request, response)
            return _read(request, response)
    except (httpcore2.ConnectError, httpcore2.ConnectTimeout, socket.gaierror) as error:
        raise _unreachable(request, url, CANNOT_CONNECT, error) from None
    except httpcore2.TimeoutException as error:
        raise _unreachable(request, url, NO_ANSWER, error) from None
    except (httpcore2.NetworkError, httpcore2.RemoteProtocolError, httpcore2.ProxyError) as error:
        raise _unreachable(request, url, "broken answer", error) from None


def _unreachable(request: _Request, url: str, cause: str, error: Exception) -> PhotoUnreachable:
    detail = scrub(scrub(str(error), request.uri), url)
    return PhotoUnreachable(f"{request.shown}: {cause}: {detail or type(error).__name__}")


def _check_status(request: _Request, response: httpcore2.Response) -> None:
    """Raises the matching error for any status but 200."""
    status, location = response.status, _header(response, b"location")
    if status == 200:
        return
    if status in REDIRECTS and location:
        raise _Redirect(location)
    if status in GONE:
        raise MissingObject(f"{request.shown}: does not exist (HTTP {status})")
    if status >= 500 or status in RETRYABLE:
        raise PhotoUnreachable(f"{request.shown}: HTTP {status}")
    raise StoreRefused(f"{request.shown}: HTTP {status}")


def _read(request: _Request, response: httpcore2.Response) -> Answer:
    limit = SizeLimit(request.inputs.max_photo_bytes, "inputs.max_photo_bytes")
    content_length = _header(response, b"content-length")
    num_bytes = int(content_length) if content_length else None
    limit.check(request.uri, num_bytes or 0)
    content = bytearray()
    for chunk in () if request.is_head_only else response.iter_stream():
        content += chunk
        limit.check(request.uri, len(content))
    is_end_known = bool(content_length or _header(response, b"transfer-encoding"))
    version = _header(response, b"etag") or _header(response, b"last-modified") if is_end_known else ""
    return Answer(num_bytes=num_bytes, version=version, content=bytes(content))


def _header(response: httpcore2.Response, name: bytes) -> str:
    return next((value.decode("utf-8", "replace") for key, value in response.headers if key.lower() == name), "")


def _parse(uri: str) -> httpcore2.URL:
    place, parts = locate(uri), urlsplit(uri)
    target = uri.partition("#")[0].partition("://")[2].removeprefix(parts.netloc)
    target = quote(target if target.startswith("/") else f"/{target}", safe=PRINTABLE_ASCII)
    return httpcore2.URL(scheme=parts.scheme, host=host_of(place), port=port_of(place), target=target)


def _headers(uri: str) -> list[tuple[bytes, bytes]]:
    place, parts = locate(uri), urlsplit(uri)
    default_port = {"http": ":80", "https": ":443"}[parts.scheme]
    headers = {"Host": place.host.removesuffix(default_port), "Accept": "*/*", "Accept-Encoding": "identity"}
    headers["User-Agent"] = "lynx-batch"
    if (user := _user_of(uri)) is not None:
        headers["Authorization"] = f"Basic {base64.b64encode(b':'.join(user)).decode()}"
    return [(name.encode(), value.encode()) for name, value in headers.items()]


def _connection_pool(request: _Request, url: str) -> httpcore2.ConnectionPool:
    """A pool for one request to `url`, through the environment's proxy if it sets one."""
    place = locate(url)
    resolve = partial(_resolve, request, url)
    tls = _tls(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")) if place.scheme == "https" else None
    proxy = getproxies().get(place.scheme)
    if proxy is None or proxy_bypass(place.host):
        return httpcore2.ConnectionPool(ssl_context=tls, network_backend=_Network(request.deadline_s, resolve))
    with suppress(OSError):  # the proxy resolves names itself, including some that this machine cannot resolve
        resolve(host_of(place), port_of(place))
    address = proxy if "://" in proxy else f"http://{proxy}"
    try:
        proxy_place = locate(address)
    except ValueError as rule:
        raise ConfigError(f"{place.scheme}_proxy={redact(address)!r}: {rule}") from None
    if proxy_place.scheme not in WEB:
        raise ConfigError(f"{place.scheme}_proxy={redact(address)!r}: must be an http:// or https:// proxy")
    return httpcore2.HTTPProxy(
        f"{proxy_place.scheme}://{proxy_place.host}",
        proxy_auth=_user_of(address),
        ssl_context=tls,
        network_backend=_Network(request.deadline_s, lambda host, port: [host]),
    )


def _user_of(uri: str) -> tuple[bytes, bytes] | None:
    """The user name and password in `uri`, if it has a user name."""
    parts = urlsplit(uri)
    if parts.username is None:
        return None
    return unquote(parts.username).encode(), unquote(parts.password or "").encode()


@lru_cache
def _tls(*locations: str | None) -> ssl.SSLContext:
    """OpenSSL reads SSL_CERT_FILE and SSL_CERT_DIR by itself; they are arguments so that each pair of values gets its own context."""
    return ssl.create_default_context()


def _resolve(request: _Request, url: str, host: str, port: int) -> list[str]:
    """All addresses of `host`, the host of `url`.

    Raises:
        InputRefused: If one is loopback or link-local, and `inputs.allow` does not name the host.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
    if not is_named(url, request.inputs.allow) and any(map(is_inward, addresses)):
        raise InputRefused(f"{request.shown}: {explain_inward(locate(url))}")
    return addresses


class _Network(httpcore2.NetworkBackend):
    """TCP connections to the addresses that `resolve` returns, all within one deadline."""

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
    """A connection whose every read and write ends by the deadline."""

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


def _left_s(deadline_s: float, timeout: float | None, error: type[httpcore2.TimeoutException]) -> float:
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise error("the time for all tries is over")
    return left_s if timeout is None else min(left_s, timeout)
