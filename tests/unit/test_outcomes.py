"""What a run records of its rows, without Ray: real schedule, real ledger, nothing rendered."""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import structlog

from lynx_batch import storage
from lynx_batch.clip import ClipSpec, Rejection
from lynx_batch.errors import Fault
from lynx_batch.execution import outcomes
from lynx_batch.interrupts import ENDING, end_politely
from lynx_batch.ledger import parts
from lynx_batch.ledger.commits import Withdrawal, commit, withdraw
from lynx_batch.ledger.history import known_commits
from lynx_batch.ledger.logs import list_log_parts, read_log_parts, uploading
from lynx_batch.ledger.metadata import RESULT_COLUMNS, read_metadata, results_of
from lynx_batch.ledger.runs import read_runs
from lynx_batch.ledger.tries import BestTry
from lynx_batch.output import LOG_OF_DRIVER, commit_uri
from lynx_batch.planning.schedule import ClipState, RetryPolicy, Schedule
from lynx_batch.planning.verdict import Reject
from lynx_batch.rendering.tasks import Failed, Judged, Rendered, RenderTask
from lynx_batch.stages import CLIP_STAGES
from lynx_batch.telemetry import configure_logging
from tests.builders import NOW, begin, planned, record, recorder_of, small_clip

NUM_MANY = 1000
MIN_CLIPS_PER_S = 200


def task(spec: ClipSpec) -> RenderTask:
    return RenderTask(clip=spec, attempt="run-1", min_plausible_s=0)


def failure(fault: Fault) -> Failed:
    return Failed(error_type="OutOfMemory", error="too big", fault=fault)


def test_every_row_ends_once_and_a_killed_run_leaves_what_had_ended(tmp_path: Path) -> None:
    output = str(tmp_path)
    clips = [small_clip(name, row) for row, name in enumerate(["aa", "bb", "bb", "cc", "dd", "ee"])]
    lost = begin(
        output,
        "killed",
        clips,
        [Rejection(row=6, error_type="InvalidRow", error="width=1", inputs={"prompt": "Hi.", "width": 1})],
    )
    (told,) = read_metadata(output).to_pylist()
    assert (told["row"], told["prompt"], told["width"]) == (6, "Hi.", 1), "what intake rejected is told from the start"
    lost.rendered(
        task(clips[0]), "g", Rendered(commit=commit(output, record("aa", run_id="killed")), spans=()), attempts=1
    )
    lost.failed(task(clips[1]), "g", failure(Fault.CLIP), ClipState.FAILED, attempts=3, deaths=0)
    lost.failed(task(clips[3]), "g", failure(Fault.MACHINE), ClipState.WAITING, attempts=0, deaths=0)
    while len(list((tmp_path / "events" / "run=killed").glob("*.json"))) < 3:
        pass  # then the driver is killed

    found = begin(output, "next", clips)
    assert [open_clip.clip_id for open_clip in found.open_clips] == ["cc", "dd", "ee"]
    commit(output, record("cc", run_id="rival"))
    found.failed(task(clips[4]), "g", failure(Fault.CLIP), ClipState.WAITING, attempts=2, deaths=0)
    found.close("interrupted")

    rows = {row["row"]: row for row in read_metadata(output).to_pylist() if row["run"] == "next"}
    told = [(rows[n]["outcome"], rows[n]["rendered_by_run"], rows[n]["attempts"]) for n in range(6)]
    assert told == [
        ("rendered", "killed", 0),
        ("failed", None, 0),
        ("failed", None, 0),
        ("rendered", "rival", 0),
        ("abandoned", None, 2),
        ("abandoned", None, 0),
    ]
    assert (rows[1]["error"], rows[4]["error"]) == ("too big", "too big")
    assert found.num_rendered_elsewhere == 2
    end = {run.run_id: run.end for run in read_runs(output)}["next"]
    assert end is not None
    assert (end.stopped_by, end.counts) == ("interrupted", {"rendered": 2, "failed": 2, "abandoned": 2})


def test_a_commit_whose_answer_was_lost_counts_as_the_attempt_that_it_was(tmp_path: Path) -> None:
    output, names = str(tmp_path), ["aa", "bb", "cc"]
    clips = [small_clip(name, row) for row, name in enumerate(names)]
    recorder = begin(output, "run", clips)
    recorder.failed(task(clips[0]), "g", failure(Fault.MACHINE), ClipState.WAITING, attempts=0, deaths=0)
    recorder.failed(task(clips[1]), "g", failure(Fault.CLIP), ClipState.WAITING, attempts=1, deaths=0)
    for name, run_id in zip(names, ("run", "run", "rival"), strict=True):
        commit(output, record(name, run_id=run_id))

    recorder.close("too many faults")

    rows = sorted(read_metadata(output).to_pylist(), key=lambda row: row["row"])
    assert [(row["outcome"], row["attempts"]) for row in rows] == [("rendered", 1), ("rendered", 2), ("rendered", 0)]


def test_rows_whose_commits_vanish_are_abandoned_or_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = str(tmp_path)
    clips = [small_clip(name, row) for row, name in enumerate(["aa", "bb", "cc"])]
    recorder = begin(output, "run", clips)
    for spec, max_rows in zip(clips, (1, 10, 10), strict=True):
        monkeypatch.setattr(parts, "MAX_ROWS", max_rows)  # the first row is written at once
        made = commit(output, record(spec.clip_id))
        recorder.rendered(task(spec), "g", Rendered(commit=made, spans=()), attempts=1)
    for clip_id in ("aa", "bb"):
        storage.delete(commit_uri(output, clip_id, 1))

    stopped_by = recorder.close("")

    assert stopped_by == "2 rendered clips without a commit: it has vanished or was withdrawn"
    rows = read_metadata(output).to_pylist()
    assert {row["clip_id"]: row["outcome"] for row in rows} == {"aa": "rendered", "bb": "abandoned", "cc": "rendered"}
    (run,) = read_runs(output)
    assert run.end is not None
    assert (recorder.clips_gone, run.end.clips_gone, run.end.stopped_by) == (("aa",), ("aa",), stopped_by)
    assert [spec.clip_id for spec in begin(output, "next", clips).open_clips] == ["aa", "bb"]


def test_a_clip_with_a_damaged_commit_is_not_rendered_again(tmp_path: Path) -> None:
    output = str(tmp_path)
    storage.write_bytes(commit_uri(output, "aa", 1), b"{")
    recorder = begin(output, "run", [small_clip("aa", 0), small_clip("bb", 1)])
    assert [spec.clip_id for spec in recorder.open_clips] == ["bb"]
    recorder.close("")
    first, _ = sorted(read_metadata(output).to_pylist(), key=lambda row: row["row"])
    assert (first["outcome"], "verify OUT --repair" in first["error"]) == ("abandoned", True)


def test_a_withdrawn_clip_is_rendered_as_its_next_edition(tmp_path: Path) -> None:
    output, spec = str(tmp_path), small_clip("aa", 0)
    first = begin(output, "first", [spec])
    first.rendered(task(spec), "g", Rendered(commit=commit(output, record("aa")), spans=()), attempts=1)
    first.close("")
    withdrawal = Withdrawal(clip_id="aa", edition=1, reason="damaged", withdrawn_at=NOW, command="verify --repair")
    withdraw(output, withdrawal)

    second = begin(output, "second", [spec])

    assert [(c.clip_id, second.editions.wanted(c.clip_id)) for c in second.open_clips] == [("aa", 2)]
    made = commit(output, record("aa", attempt="run-2").model_copy(update={"edition": 2}))
    second.rendered(task(spec), "g", Rendered(commit=made, spans=()), attempts=1)
    assert second.close("") == ""
    rows = [row for row in read_metadata(output).to_pylist() if row["run"] == "second"]
    assert [(row["edition"], row["outcome"], row["attempt"]) for row in rows] == [(2, "rendered", "run-2")]


def test_schedule_and_ledger_handle_hundreds_of_clips_a_second(tmp_path: Path) -> None:
    clips = [small_clip(f"{row:032x}", row) for row in range(NUM_MANY)]
    recorder, schedule = begin(str(tmp_path), "run", clips), Schedule(RetryPolicy())
    started_s = time.perf_counter()
    schedule.plan(map(planned, recorder.open_clips), (1,))
    schedule.join("g", 1)
    configure_logging()
    with uploading(str(tmp_path), "run", LOG_OF_DRIVER):
        while taken := schedule.take("g"):
            schedule.rendered(taken.clip.clip_id)
            recorder.rendered(task(taken.clip), "g", Rendered(commit=record(taken.clip.clip_id), spans=()), attempts=1)
        recorder.close("")
    structlog.reset_defaults()
    assert len(list(read_log_parts(list_log_parts(str(tmp_path), "run")))) == NUM_MANY
    assert NUM_MANY / (time.perf_counter() - started_s) > MIN_CLIPS_PER_S
    assert read_metadata(str(tmp_path), ["row"]).num_rows == NUM_MANY


def test_a_row_that_another_run_rendered_is_the_same_from_its_metadata_and_from_its_commit(tmp_path: Path) -> None:
    output, clips = str(tmp_path), [small_clip(name, row) for row, name in enumerate(["aa", "bb", "bb", "cc"])]
    scored = {"scores": {"likeness_mean": 0.5, "technical_cuts": 0.0}, "thresholds": {"quality.likeness.min_mean": 0.4}}
    marked = {"marks": ("label",), "failed_marks": {"c2pa": "no answer"}, "num_tries": 2, "try_number": 1}
    first = begin(output, "first", clips)
    for name, more in (("aa", scored), ("bb", marked), ("cc", {"allows_missing_consent": False})):
        made = commit(output, record(name, run_id="first").model_copy(update=more))
        first.rendered(task(small_clip(name)), "g", Rendered(commit=made, spans=()), attempts=1)
    first.close("")

    from_metadata = begin(output, "second", clips)
    from_metadata.close("")
    shutil.rmtree(tmp_path / "metadata" / "run=first")
    shutil.rmtree(tmp_path / "runs" / "second")  # so that its metadata is not asked
    from_commits = begin(output, "third", clips)
    from_commits.close("")

    assert from_metadata.counts == from_commits.counts == {"rendered": 4}
    assert from_metadata.num_rendered_elsewhere == from_commits.num_rendered_elsewhere == 4
    rows = read_metadata(output).sort_by([("run", "ascending"), ("row", "ascending")]).to_pylist()
    copied, made_anew = ([row | {"run": ""} for row in rows if row["run"] == run] for run in ("second", "third"))
    assert copied == made_anew
    assert [row["row"] for row in copied] == [0, 1, 2, 3]


def test_the_results_in_the_metadata_are_those_of_a_commit() -> None:
    assert {name for name, _ in results_of(record())} | {stage.column for stage in CLIP_STAGES} == RESULT_COLUMNS


def test_a_rejected_row_keeps_the_scores_of_its_best_try_in_this_run_and_the_next(tmp_path: Path) -> None:
    output, clip = str(tmp_path), small_clip("aa")
    run = begin(output, "first", [clip])
    best = BestTry(number=1, seed=77, scores={"likeness_p10": 0.2, "unsafe": 0.9, "motion_p10": 3.0}, num_tries=2)
    run.judged(task(clip), "g", Judged(verdict=Reject("unsafe", is_unsafe=True), best=best), attempts=0)
    run.close("")
    begin(output, "second", [clip]).close("")

    columns = ["run", "outcome", "seed", "try_number", "num_tries", "likeness_p10", "likeness_mean", "unsafe"]
    rows = read_metadata(output, columns).sort_by("run").to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        (name, "rejected", 77, 1, 2, 0.2, None, 0.9) for name in ("first", "second")
    ]
    assert dict(read_metadata(output, ["scores"])["scores"].to_pylist()[0]) == best.scores


def test_the_metadata_have_the_seed_that_was_committed(tmp_path: Path) -> None:
    output, spec = str(tmp_path), small_clip("ab12", 0)
    recorder = begin(output, "run", [spec])
    made = commit(output, record(run_id="run").model_copy(update={"seed": 99, "try_number": 2}))
    recorder.rendered(task(spec), "g", Rendered(commit=made, spans=()), attempts=1)
    recorder.close("")
    begin(output, "next", [spec]).close("")
    assert read_metadata(output, ["seed", "try_number"]).to_pylist() == [{"seed": 99, "try_number": 2}] * 2
    assert [known.seed for known in known_commits(output, {"ab12": 1})] == [99]


@pytest.fixture
def signals() -> Iterator[None]:
    """The first signal is an interrupt, as in a command."""
    before = {number: signal.getsignal(number) for number in ENDING}
    end_politely()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize("moment", ["to_table", "to_parquet", "with_results"])
def test_an_interrupt_at_any_moment_loses_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    output, clips = str(tmp_path), [small_clip(name, row) for row, name in enumerate(["aa", "bb", "cc"])]
    for spec in clips[:2]:
        commit(output, record(spec.clip_id, run_id="first"))
    begin(output, "first", clips).close("")
    recorder = recorder_of(output, "second", clips)
    for module in (parts, outcomes):
        if hasattr(module, moment):
            monkeypatch.setattr(module, moment, interrupting(getattr(module, moment)))
    with suppress(KeyboardInterrupt):
        recorder.settle_past()
    monkeypatch.undo()
    recorder.close("interrupted")
    rows = [row for row in read_metadata(output).to_pylist() if row["run"] == "second"]
    assert sorted((row["row"], row["outcome"]) for row in rows) == [(0, "rendered"), (1, "rendered"), (2, "abandoned")]


def interrupting(function: Callable[..., object]) -> Callable[..., object]:
    """The same function, but a signal arrives when it is called for the first time."""
    arrived = iter([True])

    def interrupted(*arguments: object) -> object:
        if next(arrived, False):
            os.kill(os.getpid(), signal.SIGINT)
        return function(*arguments)

    return interrupted
