"""What makes a clip finished, and what an output location tells of its runs."""

import threading
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from lynx_batch import storage
from lynx_batch.cli import app
from lynx_batch.errors import MissingObject, UnreadableRecord
from lynx_batch.ledger.commits import commit, read_commit, read_commits
from lynx_batch.ledger.editions import Editions, list_editions
from lynx_batch.ledger.events import EventKind, read_events, write_event
from lynx_batch.ledger.heartbeat import beating, living_runs
from lynx_batch.ledger.history import deaths_before, given_up_before, known_commits, request_retry
from lynx_batch.ledger.leftovers import find_leftovers
from lynx_batch.ledger.metadata import METADATA_SCHEMA, Outcome, read_metadata
from lynx_batch.ledger.order import newest_rows
from lynx_batch.ledger.parts import MAX_ROWS, PART_EVERY_S, MetadataParts
from lynx_batch.ledger.records import warn_left_out
from lynx_batch.ledger.runs import RunEnd, list_runs, new_run_id, write_run_end
from lynx_batch.ledger.summary import summarise
from lynx_batch.output import commit_uri
from lynx_model.spec import RenderParams
from tests.builders import NOW, ended, event, given_up, record, small_clip, start_run, write_metadata
from tests.races import NUM_RACERS, race_in_processes, race_in_threads, winners

NOTHING = Editions(in_force={}, withdrawn={})


def test_a_race_of_eight_processes_has_one_winner_whom_all_see(tmp_path: Path) -> None:
    assert race_in_processes(str(tmp_path)) == [0] * NUM_RACERS
    assert winners(str(tmp_path)) == {read_commit(str(tmp_path), "ab12", 1).attempt}
    assert set(list_editions(str(tmp_path)).in_force) == {"ab12"}


@pytest.mark.parametrize("output", ["memory://race", None], ids=["memory", "local"])
def test_races_of_threads_have_one_winner_each_time(tmp_path: Path, output: str | None) -> None:
    for number in range(20):
        place = storage.join(output or str(tmp_path), str(number))
        race_in_threads(place)
        assert winners(place) == {read_commit(place, "ab12", 1).attempt}


def test_a_put_whose_answer_was_lost_still_wins_when_it_is_repeated(tmp_path: Path) -> None:
    mine = record(attempt="mine")
    assert commit(str(tmp_path), mine) == mine
    assert commit(str(tmp_path), mine) == mine
    assert commit(str(tmp_path), record(attempt="late")) == mine


def test_nobody_ever_reads_half_a_commit(tmp_path: Path) -> None:
    ended = threading.Event()

    def read_on() -> None:
        while not ended.is_set():
            for clip_id in list_editions(str(tmp_path)).in_force:
                assert read_commit(str(tmp_path), clip_id, 1).clip_id == clip_id

    faults: list[BaseException] = []
    reader = threading.Thread(target=lambda: faults.extend(_fault_of(read_on)))
    reader.start()
    for number in range(200):
        commit(str(tmp_path), record(clip_id=f"{number:032x}"))
    ended.set()
    reader.join()
    assert faults == []


def _fault_of(do: Callable[[], None]) -> list[BaseException]:
    try:
        do()
    except BaseException as fault:  # noqa: BLE001 - handed to the test
        return [fault]
    return []


def test_commits_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    written = [commit(str(tmp_path), record(clip_id=f"{n:032x}")) for n in range(5)]
    assert list(read_commits(str(tmp_path), {r.clip_id: 1 for r in written})) == written


def test_a_missing_or_foreign_commit_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(MissingObject):
        read_commit(str(tmp_path), "ab12", 1)
    storage.write_bytes(commit_uri(str(tmp_path), "ab12", 1), b"{}")
    with pytest.raises(UnreadableRecord, match="ab12"):
        read_commit(str(tmp_path), "ab12", 1)


def test_the_last_word_decides_whether_a_clip_was_given_up(tmp_path: Path) -> None:
    output = str(tmp_path)
    assert given_up(output) == {}
    start_run(output, "run")
    start_run(output, "next")
    write_event(output, event(EventKind.RETRIED, minutes=0))
    assert given_up(output) == {}
    write_event(output, event(EventKind.FAILED, minutes=1))
    assert given_up(output) == {"ab12": "failed"}
    request_retry(output, given_up_before(output, NOTHING), NOW)
    assert given_up(output) == {}, "although the clock of whoever asks is behind"
    write_event(output, event(EventKind.REJECTED, minutes=3, run_id="next"))
    assert given_up(output) == {"ab12": "rejected"}


@pytest.mark.parametrize("error_type", ["ConsentExpired", "PhotoUnreachable"])
def test_what_each_run_judges_anew_is_no_last_word(tmp_path: Path, error_type: str) -> None:
    output = str(tmp_path)
    start_run(output, "run")
    write_metadata(output, "run", [replace(ended(Outcome.REJECTED, small_clip()), error_type=error_type)])
    assert given_up(output) == {}


def test_a_clip_that_a_finished_run_gave_up_stays_so_until_it_is_asked_for(tmp_path: Path) -> None:
    output = str(tmp_path)
    start_run(output, "run")
    write_metadata(output, "run", [ended(Outcome.FAILED, small_clip()), ended(Outcome.RENDERED, small_clip("cd34", 1))])
    write_run_end(output, "run", RunEnd(ended_at=NOW, counts={Outcome.FAILED: 1, Outcome.RENDERED: 1}))

    (row,) = given_up_before(output, NOTHING).to_pylist()
    assert (row["clip_id"], row["error"], row["prompt"]) == ("ab12", "too big", "她微笑着")
    request_retry(output, given_up_before(output, NOTHING), NOW + timedelta(minutes=1))
    assert given_up(output) == {}
    write_metadata(output, "next", [ended(Outcome.ABANDONED, small_clip(), minutes=2)])
    assert given_up(output) == {}, "a wish holds until the clip is given up anew"


def test_a_committed_clip_is_not_given_up_whatever_another_run_made_of_it(tmp_path: Path) -> None:
    output = str(tmp_path)
    start_run(output, "run")
    commit(output, record())
    write_event(output, event(EventKind.FAILED, minutes=1))
    assert given_up(output) == {}


def test_events_of_settled_clips_are_not_read(tmp_path: Path) -> None:
    output = str(tmp_path)
    write_event(output, event(EventKind.FAILED, minutes=0))
    foreign = storage.join(output, "events", "run=run", "20261121T080000.000000Z-cd34-run-1.json")
    storage.write_bytes(foreign, b"not an event")
    with capture_logs() as logs:
        assert [e.clip_id for e in read_events(output, "run", lambda clip_id: clip_id != "cd34")] == ["ab12"]
        assert logs == []
        assert [e.clip_id for e in read_events(output, "run")] == ["ab12"]
        assert "cd34" in logs[0]["error"]


def test_deaths_are_known_of_runs_that_did_not_come_to_their_end_until_the_clip_is_asked_for_again(
    tmp_path: Path,
) -> None:
    output = str(tmp_path)
    runs = [("killed", "aa", None), ("stopped", "bb", "an error"), ("whole", "cc", "")]
    for number, (run_id, clip_id, stopped_by) in enumerate(runs):
        start_run(output, run_id, minutes=number)
        for deaths in (1, 2):
            write_event(output, event(EventKind.RETRIED, minutes=deaths, run_id=run_id, clip_id=clip_id, deaths=deaths))
        write_event(output, event(EventKind.RETRIED, minutes=1, run_id=run_id, clip_id="dd"))
        if stopped_by is not None:
            write_run_end(output, run_id, RunEnd(ended_at=NOW, counts={}, stopped_by=stopped_by))
    assert deaths_before(output, {"aa", "bb", "cc", "dd"}, NOTHING) == {"aa": 2, "bb": 2}
    assert deaths_before(output, {"bb", "cc", "dd"}, NOTHING) == {"bb": 2}
    assert deaths_before(output, {"aa", "bb"}, Editions(in_force={}, withdrawn={"aa": 1})) == {"bb": 2}

    write_metadata(output, "stopped", [ended(Outcome.FAILED, small_clip("bb"), minutes=7)])
    request_retry(output, given_up_before(output, list_editions(output)), NOW)
    assert deaths_before(output, {"aa", "bb", "cc", "dd"}, NOTHING) == {"aa": 2}


def test_what_metadata_knows_of_a_commit_is_not_read_again(tmp_path: Path) -> None:
    output = str(tmp_path)
    start_run(output, "run")
    marks = {
        "marks": ("label", "aigc"),
        "failed_marks": {"c2pa": "no answer"},
        "preview_uri": "clips/ab/ab12/run-1.gif",
    }
    marked = record().model_copy(update=marks)
    write_metadata(output, "run", [replace(ended(Outcome.RENDERED, small_clip()), commit=marked)])
    commit(output, record("cd34"))
    first, second = sorted(known_commits(output, {"ab12": 1, "cd34": 1}), key=lambda known: known.clip_id)
    assert first == marked.model_copy(update={"identity": {"base": "f", "is_parity": "False"}})
    assert second == record("cd34")


def test_every_parameter_of_a_clip_has_a_column_in_the_metadata() -> None:
    assert {field.name for field in fields(RenderParams)} <= set(METADATA_SCHEMA.names)


def test_metadata_has_a_row_for_every_row_and_no_secret(tmp_path: Path) -> None:
    output = str(tmp_path)
    write_metadata(output, "run", [ended(Outcome.REJECTED, row=1), ended(Outcome.RENDERED, small_clip())])

    table = read_metadata(output)

    first, second = table.to_pylist()
    assert table.column_names[:7] == [
        "row", "clip_id", "edition", "outcome", "rendered_by_run", "attempts", "error_type",
    ]  # fmt: skip
    assert (first["outcome"], first["rendered_by_run"], first["denoise_s"]) == ("rendered", "run", 1.5)
    assert (first["prompt"], first["tags"], first["run"]) == ("她微笑着", [("team", "north")], "run")
    assert first["subject_uri"] == "s3://bucket/a.jpg"
    assert (second["row"], second["outcome"], second["error"]) == (1, "rejected", "too big")


def test_metadata_of_several_runs_is_one_dataset_for_anybody(tmp_path: Path) -> None:
    output = str(tmp_path)
    early, late = new_run_id(NOW), new_run_id(NOW + timedelta(days=1))
    write_metadata(output, late, [ended(Outcome.RENDERED, small_clip())])
    write_metadata(output, early, [ended(Outcome.ABANDONED, small_clip())])

    assert ds.dataset(tmp_path / "metadata", partitioning="hive").count_rows() == 2
    newest = newest_rows(output).to_pylist()
    assert [(row["run"], row["outcome"]) for row in newest] == [(late, "rendered")]


def test_metadata_is_read_while_it_grows_and_tells_no_row_twice(tmp_path: Path) -> None:
    output, parts = str(tmp_path), MetadataParts(str(tmp_path), "run", 0)
    parts.add(ended(Outcome.REJECTED, row=0))
    parts.write_due(PART_EVERY_S - 1)
    assert read_metadata(output).num_rows == 0
    parts.write_due(PART_EVERY_S)
    parts.add(ended(Outcome.REJECTED, row=1))
    parts.write_due(PART_EVERY_S + 1)
    first = (tmp_path / "metadata" / "run=run" / "part-00000.parquet").read_bytes()
    assert read_metadata(output)["row"].to_pylist() == [0]
    parts.close()
    assert sorted(read_metadata(output)["row"].to_pylist()) == [0, 1]
    assert sorted(pq.read_table(tmp_path / "metadata")["row"].to_pylist()) == [0, 1]
    assert (tmp_path / "metadata" / "run=run" / "part-00000.parquet").read_bytes() == first


def test_metadata_that_the_store_does_not_take_is_written_later_and_once(tmp_path: Path) -> None:
    parts = MetadataParts(str(tmp_path), "run", 0)
    (tmp_path / "metadata").write_bytes(b"in the way")
    parts.add(ended(Outcome.REJECTED, row=0))
    parts.write_due(PART_EVERY_S)
    parts.add(ended(Outcome.REJECTED, row=1))
    parts.write_due(2 * PART_EVERY_S)
    (tmp_path / "metadata").unlink()
    parts.close()
    assert sorted(read_metadata(str(tmp_path))["row"].to_pylist()) == [0, 1]


def test_many_rows_at_once_become_parts_of_a_bounded_size(tmp_path: Path) -> None:
    parts = MetadataParts(str(tmp_path), "run", 0)
    for row in range(MAX_ROWS + 1):
        parts.add(ended(Outcome.REJECTED, row=row))
        parts.write_due(0)
    assert read_metadata(str(tmp_path), ["row"]).num_rows == MAX_ROWS


def test_a_run_is_alive_as_long_as_it_beats(tmp_path: Path) -> None:
    output = str(tmp_path)
    with beating(output, "run"):
        assert list(living_runs(output, datetime.now(UTC))) == ["run"], "the first beat comes before all else"
        assert living_runs(output, datetime.now(UTC) + timedelta(hours=1)) == {}
    assert living_runs(output, datetime.now(UTC)) == {}


def test_a_run_record_keeps_no_signed_uri(tmp_path: Path) -> None:
    start_run(str(tmp_path), "run")
    manifest = pq.read_table(tmp_path / "runs" / "run" / "manifest.parquet")
    assert manifest["subject_uri"].to_pylist() == ["a.jpg", "https://host/b.jpg"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata/run=run/part-00001.parquet", b""),
        ("metadata/run=run/part-00002.parquet", b"no Parquet file"),
        ("metadata/run=run/part-00003.parquet", b"PAR1" + b"\xff" * 40 + b"\x28\0\0\0PAR1"),
        ("metadata/run=run/other.txt", b"notes"),
        ("metadata/notes.parquet", b"notes"),
        ("runs/run/heartbeat.json", b""),
        ("runs/other/run.json", b"{"),
        ("runs/run/end.json", b"[]"),
        ("runs/notes", b""),
        ("events/run=run/notes.txt", b""),
        ("events/run=run/20261121T080000.000000Z-ab12-run-1.json", b"null"),
        ("events/retries/notes.txt", b""),
        ("clips/notes.txt", b""),
        ("resume/notes.txt", b""),
    ],
)
def test_a_damaged_or_foreign_object_stops_nothing(tmp_path: Path, name: str, content: bytes) -> None:
    output = str(tmp_path)
    start_run(output, "run")
    write_metadata(output, "run", [ended(Outcome.FAILED, small_clip())])
    commit(output, record("cd34"))
    storage.write_bytes(storage.join(output, name), content)

    assert read_metadata(output)["clip_id"].to_pylist() == ["ab12"]
    assert given_up(output) == {"ab12": "failed"}
    assert [state.run.run_id for state in summarise(output).runs] == ["run"]
    assert living_runs(output, storage.clock(output)) == {}
    assert find_leftovers(output) == []
    for command in (["status", output, "--clips"], ["prune", output, "--dry-run"], ["retry", output]):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output


def test_a_foreign_parquet_file_in_the_metadata_is_named_and_left_out(tmp_path: Path) -> None:
    output = str(tmp_path)
    write_metadata(output, "run", [ended(Outcome.FAILED, small_clip())])
    for name in ("x", "part-00009"):
        foreign = tmp_path / "metadata" / "run=run" / f"{name}.parquet"
        pq.write_table(pa.table({"row": ["text"], "clip_id": [3.5]}), foreign)
    assert read_metadata(output)["clip_id"].to_pylist() == ["ab12"]
    warn_left_out.cache_clear()
    with capture_logs() as logs:
        table = read_metadata(output, ["run", "clip_id"], pc.field("outcome") == Outcome.FAILED)
    assert table.to_pylist() == [{"run": "run", "clip_id": "ab12"}]
    assert ["x.parquet" in log["error"] for log in logs] == [True]


def test_an_empty_location_has_no_metadata(tmp_path: Path) -> None:
    assert newest_rows(str(tmp_path)).num_rows == 0
    assert summarise(str(tmp_path)).num_committed == 0


def test_a_summary_counts_finished_and_killed_runs(tmp_path: Path) -> None:
    output = str(tmp_path)
    start_run(output, "run-1")
    start_run(output, "run-2", minutes=1)
    commit(output, record())
    write_metadata(
        output, "run-1", [ended(Outcome.RENDERED, small_clip()), ended(Outcome.FAILED, small_clip("cd34", 1))]
    )
    write_run_end(output, "run-1", RunEnd(ended_at=NOW, counts={Outcome.RENDERED: 1, Outcome.FAILED: 1}))
    write_metadata(output, "run-2", [ended(Outcome.REJECTED, row=0)])
    for minutes, kind in enumerate((EventKind.RETRIED, EventKind.JUDGED, EventKind.FAILED)):
        write_event(output, event(kind, minutes=minutes, clip_id="cd34", run_id="run-2"))

    summary = summarise(output)

    assert list_runs(output) == {"run-1", "run-2"}
    assert summary.num_committed == 1
    finished, killed = summary.runs
    assert (finished.run.end is None, finished.counts) == (False, {"rendered": 1, "failed": 1})
    assert (killed.run.end is None, killed.counts) == (True, {"rejected": 1, "failed": 1})
    assert summary.reasons == {"failed: OutOfMemory: too big": 1, "rejected: OutOfMemory: too big": 1}
