"""Servers and ports on this machine, and a small web server that may be slow, silent, endless or cut short."""

import os
import random
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from ssl import SSLContext
from threading import Event, Thread

import pytest


def forget_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """None that this machine's user has set may come in between."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


def free_ports(number: int) -> list[int]:
    """Ports that nobody listens at. The system gives them to nobody who asks for any port, and Ray gives them to no worker."""
    candidates = random.SystemRandom().sample(range(20_000, 32_768), 8 * number)
    return list(islice(filter(_is_free, candidates), number))


def _is_free(port: int) -> bool:
    with socket.socket() as probe, suppress(OSError):
        probe.bind(("127.0.0.1", port))
        return True
    return False


def free_port() -> int:
    (port,) = free_ports(1)
    return port


def can_connect(address: str) -> bool:
    host, _, port = address.partition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler], tls: SSLContext | None = None) -> Iterator[str]:
    """Host and port of a server whose requests `handler` answers."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@dataclass(kw_only=True)
class Page:
    """What lies at a path: `cut_at` so many bytes the connection breaks, `num_cuts` times; `drip_s` lies between two bytes."""

    content: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_at: int | None = None
    num_cuts: int | None = None
    is_length_told: bool = True
    is_endless: bool = False
    drip_s: float = 0.0


@dataclass
class WebServer:
    """`requests` are the request lines that came, as they came, and `headers` those of the last one."""

    url: str = ""
    pages: dict[str, Page] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    is_silent: bool = False
    is_over: Event = field(default_factory=Event)

    def put(self, path: str, content: bytes = b"", **page: object) -> str:
        self.pages[path] = Page(content=content, **page)
        return self.url + path

    @property
    def targets(self) -> list[str]:
        return [line.split(" ")[1] for line in self.requests]


@contextmanager
def serve(tls: SSLContext | None = None) -> Iterator[WebServer]:
    web = WebServer()
    with serving(type("Handler", (_Handler,), {"web": web}), tls) as address:
        web.url = f"{'https' if tls else 'http'}://{address}"
        try:
            yield web
        finally:
            web.is_over.set()


class _Handler(BaseHTTPRequestHandler):
    web: WebServer

    def do_GET(self) -> None:
        self.web.requests.append(self.requestline)
        self.web.headers = dict(self.headers)
        if self.web.is_silent:
            self.web.is_over.wait()
            return
        page = self.web.pages.get(self.path.partition("?")[0], Page(status=404))
        try:
            self._send(page)
        except OSError:
            return  # whoever asked has gone

    def _send(self, page: Page) -> None:
        self.send_response(page.status)
        for name, value in page.headers.items():
            self.send_header(name, value)
        if page.is_length_told:
            self.send_header("Content-Length", str(len(page.content)))
        self.end_headers()
        content = page.content
        if page.cut_at is not None and page.num_cuts != 0:
            page.num_cuts = None if page.num_cuts is None else page.num_cuts - 1
            content = content[: page.cut_at]
        if page.drip_s:
            for byte in content:
                self.wfile.write(bytes([byte]))
                self.web.is_over.wait(page.drip_s)
        self.wfile.write(content)
        while page.is_endless and not self.web.is_over.is_set():
            self.wfile.write(bytes(2**16))

    def log_message(self, format: str, *args: object) -> None:
        """Stays silent."""
