"""`status`, `retry`, `export`, `verify` and `prune` on an output location that is there without any cluster."""

import json
import re
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from lynx_batch import storage
from lynx_batch.ledger import heartbeat
from lynx_batch.ledger.commits import Withdrawal, commit
from lynx_batch.ledger.editions import list_editions
from lynx_batch.ledger.heartbeat import Heartbeat
from lynx_batch.ledger.metadata import Outcome
from lynx_batch.ledger.runs import RunEnd, write_run_end
from lynx_batch.output import commit_uri
from tests.builders import (
    NOW,
    deliver,
    ended,
    files_below,
    given_up,
    make_older,
    record,
    small_clip,
    start_run,
    write_metadata,
)
from tests.jobs import invoke
from tests.models import ROOT


@pytest.fixture
def output(tmp_path: Path) -> str:
    """Two real clips, and two that failed."""
    output = str(tmp_path / "out")
    start_run(output, "run")
    rows = [ended(Outcome.FAILED, small_clip("cc33", 2)), ended(Outcome.FAILED, small_clip("dd44", 3))]
    for row, clip_id in enumerate(("aa11", "bb22")):
        frames = np.random.default_rng(0).integers(0, 255, (5, 48, 64, 3), np.uint8)
        delivered = deliver(frames, output=output, clip_id=clip_id, attempt="run-1", fps=16, crf=30)
        committed = commit(output, record(clip_id).model_copy(update=asdict(delivered)))
        rows.append(replace(ended(Outcome.RENDERED, small_clip(clip_id, row)), commit=committed))
    write_metadata(output, "run", rows)
    write_run_end(output, "run", RunEnd(ended_at=NOW, counts={Outcome.RENDERED: 2, Outcome.FAILED: 2}))
    return output


def test_status_tells_runs_and_reasons(output: str) -> None:
    for options in ((), ("--watch",)):
        told = invoke("status", output, *options).stdout
        assert "2 clips committed" in told
        assert "finished" in told
        assert "2 failed: OutOfMemory: too big" in told


def test_status_counts_by_columns_and_tags(output: str) -> None:
    start_run(output, "later")
    cells = [("ee55", 4.0, "Köln", 0.5), ("ff66", 4.0, "Oslo", 0.7), ("0077", 5.0, None, None)]
    rows = []
    for row, (clip_id, scale, city, likeness) in enumerate(cells):
        clip = small_clip(clip_id, row)
        params, tags = clip.params.changed(guidance_scale=scale), {"city": city} if city else {}
        clip = replace(clip, request=replace(clip.request, params=params, tags=tags))
        found = record(clip_id).model_copy(update={"scores": {"likeness_mean": likeness} if likeness else {}})
        rows.append(replace(ended(Outcome.RENDERED, clip), commit=found))
    write_metadata(output, "later", rows)
    told = json.loads(invoke("status", output, "--by", "guidance_scale", "--by", "tags.city", "--json").stdout)[
        "groups"
    ]
    assert [(group["values"], group["counts"], group["likeness"]) for group in told] == [
        ({"guidance_scale": 4.0, "tags.city": "Köln"}, {"rendered": 1}, 0.5),
        ({"guidance_scale": 4.0, "tags.city": "Oslo"}, {"rendered": 1}, 0.7),
        ({"guidance_scale": 5.0, "tags.city": None}, {"rendered": 3, "failed": 2}, None),
    ]
    shown = invoke("status", output, "--by", "guidance_scale").stdout
    assert re.search(r"4 .* 2 .* 0 .* 0.60", shown)
    refused = invoke("status", output, "--by", "tags")
    assert (refused.exit_code, "--by 'tags': must be a column of the metadata or tags.KEY" in refused.stderr) == (
        2,
        True,
    )


def test_retry_takes_what_its_filters_leave(output: str) -> None:
    for option, text in (("--reason", "no face"), ("--where", "error_type == 'NoFaceFound' or width > 64")):
        nothing = invoke("retry", output, option, text)
        assert (nothing.exit_code, f"{option} {text!r}: " in nothing.stderr) == (2, True)
    assert set(given_up(output)) == {"cc33", "dd44"}
    assert (
        "1 clip "
        in invoke("retry", output, "--reason", "outofmemory: TOO", "--where", "row == 2 and width == 64").stdout
    )
    assert set(given_up(output)) == {"dd44"}
    assert "1 clip " in invoke("retry", output).stdout
    assert given_up(output) == {}
    faulty = invoke("retry", output, "--where", "colour == 1")
    assert (faulty.exit_code, "column 'colour': unknown" in faulty.stderr) == (2, True)


def test_retry_and_export_take_the_decisions_of_a_report(output: str, tmp_path: Path) -> None:
    decisions = tmp_path / "decisions.csv"
    decisions.write_text("clip_id,decision\naa11,approve\nffff,approve\nbb22,reject\ncc33,reject\n")
    told = invoke("retry", output, "--list", decisions).stdout
    assert told.startswith("1 clip of the list left out: committed")
    assert "1 clip will be tried again" in told
    assert set(given_up(output)) == {"dd44"}
    exported = invoke("export", output, tmp_path / "named", "--list", decisions)
    assert (exported.exit_code, "clip ffff: it is in the list, but not committed" in exported.stdout) == (3, True)
    assert {path.name for path in (tmp_path / "named").rglob("*.mp4")} == {"她微笑着-aa11.mp4"}


def test_export_tells_what_it_made(output: str, tmp_path: Path) -> None:
    commit(output, record("ee55"))
    result = invoke("export", output, str(tmp_path / "named"), "--name", "{row}.mp4")
    assert result.exit_code == 0
    assert "2 clips" in result.stdout
    assert (
        "1 more clip committed, but not exported: a newer clip has the name, or the metadata lacks the clip"
        in result.stdout
    )
    assert {path.name for path in (tmp_path / "named").iterdir()} == {"0.mp4", "1.mp4", "export.json"}


@pytest.mark.parametrize("edition", [1, 2])
def test_a_commit_that_is_another_clips_is_damaged(output: str, edition: int) -> None:
    foreign = storage.read_bytes(commit_uri(output, "aa11", 1))
    storage.write_bytes(commit_uri(output, "bb22", edition), foreign)
    told = invoke("verify", output, "--repair")
    assert told.exit_code == 3
    assert "bb22" in told.stdout
    assert "must hold the commit of its name, but holds edition 1 of aa11" in told.stdout
    assert list_editions(output).in_force == {"aa11": 1}
    table = invoke("status", output, "--clips").stdout
    assert "its commit is no longer in force: the next run renders it again" in table


@pytest.mark.parametrize("command", ["status", "verify", "retry", "prune"])
@pytest.mark.parametrize("place", ["http://h/out", "data://x", "ftp://h/x", "file://host/x", "simplecache::file:///x"])
def test_a_place_that_no_run_can_write_to_is_refused_at_once(command: str, place: str) -> None:
    refused = invoke(command, place)
    assert (refused.exit_code, f"OUT {place}: must be " in refused.stderr) == (2, True)


@pytest.mark.parametrize("place", ["memory://x", "simplecache::s3://b/x", "https://host/x"])
def test_export_refuses_a_place_that_does_not_last(output: str, place: str) -> None:
    refused = invoke("export", output, place)
    assert (refused.exit_code, f"DEST {place}: must be a path or a URI" in refused.stderr) == (2, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("status", ""),
        ("verify", " "),
        ("export", "", "x"),
        ("manifest", "check", ""),
        ("manifest", "build", "--photos", "", "--prompts", "p.txt", "--out", "m.parquet"),
        ("manifest", "build", "--photos", "x", "--prompts", "", "--out", "m.parquet"),
        ("manifest", "build", "--from", " ", "--out", "m.parquet"),
        ("plan", ROOT / "jobs" / "campaign.yaml", "--output", ""),
        ("plan", ROOT / "jobs" / "campaign.yaml", "--manifest", ""),
        ("plan", ROOT / "jobs" / "campaign.yaml", "--set", "model.base=''"),
    ],
)
def test_an_empty_place_is_no_place(
    arguments: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a script's unset variable gives it; read as a path it would be the root or the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.txt").write_text("A person waves.", encoding="utf-8")
    refused = invoke(*arguments)
    assert (refused.exit_code, "must not be empty" in refused.stderr) == (2, True), refused.output


def test_export_to_an_empty_place_writes_nothing(output: str) -> None:
    refused = invoke("export", output, "")
    assert (refused.exit_code, refused.stderr) == (2, "error: DEST : must not be empty\n")


def test_verify_finds_clips_as_they_were_committed(output: str) -> None:
    sound = invoke("verify", output)
    assert (sound.exit_code, "2 of 2 clips read, 0 faulty" in sound.stdout) == (0, True)
    assert "1 of 2 clips read" in invoke("verify", output, "--sample", "1").stdout


def test_verify_names_clips_that_are_not_as_they_were_committed(output: str) -> None:
    video = Path(output, "clips", "aa", "aa11", "run-1.mp4")
    video.write_bytes(video.read_bytes()[:-100] + b"?" * 100)
    Path(output, "clips", "bb", "bb22", "run-1.mp4").unlink()
    commit(output, record("cc33").model_copy(update={"clip_uri": "clips/aa/aa11/run-1.jpg"}))

    result = invoke("verify", output)

    assert result.exit_code == 3
    assert "clip aa11: sha256=" in result.stdout
    assert "clip bb22:" in result.stdout
    assert "does not exist" in result.stdout
    for fault in ("num_bytes=", "num_frames=1: must be 5", "cc33/run-1.jpg: does not exist"):
        assert fault in result.stdout
    assert "3 of 3 clips read, 3 faulty" in result.stdout


def test_prune_removes_what_no_commit_names_and_nothing_else(output: str) -> None:
    kept = files_below(output, "clips")
    frames = np.zeros((5, 48, 64, 3), np.uint8)
    for clip_id, attempt in (("aa11", "run-2"), ("cc33", "run-1")):
        deliver(frames, output=output, clip_id=clip_id, attempt=attempt, fps=16, crf=30)
    for name in ("aa11-0004", "cc33-0004"):
        storage.write_bytes(f"{output}/resume/{name}.safetensors", b"steps")
    all_of_them = files_below(output, "clips")

    young = invoke("prune", output)
    assert (young.exit_code, "0 files of 0.0 MB removed" in young.stdout) == (0, True)
    assert "5 more uncommitted files kept: too new" in young.stdout
    make_older(output, hours=25)
    would = invoke("prune", output, "--dry-run")
    assert (would.exit_code, "5 files of 0.0 MB would be removed" in would.stdout) == (0, True)
    assert files_below(output, "clips") == all_of_them

    assert "5 files of 0.0 MB removed" in invoke("prune", output).stdout
    assert files_below(output, "clips") == kept
    assert files_below(output, "resume") == {"resume/cc33-0004.safetensors"}, "it may go on"
    assert "2 of 2 clips read, 0 faulty" in invoke("verify", output).stdout


def leave_videos(output: str, run_id: str) -> set[str]:
    """What an attempt of a run leaves that is killed before its commit."""
    before = files_below(output, "clips")
    frames = np.zeros((5, 48, 64, 3), np.uint8)
    deliver(frames, output=output, clip_id="cc33", attempt=f"{run_id}-1a", fps=16, crf=30)
    return files_below(output, "clips") - before


@pytest.mark.parametrize("skew", [timedelta(hours=-2), timedelta(0), timedelta(hours=2)])
def test_prune_keeps_the_videos_of_a_living_run_whatever_its_clock_says(output: str, skew: timedelta) -> None:
    start_run(output, "alive")
    left = leave_videos(output, "alive")
    make_older(output, hours=48)
    beat = Heartbeat(at=datetime.now(UTC) + skew, host="node-1", process_id=1)
    storage.write_bytes(f"{output}/runs/alive/heartbeat.json", beat.model_dump_json().encode())
    assert "0 files" in invoke("prune", output).stdout
    assert left <= files_below(output, "clips")
    make_older(output, hours=25)
    assert "2 files" in invoke("prune", output).stdout, "its heartbeat has not changed for a day"


def test_prune_takes_a_named_run_whose_heartbeat_stands_still(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "MISSED_S", 0.2)
    monkeypatch.setattr(heartbeat, "LOOK_EVERY_S", 0.01)
    for run_id in ("killed", "other"):
        start_run(output, run_id)
        leave_videos(output, run_id)
        storage.write_bytes(f"{output}/runs/{run_id}/heartbeat.json", b"{}")
    assert "2 files" in invoke("prune", output, "--run", "killed").stdout
    assert "2 files" in invoke("prune", output, "--run", "other", "--dry-run").stdout
    unknown = invoke("prune", output, "--run", "mistyped")
    assert (unknown.exit_code, "--run 'mistyped': must be a run of" in unknown.stderr) == (2, True)


def test_prune_refuses_a_named_run_that_beats(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_EVERY_S", 0.05)
    start_run(output, "alive")
    leave_videos(output, "alive")
    with heartbeat.beating(output, "alive"):
        until_there = Path(output, "runs", "alive", "heartbeat.json")
        while not until_there.exists():
            pass
        refused = invoke("prune", output, "--run", "alive")
    assert (refused.exit_code, "must not be alive" in refused.stderr) == (2, True)


def test_prune_needs_an_age_that_an_outage_does_not_reach(output: str) -> None:
    refused = invoke("prune", output, "--min-age", "5m")
    assert (refused.exit_code, "--min-age '5m': must be at least 1h" in refused.stderr) == (2, True)


def test_a_repaired_clip_is_out_of_force_and_its_next_edition_finishes_it(output: str) -> None:
    Path(output, "clips", "aa", "aa11", "run-1.mp4").unlink()
    storage.write_bytes(commit_uri(output, "bb22", 1), b"")
    assert invoke("verify", output).exit_code == 3
    assert set(list_editions(output).in_force) == {"aa11", "bb22"}, "only --repair withdraws"

    repaired = invoke("verify", output, "--repair")

    assert repaired.exit_code == 3
    assert "2 commits withdrawn; the next `lynx-batch render` renders such clips again" in repaired.stdout
    editions = list_editions(output)
    assert (editions.in_force, editions.wanted("aa11"), editions.wanted("bb22")) == ({}, 2, 2)
    withdrawal = Withdrawal.model_validate_json(storage.read_bytes(f"{output}/commits/aa/aa11.e1.withdrawn.json"))
    assert (withdrawal.command, "does not exist" in withdrawal.reason) == ("verify --repair", True)
    frames = np.random.default_rng(0).integers(0, 255, (5, 48, 64, 3), np.uint8)
    delivered = deliver(frames, output=output, clip_id="aa11", attempt="run-2", fps=16, crf=30)
    commit(output, record("aa11").model_copy(update={"edition": 2, "attempt": "run-2", **asdict(delivered)}))
    assert "1 of 1 clip read, 0 faulty" in invoke("verify", output).stdout
    make_older(output, hours=25)
    invoke("prune", output)
    assert files_below(output, "clips") == {"clips/aa/aa11/run-2.mp4", "clips/aa/aa11/run-2.jpg"}


@pytest.mark.parametrize("command", ["status", "retry", "verify", "prune"])
def test_a_place_without_a_run_is_refused(command: str, tmp_path: Path) -> None:
    refused = invoke(command, str(tmp_path / "mistyped"))
    assert (refused.exit_code, "mistyped: must be an output location" in refused.stderr) == (2, True)


def test_no_word_of_a_clip_acts_as_markup(output: str) -> None:
    end = RunEnd(ended_at=NOW, counts={}, stopped_by="RuntimeError: [/__w/gloo/pair.cc:537] reset [rank0] :smile:")
    start_run(output, "run2")
    write_run_end(output, "run2", end)
    told = " ".join(invoke("status", output).stdout.split())
    for words in ("[/__w/gloo/pair.cc:537]", "[rank0]", ":smile:"):
        assert words in told
