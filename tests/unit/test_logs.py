"""The logs of a run: what each process uploads, what is kept while the store is away, and how all of it is read."""

import gzip
import json
import logging
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
import structlog

from lynx_batch import storage
from lynx_batch.errors import StoreRefused
from lynx_batch.execution.last_lines import last_lines_of
from lynx_batch.ledger import logs
from lynx_batch.ledger.heartbeat import Heartbeat
from lynx_batch.ledger.logs import LogUploader, as_records, list_log_parts, read_log_parts, uploading, write_last_lines
from lynx_batch.ledger.runs import RunEnd, write_run_end
from lynx_batch.output import RUN_HEARTBEAT, LogPartName, log_part_uri, parse_log_part, parse_run_file, run_file_uri
from lynx_batch.telemetry import bound, configure_logging, describe_process
from tests.builders import NOW, make_older, start_run
from tests.jobs import invoke

log = structlog.get_logger()


@pytest.fixture
def output(tmp_path: Path) -> str:
    output = str(tmp_path / "out")
    start_run(output, "run")
    return output


@pytest.fixture
def _configured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("lynx_batch.telemetry._process_fields", {})
    configure_logging()
    yield
    structlog.reset_defaults()


def line(second: int, event: str, **fields: object) -> str:
    return json.dumps({"event": event, "timestamp": f"2026-11-27T10:00:{second:02}.000000Z", "level": "info", **fields})


def read(output: str, run_id: str = "run") -> list[dict[str, object]]:
    return list(read_log_parts(list_log_parts(output, run_id)))


def upload(output: str, process: str, *parts: list[str]) -> None:
    uploader = LogUploader(output, "run", process)
    for part in parts:
        for each in part:
            uploader.add(each)
        uploader.upload()


@pytest.mark.usefixtures("_configured")
def test_a_process_uploads_its_events_with_its_own_fields_and_those_of_the_attempt(output: str) -> None:
    describe_process(run="run", node="n1", group="g0", rank=0)

    def deliver() -> None:
        with bound(clip_id="ab12", attempt="run-1"):
            log.warning("mark_failed", mark="label")

    with uploading(output, "run", "g0-r0"):
        log.info("model_loaded")
        delivery = Thread(target=deliver)
        delivery.start()
        delivery.join()
    log.info("after_its_end")

    loaded, failed = read(output)
    of_process = {"run": "run", "node": "n1", "group": "g0", "rank": 0}
    assert loaded.items() >= {**of_process, "event": "model_loaded", "level": "info"}.items()
    known = {"event": "mark_failed", "level": "warning", "clip_id": "ab12", "attempt": "run-1", "mark": "label"}
    assert failed.items() >= {**of_process, **known}.items()
    assert "clip_id" not in loaded
    assert datetime.fromisoformat(str(loaded["timestamp"])).tzinfo is UTC


@pytest.mark.usefixtures("_configured")
def test_the_first_part_is_there_long_before_the_process_ends(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "FIRST_UPLOAD_S", 0.01)
    with uploading(output, "run", "driver"):
        log.info("run_started")
        deadline_s = time.monotonic() + 30
        while not list_log_parts(output, "run") and time.monotonic() < deadline_s:
            time.sleep(0.01)
        assert [record["event"] for record in read(output)] == ["run_started"]


def test_a_part_that_the_store_does_not_take_is_put_later_and_once(output: str) -> None:
    in_the_way = Path(output, "runs", "run", "logs")
    in_the_way.write_bytes(b"in the way")
    uploader = LogUploader(output, "run", "driver")
    for second in range(2):
        uploader.add(line(second, f"number {second}"))
        with pytest.raises(StoreRefused):
            uploader.upload()
    in_the_way.unlink()
    uploader.upload()
    assert [record["event"] for record in read(output)] == ["number 0", "number 1"]
    assert len(list_log_parts(output, "run")) == 2


@pytest.mark.usefixtures("_configured")
def test_trouble_of_the_store_does_not_reach_the_run(output: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(output, "runs", "run", "logs").write_bytes(b"in the way")
    with uploading(output, "run", "driver"):
        log.info("planned")
    assert "logs_put_off" in capsys.readouterr().err


def test_a_process_without_a_store_keeps_its_newest_lines_and_counts_the_others(
    output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "MAX_LINES", 3)
    upload(output, "driver", [line(second, f"number {second}") for second in range(10)])
    told = {str(record["event"]): record for record in read(output)}
    assert {*told} == {"log_lines_dropped", "number 7", "number 8", "number 9"}
    assert told["log_lines_dropped"]["num_lines"] == 7


def test_all_processes_are_read_in_the_order_of_time_and_last_lines_are_not_repeated(output: str) -> None:
    text = line(5, "she said: \u2028 \u00e9")  # a line separator that is none
    upload(output, "driver", [line(1, "planned")], [line(9, "group_lost")])
    upload(output, "g0-r0", [line(2, "worker_started")], [line(3, "again"), line(3, "again")])
    write_last_lines(output, "run", "g0-r0", [line(2, "worker_started"), line(3, "again"), text, "{no JSON"])
    events = ["planned", "worker_started", "again", "again", "she said: \u2028 \u00e9", "group_lost"]
    assert [record["event"] for record in read(output)] == events


def test_what_others_wrote_to_stderr_becomes_lines_about_the_attempt_at_work() -> None:
    started = line(2, "attempt_started", clip_id="ab12", attempt="run-1", rank=0)
    before, event, crash = as_records(["Loading...", started, "Fatal Python error: Aborted"], {"group": "g0"})
    assert (before["event"], before["group"], "clip_id" in before) == ("Loading...", "g0", False)
    assert event == json.loads(started)
    known = {"event": "Fatal Python error: Aborted", "source": "stderr", "group": "g0", "clip_id": "ab12"}
    assert crash.items() >= {**known, "timestamp": event["timestamp"], "attempt": "run-1"}.items()


def test_the_last_lines_of_a_file_are_bounded_and_without_secrets(tmp_path: Path) -> None:
    file = tmp_path / "worker.err"
    secret = "{GET https://user:pass@host/a.jpg?X-Amz-Signature=s3cr3t \x1b[31m" + "x" * 5000
    file.write_text("\n".join([":job_id:01000000", *[line(1, str(n)) for n in range(300)], secret, ""]))
    lines = last_lines_of(file)
    assert len(lines) == logs.MAX_LAST_LINES
    assert json.loads(lines[0])["event"] == "101"
    assert "s3cr3t" not in lines[-1]
    assert "pass" not in lines[-1]
    assert "\x1b" not in lines[-1]
    assert len(lines[-1]) < 2100


def test_damaged_and_foreign_objects_among_the_parts_are_left_out(output: str) -> None:
    upload(output, "driver", [line(1, "planned")])
    name = LogPartName("run", "driver", 1)
    storage.write_bytes(log_part_uri(output, name), b"no gzip")
    storage.write_bytes(log_part_uri(output, name._replace(number=2)), gzip.compress(b"[]\n{}\nnull\n")[:-4])
    storage.write_bytes(log_part_uri(output, name._replace(number=3)), gzip.compress(b'[]\n{}\n{"event": 1}\n\xff'))
    torn = gzip.compress(b'{"event": "torn"}\n' * 99)
    storage.write_bytes(log_part_uri(output, name._replace(number=4)), torn[:12] + b"\xff" * 4 + torn[16:])
    storage.write_bytes(storage.join(output, "runs/run/logs/notes.txt"), b"mine")
    assert [record["event"] for record in read(output)] == ["planned"]


@pytest.mark.parametrize("number", [0, 7, 123_456, None])
def test_the_name_of_a_part_says_what_it_is(number: int | None) -> None:
    name = LogPartName("run-1", "g12-r3", number)
    uri = log_part_uri("s3://bucket/out", name)
    assert parse_log_part(uri) == name
    assert parse_run_file(uri) == ("run-1", f"logs/{uri.rpartition('/')[2]}")
    assert parse_log_part(run_file_uri("s3://bucket/out", "run-1", "run.json")) is None


def test_logs_shows_a_run_or_a_clip_of_it_as_text_and_as_json(output: str) -> None:
    start_run(output, "later", minutes=5)
    about = {"run": "run", "node": "n1", "clip_id": "ab12", "attempt": "run-1"}
    trace = "Traceback:\n  ValueError: no"
    upload(output, "driver", [line(1, "planned", run="run", node="n0"), line(4, "clip_rendered", **about, group="g0")])
    upload(output, "g0-r0", [line(2, "attempt_broke", **about, group="g0", rank=0, level="error", exception=trace)])

    nothing = invoke("logs", output)
    assert (nothing.stdout, nothing.stderr) == ("", "run later: its log has no line\n")
    told = invoke("logs", output, "--run", "run").stdout.splitlines()
    assert told == [
        "2026-11-27T10:00:01.000 driver planned",
        "2026-11-27T10:00:02.000 g0-r0 error: attempt_broke clip_id=ab12 attempt=run-1",
        *trace.splitlines(),
        "2026-11-27T10:00:04.000 driver clip_rendered clip_id=ab12 attempt=run-1 group=g0",
    ]
    of_clip = invoke("logs", output, "--run", "run", "--clip", "ab", "--json").stdout.splitlines()
    assert [json.loads(each)["event"] for each in of_clip] == ["attempt_broke", "clip_rendered"]
    assert invoke("logs", output, "--run", "none").exit_code == 2
    assert invoke("logs", str(Path(output).parent)).exit_code == 2
    assert invoke("logs", "run-20261127", "--clip", "ab").exit_code == 2, "a job has no clips"


def test_logs_follows_a_run_until_it_is_not_alive(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    heartbeat = run_file_uri(output, "run", RUN_HEARTBEAT)
    storage.write_bytes(heartbeat, Heartbeat(at=NOW, host="n0", process_id=1).model_dump_json().encode())
    upload(output, "driver", [line(1, "planned")])
    steps = [
        lambda: upload(output, "g0-r0", [line(2, "model_loaded")]),
        lambda: None,
        lambda: (upload(output, "g1-r0", [line(3, "worker_started")]), storage.delete(heartbeat)),
    ]
    waits = SimpleNamespace(sleep=lambda _: steps.pop(0)())
    monkeypatch.setattr(sys.modules["lynx_batch.cli.logs"], "time", waits)
    told = invoke("logs", output, "--follow").stdout.splitlines()
    assert [each.split()[2] for each in told] == ["planned", "model_loaded", "worker_started"]
    assert steps == []


def test_prune_removes_old_logs_only_if_asked_and_erase_removes_all(output: str) -> None:
    write_run_end(output, "run", RunEnd(ended_at=NOW, counts={}))
    upload(output, "driver", [line(1, "planned")])
    make_older(output, hours=50)
    upload(output, "g0-r0", [line(2, "model_loaded")])

    assert "0 files" in invoke("prune", output).stdout
    assert "0 files" in invoke("prune", output, "--logs", "3d").stdout
    assert "1 file " in invoke("prune", output, "--logs", "2d").stdout
    assert [record["event"] for record in read(output)] == ["model_loaded"]
    assert invoke("prune", output, "--logs", "1m").exit_code == 2

    assert invoke("revoke", output, "--subject", "ada", "--erase", "--yes").exit_code == 0
    assert read(output) == []


def test_libraries_cannot_put_lines_into_the_logs(output: str) -> None:
    """Their warnings may hold prompts; they go to stderr alone."""
    with uploading(output, "run", "driver"):
        logging.getLogger("diffusers").warning("truncated: a person waves")
    assert read(output) == []
