"""Which run is the newest."""

from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path

import pytest

from lynx_batch.ledger.metadata import Outcome, read_metadata
from lynx_batch.ledger.order import RunOrder, newest_rows
from lynx_batch.ledger.runs import new_run_id
from lynx_batch.ledger.summary import summarise
from lynx_batch.ledger.timings import read_timings
from tests.builders import IDENTITY, NOW, ended, record, small_clip, start_run, write_metadata


def test_the_newest_run_is_the_one_that_started_last_whatever_its_name(tmp_path: Path) -> None:
    output, dated = str(tmp_path), new_run_id(NOW + timedelta(minutes=5))
    for run_id, minutes, outcome in (("pilot", 0, Outcome.FAILED), (dated, 5, Outcome.ABANDONED)):
        start_run(output, run_id, minutes=minutes)
        write_metadata(output, run_id, [ended(outcome, small_clip())])

    (row,) = newest_rows(output).to_pylist()

    assert (row["run"], row["outcome"]) == (dated, "abandoned")
    assert list(summarise(output).reasons) == ["abandoned: OutOfMemory: too big"]


def test_a_run_without_a_record_is_as_old_as_its_name_tells(tmp_path: Path) -> None:
    output = str(tmp_path)
    start_run(output, "pilot", minutes=5)
    early, late = (new_run_id(NOW + timedelta(minutes=minutes)) for minutes in (4, 6))
    order = RunOrder.of(output, [late, "zulu", "99999999T999999Z-abc", early, "pilot"])
    assert tuple(order.ranks) == ("99999999T999999Z-abc", "zulu", early, "pilot", late)


def test_the_newest_timings_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lynx_batch.ledger.timings.MAX_TIMINGS", 1)
    output, identity = str(tmp_path), {name: value for name, value in asdict(IDENTITY).items() if value is not None}
    for minutes, run_id in enumerate(("zulu", "alpha")):
        start_run(output, run_id, minutes=minutes)
        row = ended(Outcome.RENDERED, small_clip())
        update = {"run_id": run_id, "identity": identity, "stage_s": {"denoise_s": float(minutes)}}
        write_metadata(output, run_id, [replace(row, commit=row.commit.model_copy(update=update))])
    assert [timing.seconds for timing in read_timings(output, IDENTITY)] == [1.0]


def test_a_clip_that_went_on_from_a_saved_state_is_no_timing(tmp_path: Path) -> None:
    output, identity = str(tmp_path), {name: value for name, value in asdict(IDENTITY).items() if value is not None}
    start_run(output, "run", minutes=0)
    commits = [record(f"ab1{n}").model_copy(update={"identity": identity, "num_steps_resumed": 30 * n}) for n in (0, 1)]
    rows = [ended(Outcome.RENDERED, small_clip(commit.clip_id, row)) for row, commit in enumerate(commits)]
    write_metadata(output, "run", [replace(row, commit=commit) for row, commit in zip(rows, commits, strict=True)])
    assert len(read_timings(output, IDENTITY)) == 1
    assert read_metadata(output)["num_steps_resumed"].to_pylist() == [0, 30]
