"""What a run records of its rows, without Ray: real schedule, real ledger, nothing rendered."""

import time
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from lynx_batch.clip import ClipSpec, Rejection, RenderIdentity
from lynx_batch.execution.outcomes import RunRecorder
from lynx_batch.execution.prepare import PreparedRun
from lynx_batch.execution.tasks import Failed, Rendered, RenderTask
from lynx_batch.ledger.commits import commit
from lynx_batch.ledger.metadata import read_metadata
from lynx_batch.ledger.runs import RunRecord, read_runs, write_run_record
from lynx_batch.planning.schedule import ClipState, Fault, RetryPolicy, Schedule
from tests.unit.test_ledger import clip, record
from tests.unit.test_schedule import planned

IDENTITY = RenderIdentity(
    base="b",
    id_adapter="a",
    ref_adapter=None,
    face_pack="p",
    identity_encoder="e",
    is_parity=False,
    precision="float32",
)
NUM_MANY = 1000
MIN_CLIPS_PER_S = 200


def begin(output: str, run_id: str, clips: list[ClipSpec], rejections: list[Rejection] | None = None) -> RunRecorder:
    manifest = pa.table({"row": range(len(clips)), "subject_uri": ["a.jpg"] * len(clips)})
    started = RunRecord(started_at=datetime.now(UTC), num_rows=len(clips))
    write_run_record(output, run_id, started, run_yaml=b"", manifest=manifest, environment={})
    prepared = PreparedRun(manifest=manifest, identity=IDENTITY, clips=clips, rejections=rejections or [])
    recorder = RunRecorder(output, run_id, prepared)
    recorder.settle_past()
    return recorder


def task(spec: ClipSpec) -> RenderTask:
    return RenderTask(clip=spec, attempt="run-1", impossible_s=0)


def failure(fault: Fault) -> Failed:
    return Failed(error_type="OutOfMemory", error="too big", fault=fault)


def test_every_row_ends_once_and_a_killed_run_leaves_what_had_ended(tmp_path: Path) -> None:
    output = str(tmp_path)
    clips = [clip(name, row) for row, name in enumerate(["aa", "bb", "bb", "cc", "dd", "ee"])]
    lost = begin(output, "killed", clips, [Rejection(row=6, error_type="InvalidRow", error="width=1")])
    assert read_metadata(output)["row"].to_pylist() == [6], "what intake rejected is told from the start"
    lost.rendered(
        task(clips[0]), "g", Rendered(commit=commit(output, record("aa", run_id="killed")), spans=()), attempts=1
    )
    lost.failed(task(clips[1]), "g", failure(Fault.CLIP), ClipState.FAILED, attempts=3)
    lost.failed(task(clips[3]), "g", failure(Fault.MACHINE), ClipState.WAITING, attempts=0)
    while len(list((tmp_path / "events" / "run=killed").glob("*.json"))) < 3:
        pass  # then the driver is killed

    found = begin(output, "next", clips)
    assert [open_clip.clip_id for open_clip in found.open_clips] == ["cc", "dd", "ee"]
    commit(output, record("cc", run_id="rival"))
    found.failed(task(clips[4]), "g", failure(Fault.CLIP), ClipState.WAITING, attempts=2)
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


def test_schedule_and_ledger_take_hundreds_of_clips_a_second(tmp_path: Path) -> None:
    clips = [clip(f"{row:032x}", row) for row in range(NUM_MANY)]
    recorder, schedule = begin(str(tmp_path), "run", clips), Schedule(RetryPolicy())
    started_s = time.perf_counter()
    schedule.plan(map(planned, recorder.open_clips), (1,))
    schedule.join("g", 1)
    while taken := schedule.take("g"):
        schedule.rendered(taken.clip.clip_id)
        recorder.rendered(task(taken.clip), "g", Rendered(commit=record(taken.clip.clip_id), spans=()), attempts=1)
    recorder.close("")
    assert NUM_MANY / (time.perf_counter() - started_s) > MIN_CLIPS_PER_S
    assert read_metadata(str(tmp_path), ["row"]).num_rows == NUM_MANY
