"""Photos from real web servers on this machine, which misbehave."""

import ipaddress
import socket
import ssl
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lynx_batch.config import InputsConfig
from lynx_batch.errors import ConfigError, InputRefused, LynxError, MissingObject, PhotoUnreachable, StoreRefused
from lynx_batch.photo_places import ANYWHERE
from lynx_batch.web import fetch
from tests.web import WebServer, forget_proxies, serve

BOUND_S = 8
"""More than any of these may take, on a machine that is busy."""


@pytest.fixture
def server() -> Iterator[WebServer]:
    with serve() as web:
        yield web


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_proxies(monkeypatch)


def inputs(*places: WebServer | str, **changes: object) -> InputsConfig:
    allow = [place if isinstance(place, str) else place.url for place in places]
    return InputsConfig(**{"allow": allow, "max_tries": 2, "connect_timeout_s": 5, "read_timeout_s": 5, **changes})


def test_a_photo_comes_as_it_is(server: WebServer) -> None:
    uri = server.put("/a.jpg", b"photo", headers={"ETag": '"1"'})
    answer = fetch(uri, inputs(server))
    assert (answer.content, answer.num_bytes, answer.version) == (b"photo", 5, '"1"')
    assert fetch(uri, inputs(server), is_head_only=True).content == b""


@pytest.mark.parametrize(
    "target",
    ["/a%2fb%7E.jpg?sig=a%2B/b+c%3d==&x", "/a//b/./c.jpg", "/~'()!*,;:@$&=.jpg", "/a.jpg?", '/%e4%b8%ad?q=%zz|{}^`"<>'],
)
def test_a_link_is_sent_as_it_is_written(server: WebServer, target: str) -> None:
    with pytest.raises(MissingObject):
        fetch(f"{server.url}{target}#fragment", inputs(server))
    assert server.targets == [target]


def test_what_may_not_be_in_a_request_is_percent_encoded(server: WebServer) -> None:
    with pytest.raises(MissingObject):
        fetch(f"{server.url}/中 b.jpg", inputs(server))
    assert server.targets == ["/%E4%B8%AD%20b.jpg"]


def test_a_user_in_a_link_is_told_to_its_server_and_to_no_other(server: WebServer) -> None:
    with serve() as other:
        other.put("/a.jpg", b"photo")
        server.put("/a.jpg", status=302, headers={"Location": f"{other.url}/a.jpg"})
        uri = server.url.replace("://", "://me:p%40ss@") + "/a.jpg"
        assert fetch(uri, inputs(server, other)).content == b"photo"
        assert server.headers["Authorization"] == "Basic bWU6cEBzcw=="
        assert "Authorization" not in other.headers
        assert server.headers["Host"] == server.url.removeprefix("http://")


@pytest.mark.parametrize(
    ("status", "kind", "num_requests"),
    [
        (404, MissingObject, 1),
        (410, MissingObject, 1),
        (401, StoreRefused, 1),
        (403, StoreRefused, 1),
        (204, StoreRefused, 1),
        (304, StoreRefused, 1),
        (408, PhotoUnreachable, 2),
        (429, PhotoUnreachable, 2),
        (500, PhotoUnreachable, 2),
        (503, PhotoUnreachable, 2),
    ],
)
def test_a_status_tells_whether_another_try_may_help(
    server: WebServer, status: int, kind: type[LynxError], num_requests: int
) -> None:
    uri = server.put("/a.jpg", status=status)
    with pytest.raises(kind, match=f"HTTP {status}"):
        fetch(uri, inputs(server))
    assert len(server.requests) == num_requests


def test_redirects_are_followed_and_a_circle_of_them_is_left(server: WebServer) -> None:
    server.put("/c.jpg", b"photo")
    server.put("/folder/b.jpg", status=307, headers={"Location": "../c.jpg"})
    uri = server.put("/a.jpg", status=301, headers={"Location": "/folder/b.jpg?x=%2f"})
    assert fetch(uri, inputs(server)).content == b"photo"
    assert server.targets == ["/a.jpg", "/folder/b.jpg?x=%2f", "/c.jpg"]
    circle = server.put("/circle.jpg", status=302, headers={"Location": "/circle.jpg"})
    with pytest.raises(StoreRefused, match="redirects more than 10 times"):
        fetch(circle, inputs(server))


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/iam?sig=secret",
        "http://user:secret@localhost:1/a.jpg",
        "http://[::1]/a.jpg",
        "file:///etc/passwd",
        "file:///9/x",
        "file:///C:/x",
        "file:x",
        "s3://bucket/secret",
        "data:image/png;base64,secret",
        "mailto:secret@x",
        "ftp://host/a.jpg",
        "local:///etc/passwd",
        "http://[::1",
        "http://ho st/",
    ],
)
def test_a_redirect_leads_only_where_photos_may_lie(server: WebServer, location: str) -> None:
    uri = server.put("/a.jpg", status=302, headers={"Location": location})
    with pytest.raises((InputRefused, StoreRefused), match="redirects to") as caught:
        fetch(uri, inputs(server, *ANYWHERE))
    assert "secret" not in str(caught.value)
    assert len(server.requests) == 1


def test_a_redirect_may_spell_its_scheme_in_capitals(server: WebServer) -> None:
    server.put("/b.jpg", b"photo")
    uri = server.put("/a.jpg", status=302, headers={"Location": server.url.replace("http", "HTTP") + "/b.jpg"})
    assert fetch(uri, inputs(server)).content == b"photo"


def test_a_redirect_leaves_no_place_that_is_narrow(server: WebServer) -> None:
    uri = server.put("/faces/a.jpg", status=302, headers={"Location": "/other/a.jpg"})
    with pytest.raises(
        InputRefused, match=r"which redirects to .*must be in or below one of the places in inputs\.allow"
    ):
        fetch(uri, inputs(f"{server.url}/faces/"))


class Names:
    """A name server in place of the system's, as this machine may have none: each question takes the next answer."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers, self.num_asked = list(answers), 0
        self._system = socket.getaddrinfo

    def __call__(self, host: str, port: Any, *args: Any, **options: Any) -> Any:
        if host != "photos.example" or options.get("flags"):
            return self._system(host, port, *args, **options)
        addresses = self.answers[min(self.num_asked, len(self.answers) - 1)]
        self.num_asked += 1
        return [found for address in addresses for found in self._system(address, port, *args, **options)]


@pytest.mark.parametrize(
    "addresses", [["127.0.0.1"], ["::1"], ["8.8.8.8", "127.0.0.1"], ["169.254.169.254"], ["0.0.0.0"]]
)
def test_a_name_of_an_inward_address_is_refused(monkeypatch: pytest.MonkeyPatch, addresses: list[str]) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", Names(addresses))
    with pytest.raises(InputRefused, match="loopback or link-local"):
        fetch("http://photos.example:1/a.jpg", inputs("http://"))


def test_what_is_connected_to_is_what_was_checked(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    port = server.url.rpartition(":")[2]
    names = Names(["192.0.2.1"], ["127.0.0.1"])
    monkeypatch.setattr(socket, "getaddrinfo", names)
    with pytest.raises((PhotoUnreachable, InputRefused)):
        fetch(f"http://photos.example:{port}/a.jpg", inputs("http://", max_tries=1, connect_timeout_s=0.2))
    assert names.num_asked == 1
    assert server.requests == []


def test_a_name_that_is_allowed_may_have_any_address(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.put("/a.jpg", b"photo")
    monkeypatch.setattr(socket, "getaddrinfo", Names(["::1", "127.0.0.1"]))
    host = server.url.replace("127.0.0.1", "photos.example")
    assert fetch(f"{host}/a.jpg", inputs(host)).content == b"photo"
    assert server.headers["Host"] == host.removeprefix("http://")


def test_nothing_larger_than_allowed_is_read(server: WebServer) -> None:
    large = server.put("/large.jpg", bytes(1001))
    endless = server.put("/endless.jpg", is_endless=True, is_length_told=False)
    fitting = server.put("/fitting.jpg", bytes(1000))
    for uri in (large, endless):
        with pytest.raises(InputRefused, match=r"must have at most 1,000 bytes \(inputs\.max_photo_bytes\)"):
            fetch(uri, inputs(server, max_photo_bytes=1000))
    assert len(fetch(fitting, inputs(server, max_photo_bytes=1000)).content) == 1000


def test_a_body_that_is_cut_short_is_asked_for_again(server: WebServer) -> None:
    uri = server.put("/a.jpg", b"0123456789", cut_at=5, num_cuts=1)
    assert fetch(uri, inputs(server)).content == b"0123456789"
    uri = server.put("/b.jpg", b"0123456789", cut_at=5)
    with pytest.raises(PhotoUnreachable, match="broken answer"):
        fetch(uri, inputs(server))


def test_a_server_that_never_answers_is_waited_for_within_a_bound(server: WebServer) -> None:
    server.is_silent, start_s = True, time.monotonic()
    with pytest.raises(PhotoUnreachable, match="no answer"):
        fetch(f"{server.url}/a.jpg", inputs(server, read_timeout_s=0.2))
    assert len(server.requests) == 2
    assert time.monotonic() - start_s < BOUND_S


def test_a_server_that_drips_is_waited_for_within_a_bound(server: WebServer) -> None:
    uri, start_s = server.put("/a.jpg", bytes(10_000), drip_s=0.05), time.monotonic()
    with pytest.raises(PhotoUnreachable, match="no answer"):
        fetch(uri, inputs(server, connect_timeout_s=0.3, read_timeout_s=0.2))
    assert time.monotonic() - start_s < BOUND_S


def test_headers_that_drip_are_waited_for_within_a_bound() -> None:
    def drip() -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            for _ in range(1000):
                connection.sendall(b"H")
                is_over.wait(0.05)

    is_over, start_s = Event(), time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        dripping = Thread(target=drip)
        dripping.start()
        host = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(PhotoUnreachable):
            fetch(f"{host}/a.jpg", inputs(host, max_tries=1, connect_timeout_s=0.5, read_timeout_s=0.5))
        is_over.set()
        dripping.join()
    assert time.monotonic() - start_s < BOUND_S


@pytest.mark.parametrize("answer", [b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", b""])
def test_what_is_no_http_is_a_broken_answer(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def speak() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(answer)

        speaking = Thread(target=speak)
        speaking.start()
        host = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(PhotoUnreachable, match="broken answer"):
            fetch(f"{host}/a.jpg", inputs(host, max_tries=1))
        speaking.join()


def test_the_environments_proxy_is_asked_and_what_it_leaves_out_is_not(
    server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.replace("://", "://me:p%40ss@"))
        with pytest.raises(MissingObject):
            fetch("http://photos.invalid/a%2fb.jpg?sig=%7E", inputs("http://"))
        assert proxy.targets == ["http://photos.invalid:80/a%2fb.jpg?sig=%7E"]
        assert proxy.headers["Proxy-Authorization"] == "Basic bWU6cEBzcw=="
        assert proxy.headers["Host"] == "photos.invalid"
        with pytest.raises(InputRefused, match="loopback"):
            fetch("http://127.1/a.jpg", inputs("http://"))
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with pytest.raises(MissingObject):
            fetch(f"{server.url}/a.jpg", inputs(server))
    assert (len(proxy.requests), len(server.requests)) == (1, 1)


@pytest.mark.parametrize("proxy", ["socks5://me:hunter2@host", "http://me:hunter2@host:port", "http://[::1"])
def test_a_proxy_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(ConfigError, match="http_proxy=") as caught:
        fetch("http://192.0.2.1/a.jpg", inputs("http://"))
    assert "hunter2" not in str(caught.value)


def write_certificate(file: Path) -> None:
    """A certificate of 127.0.0.1 and its key, signed by itself."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(certificate.public_bytes(encoding) + private)


def test_a_server_must_show_a_certificate_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_certificate(tmp_path / "server.pem")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "server.pem")
    with serve(tls) as server:
        uri = server.put("/a.jpg", b"photo")
        with pytest.raises(PhotoUnreachable, match="certificate"):
            fetch(uri, inputs(server, max_tries=1))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "server.pem"))
        assert fetch(uri, inputs(server)).content == b"photo"
        with pytest.raises(PhotoUnreachable, match="certificate"):
            fetch(uri.replace("127.0.0.1", "localhost"), inputs(server.url.replace("127.0.0.1", "localhost")))


def test_no_secret_of_a_link_is_told(server: WebServer) -> None:
    server.put("/a.jpg", status=500)
    uri = server.url.replace("://", "://me:hunter2@") + "/a.jpg?sig=hunter2#hunter2"
    with pytest.raises(PhotoUnreachable) as caught:
        fetch(uri, inputs(server))
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
