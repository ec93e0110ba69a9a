"""Notices about a run, delivered to real servers on this machine: signed, retried, and never in the way of the run."""

import base64
import hashlib
import hmac
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Event as Flag
from typing import Any

import httpx2  # noqa: F401  loaded before anything is timed
import pytest
from structlog.testing import capture_logs

from lynx_batch.config import NotifyConfig, parse_run_config
from lynx_batch.config.references import mask_address
from lynx_batch.errors import ConfigError
from lynx_batch.execution.run import _without_secrets
from lynx_batch.notices import notifier
from lynx_batch.notices.channels import sign
from lynx_batch.notices.due import Due
from lynx_batch.notices.notice import Event, Notice
from lynx_batch.notices.notifier import Notifier, open_targets
from lynx_batch.planning.budget import Spending
from lynx_model.errors import MissingFile
from tests.builders import NOW, tiny_run
from tests.jobs import wait_until
from tests.web import forget_proxies, free_port, serving

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@dataclass
class Receiver:
    """A server that keeps what was posted to it and answers with `statuses`, the last one again and again."""

    url: str = ""
    posts: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    statuses: list[int] = field(default_factory=lambda: [204])
    is_silent: bool = False
    is_over: Flag = field(default_factory=Flag)

    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.posts]


class _Handler(BaseHTTPRequestHandler):
    receiver: Receiver

    def do_POST(self) -> None:
        receiver = self.receiver
        body = self.rfile.read(int(self.headers["Content-Length"]))
        receiver.posts.append(({name.lower(): value for name, value in self.headers.items()}, body))
        if receiver.is_silent:
            receiver.is_over.wait()
            return
        self.send_response(receiver.statuses.pop(0) if len(receiver.statuses) > 1 else receiver.statuses[0])
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Stays silent."""


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    forget_proxies(monkeypatch)
    monkeypatch.setattr(notifier, "PAUSES_S", (0.01, 0.01))
    found = Receiver()
    with serving(type("Handler", (_Handler,), {"receiver": found})) as address:
        found.url = f"http://{address}/hook?token=geheim"
        try:
            yield found
        finally:
            found.is_over.set()


def notice(event: Event = Event.PROGRESS, stopped_by: str = "") -> Notice:
    return Notice(
        event=event,
        at=NOW,
        run_id="r1",
        output="s3://bucket/out",
        num_rows=10,
        counts={"rendered": 6, "failed": 1},
        reasons={"OutOfMemory": 1},
        spending=Spending(gpu_hours=1.5, usd=3.75, limit_name="nightly", used_share=0.4),
        stopped_by=stopped_by,
        report="s3://bucket/out/report/run=r1/index.html",
    )


def tell(*targets: NotifyConfig, shares: tuple[float, ...] = (), stopped_by: str = "") -> None:
    """A whole run, as its targets are told about it."""
    notifier = Notifier(open_targets(targets), notice)
    notifier.start(0.0)
    for share in shares:
        notifier.progress(share)
    notifier.end(stopped_by)


def test_a_webhook_gets_what_a_run_comes_to_at_each_event(receiver: Receiver) -> None:
    tell(NotifyConfig(url=receiver.url, every_percent=25), shares=(0.1, 0.3, 0.4, 0.9, 1.0))
    bodies = receiver.bodies()
    assert [body["event"] for body in bodies] == ["start", "progress", "progress", "end"]
    assert bodies[1] == {
        "schema_version": 1,
        "event": "progress",
        "at": "2026-11-21T08:00:00+00:00",
        "run_id": "r1",
        "output": "s3://bucket/out",
        "num_rows": 10,
        "num_left": 3,
        "counts": {"rendered": 6, "failed": 1},
        "reasons": {"OutOfMemory": 1},
        "spending": {
            "gpu_hours": 1.5,
            "usd": 3.75,
            "limit_name": "nightly",
            "total_gpu_hours": None,
            "total_usd": None,
            "max_gpu_hours": None,
            "max_usd": None,
            "used_share": 0.4,
        },
        "stopped_by": "",
        "report": "s3://bucket/out/report/run=r1/index.html",
        "text": "10 rows: 6 rendered, 1 failed, 3 left\nreasons: 1 OutOfMemory\n"
        "spent: 1.50 GPU-hours, 3.75 USD; 40% of 'nightly' is used\nreport: s3://bucket/out/report/run=r1/index.html",
    }


def test_only_the_chosen_events_are_told_and_a_stop_is_no_end(receiver: Receiver) -> None:
    tell(NotifyConfig(url=receiver.url, events=("stop", "end")), shares=(0.5,), stopped_by="interrupted")
    (body,) = receiver.bodies()
    assert (body["event"], body["stopped_by"]) == ("stop", "interrupted")


def test_the_signature_is_that_of_the_specification() -> None:
    """The example in the documentation of Standard Webhooks."""
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    signature = sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("secret", [SECRET, "any text"])
def test_a_webhook_is_signed_with_a_secret_from_a_file_or_the_environment(
    receiver: Receiver, secret: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text(f"{secret}\n")
    monkeypatch.setenv("HOOK_SECRET", secret)
    for reference in (str(tmp_path / "secret"), "env:HOOK_SECRET"):
        tell(NotifyConfig(url=receiver.url, events=("end",), secret=reference))
    key = base64.b64decode(secret[6:]) if secret.startswith("whsec_") else secret.encode()
    assert len(receiver.posts) == 2
    for headers, body in receiver.posts:
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        digest = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        assert headers["webhook-signature"] == f"v1,{digest}"
        assert abs(int(headers["webhook-timestamp"]) - time.time()) < 600


def test_a_notice_is_tried_again_under_the_same_id(receiver: Receiver) -> None:
    receiver.statuses = [500, 503, 204]
    with capture_logs() as logs:
        tell(NotifyConfig(url=receiver.url, events=("end",)))
    assert len({headers["webhook-id"] for headers, _ in receiver.posts}) == 1
    assert len(receiver.posts) == 3
    assert logs == []


@pytest.mark.parametrize("status", [302, 404, 500])
def test_a_webhook_that_refuses_is_given_up_and_a_redirect_is_not_followed(receiver: Receiver, status: int) -> None:
    receiver.statuses = [status]
    with capture_logs() as logs:
        tell(NotifyConfig(url=receiver.url, events=("end",)))
    assert len(receiver.posts) == 3
    assert f"status {status}" in str(logs)
    assert "geheim" not in str(logs)


def test_the_last_notice_comes_before_others_where_a_try_has_failed(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.statuses = [500, 204]
    monkeypatch.setattr(notifier, "PAUSES_S", (0.5, 0.5))
    with capture_logs() as logs:
        tell(NotifyConfig(url=receiver.url, every_percent=25), shares=(0.3, 0.6))
    assert [body["event"] for body in receiver.bodies()] == ["start", "end"]
    assert [event["notice"] for event in logs] == ["start", "progress", "progress"]


def test_a_dead_webhook_delays_nothing_and_the_other_targets_are_told(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifier, "LAST_WORD_S", 1.0)
    silent = Receiver(is_silent=True)
    with serving(type("Handler", (_Handler,), {"receiver": silent})) as address:
        gone = NotifyConfig(url=f"http://127.0.0.1:{free_port()}/geheim")
        quiet = NotifyConfig(url=f"http://{address}/geheim", every_percent=1)
        began_s = time.monotonic()
        with capture_logs() as logs:
            tell(gone, quiet, NotifyConfig(url=receiver.url), shares=tuple(share / 200 for share in range(200)))
        assert time.monotonic() - began_s < notifier.LAST_WORD_S + 5
        silent.is_over.set()
    wait_until(lambda: len(receiver.posts) == 2)
    assert [body["event"] for body in receiver.bodies()] == ["start", "end"]
    assert "notices_unsent" in str(logs)
    assert "geheim" not in str(logs)


def test_a_service_of_apprise_gets_a_title_and_a_text(receiver: Receiver) -> None:
    tell(NotifyConfig(url=receiver.url.replace("http://", "json://"), events=("stop",)), stopped_by="a limit")
    (body,) = receiver.bodies()
    assert body["title"] == "lynx-batch: run r1 stopped"
    assert "stopped: a limit" in body["message"]


def test_without_apprise_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    # The package is installed here, so only its absence is simulated.
    monkeypatch.setattr("lynx_batch.notices.channels.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"notify.0.url: slack://\*\*\* needs .*pip install 'lynx-batch\[notify\]'"):
        open_targets([NotifyConfig(url="slack://geheim/b/c")])


def test_apprise_is_loaded_only_for_targets_that_need_it(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)  # importing it would fail
    tell(NotifyConfig(url=receiver.url, events=("end",)))
    assert len(receiver.posts) == 1


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"url": "nosuchservice://geheim"}, "notify.0.url: nosuchservice://*** is no address that apprise"),
        ({"url": "env:HOOK_URL"}, "notify.0.url='env:HOOK_URL': its content must be a URL"),
        ({"url": "json://localhost", "secret": "env:EMPTY"}, "notify.0.secret: only a webhook"),
        ({"url": "https://host/x", "secret": "env:BAD"}, "what follows whsec_ must be base64"),
    ],
)
def test_a_target_that_cannot_be_told_is_an_error_before_the_run(
    target: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK_URL", "geheim")
    monkeypatch.setenv("BAD", "whsec_geheim!")
    with pytest.raises(ConfigError) as caught:
        open_targets([NotifyConfig.model_validate(target)])
    assert message in str(caught.value)
    assert "geheim" not in str(caught.value)


def test_a_variable_or_file_that_is_missing_is_named() -> None:
    for target in ({"url": "env:NO_SUCH_VARIABLE"}, {"url": "https://host", "secret": "/no/such/file"}):
        with pytest.raises(MissingFile, match=r"notify\.0"):
            open_targets([NotifyConfig.model_validate(target)])


@pytest.mark.parametrize(
    "target",
    [
        {"url": "geheim"},
        {"url": "http://geheim geheim/x"},
        {"url": "https://geheim:x/"},
        {"url": "slack://geheim", "secret": "geheim\nsecret"},
        {"url": "https://host/x", "secret": "whsec_geheim"},
        {"url": "slack://geheim", "events": ["geheim"]},
        {"url": "https://geheim", "events": []},
    ],
)
def test_a_run_file_with_a_bad_target_is_refused_without_repeating_it(target: dict[str, object]) -> None:
    content = tiny_run(Path("/faces"), manifest="/m.parquet", output="/out", notify=[target])
    with pytest.raises(ConfigError, match=r"notify\.0[.:]") as caught:
        parse_run_config(content, source="run file")
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://user:pw@hooks.example.com:8443/services/T0/B0?x=y", "https://hooks.example.com:8443/***"),
        ("slack://TokenA/TokenB", "slack://***"),
        ("mailto://user:pw@example.com", "mailto://***"),
        ("env:HOOK_URL", "env:HOOK_URL"),
    ],
)
def test_an_address_is_shown_without_its_secrets(address: str, shown: str) -> None:
    assert mask_address(address) == shown
    assert NotifyConfig(url=shown).url == shown, "a run record is a valid run file"


@pytest.mark.parametrize(
    ("every", "told"),
    [
        ({"every_percent": 10, "every_hours": None}, [0.3, 0.55, 0.9]),
        ({"every_percent": None, "every_hours": 2}, [0.3, 0.9]),
        ({"every_percent": 50, "every_hours": 2}, [0.3, 0.55, 0.9]),
        ({"every_percent": None, "every_hours": None}, []),
    ],
)
def test_progress_is_due_after_so_much_of_the_rows_or_so_many_hours(
    every: dict[str, float | None], told: list[float]
) -> None:
    due = Due(**every, share=0.29, now_s=0)
    hours: Callable[[float], float] = {0.295: 1, 0.3: 2, 0.31: 2.1, 0.55: 3.9, 0.59: 3.95, 0.9: 4, 1.0: 4.1}.__getitem__
    found = [share for share in (0.295, 0.3, 0.31, 0.55, 0.59, 0.9, 1.0) if due.is_due(share, 3600 * hours(share))]
    assert found == told


def test_a_run_record_shows_no_signature_of_the_address_of_a_secret() -> None:
    target = {"url": "https://host/hook/geheim", "secret": "https://user:geheim@host/key.txt?X-Amz-Signature=geheim"}
    content = tiny_run(Path("/faces"), manifest="/m.parquet", output="/out", notify=[target])
    kept = _without_secrets(parse_run_config(content, source="run file"))
    assert (kept.notify[0].url, kept.notify[0].secret) == ("https://host/***", "https://host/key.txt")
