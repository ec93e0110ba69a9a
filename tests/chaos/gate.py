"""A reverse proxy in front of an S3 server: where faults wait for their moment, and puts of commits are counted."""

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from enum import Enum
from http.client import HTTPConnection, HTTPException, HTTPResponse
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

from tests.web import serving

HOP_BY_HOP = {"connection", "content-length", "date", "expect", "server", "transfer-encoding"}
VIDEO = r"/clips/.*\.mp4"
COMMIT = r"/commits/../\w+(\.e\d+)?\.json"
TRY = r"/tries/../\w+/e\d+-t\d+\.json"


class Moment(Enum):
    """Before the server hears of a request, or between its answer and the client's hearing of that."""

    BEFORE = "before"
    AFTER = "after"


class Silence(Exception):
    """The client gets no answer: its connection ends."""


@dataclass(frozen=True, kw_only=True)
class Trap:
    moment: Moment
    path: str
    spring: Callable[[], None]


@dataclass
class Gate:
    """`num_commits` counts, for each commit's path, the puts that the server said yes to."""

    server_url: str
    num_commits: Counter[str] = field(default_factory=Counter)
    refuses_until_s: float = 0.0
    _cuts: list[str] = field(default_factory=list)
    _traps: list[Trap] = field(default_factory=list)
    _errors: list[Exception] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def at(self, moment: Moment, path: str, spring: Callable[[], None]) -> None:
        """Calls `spring` at the first put to a path with that pattern; the request waits for its end."""
        self._traps.append(Trap(moment=moment, path=path, spring=spring))

    def check(self) -> None:
        """Raises what a fault failed with; AssertionError if the moment that one waits for never came."""
        for error in self._errors:
            raise error
        assert not self._traps + self._cuts, f"never came: {self._traps} {self._cuts}"

    def cut(self, path: str) -> None:
        """Lets the connection end in the middle of the first answer with the content of a path with that pattern."""
        self._cuts.append(path)

    def is_cut(self, method: str, path: str) -> bool:
        with self._lock:
            pattern = next((p for p in self._cuts if method == "GET" and re.search(p, path)), None)
            if pattern:
                self._cuts.remove(pattern)
        return pattern is not None

    def disarm(self) -> None:
        self._traps.clear()
        self._cuts.clear()
        self._errors.clear()

    def refuse(self, seconds: float) -> None:
        """Answers every request with 503 for a while."""
        self.refuses_until_s = time.monotonic() + seconds

    def meet(self, moment: Moment, method: str, path: str) -> None:
        with self._lock:
            trap = next(
                (t for t in self._traps if method == "PUT" and t.moment is moment and re.search(t.path, path)), None
            )
            if trap:
                self._traps.remove(trap)
        if trap:
            self._spring(trap)

    def _spring(self, trap: Trap) -> None:
        """Keeps an error for `check`: the server's thread would swallow it."""
        try:
            trap.spring()
        except Silence:
            raise
        except Exception as error:
            self._errors.append(error)
            raise Silence from error

    def forward(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[HTTPResponse, bytes]:
        with closing(HTTPConnection(urlsplit(self.server_url).netloc, timeout=60)) as connection:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            content = response.read()
        if method == "PUT" and response.status == 200 and re.search(COMMIT, path):
            self.num_commits[path] += 1
        return response, content


class _Handler(BaseHTTPRequestHandler):
    gate: Gate
    protocol_version = "HTTP/1.1"

    def handle_request(self) -> None:
        try:
            self._pass_on(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        except (Silence, OSError, HTTPException):
            self.close_connection = True

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_request  # noqa: N815

    def _pass_on(self, body: bytes) -> None:
        if time.monotonic() < self.gate.refuses_until_s:
            self._answer(503, {}, b"")
            return
        self.gate.meet(Moment.BEFORE, self.command, self.path)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
        response, content = self.gate.forward(self.command, self.path, headers, body)
        self.gate.meet(Moment.AFTER, self.command, self.path)
        self._answer(response.status, dict(response.getheaders()), content)

    def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(content))
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if status < 300 and self.gate.is_cut(self.command, self.path):
            self.wfile.write(content[: len(content) // 2])
            raise Silence
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Stays silent."""


@contextmanager
def opened(gate: Gate) -> Iterator[str]:
    """The URL of the gate."""
    with serving(type("Handler", (_Handler,), {"gate": gate})) as address:
        yield f"http://{address}"
