"""How a run begins and ends, as far as that needs no Ray: nothing renders here."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from lynx_batch import api, storage
from lynx_batch.clip import Rejection
from lynx_batch.config import QualityConfig, load_run_config
from lynx_batch.errors import LimitReached, StoreRefused, StoreUnready
from lynx_batch.execution.ending import carry_out
from lynx_batch.execution.run import describe_start
from lynx_batch.ledger.heartbeat import living_runs
from lynx_batch.ledger.metadata import Outcome
from lynx_batch.output import commit_uri
from lynx_batch.planning.verdict import NOT_GOOD_ENOUGH, UNSAFE_CONTENT
from lynx_batch.preparation.prepare import PreparedRun
from lynx_batch.preparation.selection import Selection
from tests.builders import begin, checked_model, ended, recorded_try, row, small_clip, start_run, write_metadata
from tests.jobs import Job

STRICT = QualityConfig(technical=False, likeness={"min_p10": 0.9}, max_reseeds=0)


@pytest.fixture
def job(tmp_path: Path, face_pack: Path) -> Job:
    """No photo of it exists, so nothing renders."""
    return Job(folder=tmp_path, face_pack=face_pack, rows=[row(str(tmp_path / "none.jpg"))])


def begin_job(job: Job, announce: Callable[[str], None]) -> None:
    config = load_run_config(job.folder / "run.yaml", {})
    api.render(config, Selection(allow_invalid=True), run_id="r1", announce=announce)


def test_a_run_is_alive_when_its_record_is_written_and_is_no_rival_of_its_own(job: Job) -> None:
    lines, beats = list[str](), list[bool]()
    files = Path(job.output) / "runs" / "r1"

    def watch(line: str) -> None:
        lines.append(line)
        beats.append(
            files.joinpath("heartbeat.json").stat().st_mtime_ns <= files.joinpath("run.json").stat().st_mtime_ns
        )

    begin_job(job, watch)
    assert lines[0].startswith("run r1: 1 row, 0 to render, 0 rendered before, 1 rejected")
    assert all(beats)
    assert living_runs(job.output, datetime.now(UTC)) == {}


def test_a_run_that_cannot_start_leaves_no_heartbeat(job: Job) -> None:
    (Path(job.output) / "runs" / "r1" / "clips.parquet").mkdir(parents=True)
    with pytest.raises(StoreRefused):
        begin_job(job, print)
    assert (Path(job.output) / "runs" / "r1" / "run.json").exists()
    assert living_runs(job.output, datetime.now(UTC)) == {}


def test_a_run_says_of_each_clip_that_was_given_up_what_takes_it_up_again(tmp_path: Path) -> None:
    output, names = str(tmp_path), ["aa", "bb", "cc", "dd", "ee", "ff"]
    clips = [small_clip(name, number) for number, name in enumerate(names)]
    start_run(output, "earlier")
    reasons = {"aa": "OutOfMemory", "bb": "OutOfMemory", "cc": NOT_GOOD_ENOUGH, "dd": UNSAFE_CONTENT}
    given_up = [
        replace(ended(Outcome.REJECTED, clip), error_type=reasons[clip.clip_id])
        for clip in clips
        if clip.clip_id in reasons
    ]
    write_metadata(output, "earlier", given_up)
    recorded_try(output, 0, clip_id="cc")
    storage.write_bytes(commit_uri(output, "ee", 1), b"{")
    rejections = [Rejection(row=number, error_type="UnsafePhoto", error="why", inputs={}) for number in (6, 7)]
    recorder = begin(output, "r1", clips, rejections, STRICT)

    prepared = PreparedRun(
        manifest=pa.table({"row": range(8)}), model=checked_model(), clips=clips, rejections=rejections
    )
    told = describe_start("r1", output, prepared, recorder).splitlines()[0]

    assert told == (
        "run r1: 8 rows, 1 to render, 0 rendered before, 2 given up before (`lynx-batch retry` takes them up again), "
        "1 rejected before by the quality gate (other limits, more reseeds or `lynx-batch accept` change that), "
        "1 rejected before as unsafe, for good, 1 with damaged records (`lynx-batch verify OUT --repair`, then render again), "
        "2 rejected"
    )


@pytest.mark.parametrize("refusal", [StoreRefused("forbidden"), StoreUnready("no credentials")])
def test_a_limited_run_whose_records_are_refused_was_stopped_by_the_store(refusal: StoreRefused) -> None:
    def reach_limit() -> None:
        raise LimitReached("limits.max_usd=1 is spent")

    def refuse(stopped_by: str, earlier: StoreRefused | None) -> str:
        raise refusal

    limited = carry_out(reach_limit, lambda stopped_by, earlier: stopped_by, "")
    assert (limited.stopped_by, limited.is_limited, limited.is_refused) == ("limits.max_usd=1 is spent", True, False)
    refused = carry_out(reach_limit, refuse, "")
    is_final = not isinstance(refusal, StoreUnready)
    assert (refused.stopped_by, refused.is_limited, refused.is_refused) == (str(refusal), False, is_final)
