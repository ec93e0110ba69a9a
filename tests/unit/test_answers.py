"""With `--json`, a command prints one object of the published schema and nothing else."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest

from lynx_batch.cli import outputs
from lynx_batch.cli.answers import ANSWERS
from lynx_batch.ledger.heartbeat import beating
from lynx_batch.ledger.metadata import Outcome
from lynx_batch.ledger.runs import RunEnd, write_run_end
from lynx_batch.ledger.spending import SpentRecord, write_spent
from lynx_batch.output import commit_uri
from tests.builders import NOW, ended, record, row, small_clip, start_run, write_manifest, write_metadata, write_run
from tests.guide import ANSWERS_SCHEMA
from tests.jobs import invoke


@pytest.fixture
def output(tmp_path: Path) -> str:
    """A run that rendered a clip, whose video is gone, and failed another; and one that has just begun."""
    output = str(tmp_path / "out")
    start_run(output, "run")
    rendered = ended(Outcome.RENDERED, small_clip("ab12"), minutes=30)
    write_metadata(output, "run", [rendered, ended(Outcome.FAILED, small_clip("cd34", 1), minutes=60)])
    write_run_end(output, "run", RunEnd(ended_at=NOW.replace(hour=9), counts={Outcome.RENDERED: 1, Outcome.FAILED: 1}))
    commit = record("ab12").model_dump_json()
    Path(commit_uri(output, "ab12", 1)).parent.mkdir(parents=True)
    Path(commit_uri(output, "ab12", 1)).write_text(commit)
    start_run(output, "later", minutes=90)
    return output


def ask(command: str, *arguments: object, exit_code: int = 0) -> dict[str, Any]:
    """The answer of a command, which obeys its schema."""
    result = invoke(*command.split(), *arguments, "--json")
    assert result.exit_code == exit_code, result.stderr
    answer: dict[str, Any] = json.loads(result.stdout)
    schema = json.loads(ANSWERS_SCHEMA.read_text())
    of_command = {"$defs": schema["$defs"], "$ref": f"#/$defs/{ANSWERS[command].__name__}"}
    jsonschema.validate(answer, of_command, jsonschema.Draft202012Validator)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(answer | {"surprise": 1}, of_command, jsonschema.Draft202012Validator)
    return answer


def test_runs_and_status_have_times_counts_and_cost(output: str) -> None:
    first, second = ask("runs", output, "--usd-per-gpu-hour", "3600")["runs"]
    assert (first["run"], first["state"], first["outcomes"]) == ("run", "finished", {"rendered": 1, "failed": 1})
    assert (first["started_at"], first["ended_at"]) == ("2026-11-21T08:00:00Z", "2026-11-21T09:00:00Z")
    assert first["usd"] == pytest.approx(1.5), "the clip's only stage took 1.5 s on one GPU"
    assert (second["state"], second["outcomes"], second["usd"]) == ("unfinished", {}, 0)
    assert ask("runs", output)["runs"][0]["usd"] is None
    shown = invoke("runs", output, "--usd-per-gpu-hour", "3600").stdout
    assert "1 h 00 min" in shown
    assert "1.50" in shown

    with beating(output, "later"):
        status = ask("status", output)
    assert [(pace["run"], pace["num_left"], pace["left_s"]) for pace in status["active"]] == [("later", 2, None)]
    assert ask("status", output)["active"] == []


def test_a_run_costs_what_it_recorded_unless_another_price_is_given(output: str) -> None:
    write_spent(output, "run", SpentRecord(at=NOW, limit=None, gpu_s={"H100": 5400, "other": 1800}, usd=4.5))
    run = ask("runs", output)["runs"][0]
    assert (run["gpu_hours"], run["usd"]) == (2, 4.5)
    assert ask("status", output, "--usd-per-gpu-hour", "3")["runs"][0]["usd"] == 6


def test_verify_and_export_name_what_is_missing(output: str, tmp_path: Path) -> None:
    verified = ask("verify", output, exit_code=3)
    assert (verified["num_read"], [*verified["faults"]], verified["is_repaired"]) == (1, ["ab12"], False)
    exported = ask("export", output, tmp_path / "handout", exit_code=3)
    assert (exported["num_clips"], [*exported["left_out"]]) == (0, ["a/她微笑着-ab12.mp4"])


def test_retry_says_how_many_it_asked_for(output: str) -> None:
    assert ask("retry", output)["num_asked"] == 1
    assert ask("retry", output)["num_asked"] == 0


def test_manifest_check_and_doctor_list_everything(tmp_path: Path, face_pack: Path) -> None:
    write_manifest(tmp_path / "manifest.parquet", [row(), row(width=100)])
    checked = ask("manifest check", tmp_path / "manifest.parquet", exit_code=2)
    assert (checked["num_rows"], [problem["row"] for problem in checked["problems"]]) == (2, [1])
    assert checked["problems"][0].items() >= {"column": "width", "value": 100}.items()
    findings = ask("doctor", write_run(tmp_path, face_pack))["findings"]
    assert {"output", "manifest", "model"} <= {finding["subject"] for finding in findings}


def test_status_waits_for_the_record_of_a_submitted_run(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    later = f"{output}-later"
    steps: list[Callable[[], None]] = [lambda: None, lambda: start_run(later, "run")]
    clock = itertools.count(step=100.0)
    waits = SimpleNamespace(sleep=lambda _: steps.pop(0)(), monotonic=lambda: next(clock))
    monkeypatch.setattr(outputs, "time", waits)
    told = invoke("status", later, "--watch")
    assert told.exit_code == 0
    assert "waiting for the record of a run" in told.stdout
    assert told.stdout.count("there is still none: `lynx-batch jobs`") == 1
    assert "0 clips committed" in told.stdout
    assert steps == []


def test_every_help_says_where_the_exit_codes_are_explained() -> None:
    shown = " ".join(invoke("--help").stdout.split())
    assert "Exit codes: 0 done" in shown
    assert "5 a limit was reached" in shown
    for command in (*ANSWERS, "render", "bench engine"):
        assert "Exit codes: `lynx-batch --help`" in invoke(*command.split(), "--help").stdout, command
