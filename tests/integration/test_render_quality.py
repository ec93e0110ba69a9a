"""Runs with a quality gate on a real Ray: every clip ends, and later runs with other rules go on from the recorded tries.

The tiny model renders noise, in which nobody is found and which a cut detector dislikes: so rules that any face breaks reject
every clip, and rules that ask for nothing accept it. Where some seeds are to fail and others not, the likeness is scripted.
"""

import os
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lynx_batch import storage
from lynx_batch.clip import seed_of_try
from lynx_batch.config import load_run_config
from lynx_batch.ledger.judged_tries import read_sample
from lynx_batch.ledger.numbering import list_tries
from lynx_batch.ledger.tries import TryRecord, read_each, read_tries
from lynx_batch.preparation.model import check_model
from lynx_batch.preparation.prepare import prepare
from lynx_batch.preparation.selection import Selection
from lynx_batch.yaml_text import read_yaml, write_yaml
from tests.builders import HOPPER, row
from tests.heads import Head
from tests.jobs import Job, invoke, wait_until, workers_of
from tests.models import ROOT

STRICT = {
    "likeness": {"min_face_share": 1.0},
    "technical": False,
    "max_reseeds": 1,
    "num_frames": 2,
    "keep_rejected": "clip",
}
LENIENT = {"likeness": {"min_face_share": 0.0}, "technical": False, "num_frames": 2}


SCRIPTED = {"likeness": {"min_p10": 0.3}, "technical": False, "num_frames": 2, "keep_rejected": "clip"}
NUM_CLIPS, NUM_POOR, NUM_POOR_SEEDS = 12, 4, 2


@pytest.fixture
def make_job(tmp_path: Path, face_pack: Path, head: Head) -> Callable[..., Job]:
    def make(quality: dict[str, object] | None, num_rows: int = 3, head: Head | None = head) -> Job:
        rows = [{**row(str(HOPPER)), "seed": None, "prompt": f"A person waves {number}."} for number in range(num_rows)]
        return Job(folder=tmp_path, face_pack=face_pack, rows=rows, steps=1, settings={"quality": quality}, head=head)

    return make


def change_rules(job: Job, quality: dict[str, object] | None) -> None:
    file = job.folder / "run.yaml"
    file.write_text(write_yaml(read_yaml(file.read_text(), source=str(file)) | {"quality": quality}))


def tries_in(job: Job) -> list[tuple[object, object, object]]:
    """What the metadata keeps of the best try of each row."""
    return [(r["num_tries"], r["likeness_face_share"], len(r["scores"]) > 20) for r in job.metadata()]


def outcomes(job: Job) -> list[tuple[object, object]]:
    return [(r["outcome"], r["error_type"]) for r in job.metadata()]


@pytest.mark.slow
def test_rejected_clips_stay_rejected_until_the_rules_allow_more(make_job: Callable[..., Job]) -> None:
    job = make_job(STRICT)
    first = job.run()
    assert first.exit_code == 3, first.stderr
    assert outcomes(job) == [("rejected", "NotGoodEnough")] * 3
    assert all("likeness_face_share=0.00: must be at least 1" in str(r["error"]) for r in job.metadata())
    assert job.num_commits() == 0
    kinds = [event.kind for event in job.events()]
    assert (kinds.count("judged"), kinds.count("rejected")) == (3, 3)
    ids = [str(r["clip_id"]) for r in job.metadata()]
    assert [len(read_tries(job.output, clip_id, 1)) for clip_id in ids] == [2, 2, 2]
    assert tries_in(job) == [(2, 0.0, True)] * 3

    again = job.run()
    assert again.exit_code == 3, again.stderr
    assert "0 to render" in again.stdout
    assert outcomes(job) == [("rejected", "NotGoodEnough")] * 3
    assert tries_in(job) == [(2, 0.0, True)] * 3

    (job.folder / "list.txt").write_text(ids[0])
    assert invoke("accept", job.output, "--list", job.folder / "list.txt", "--by", "Ada").exit_code == 0
    videos = {file.uri for file in storage.list_files(storage.join(job.output, "clips"))}
    change_rules(job, LENIENT)
    lenient = job.run()
    assert lenient.exit_code == 0, lenient.stderr
    assert outcomes(job) == [("rendered", None)] * 3
    assert {
        file.uri for file in storage.list_files(storage.join(job.output, "clips"))
    } == videos  # nothing was rendered
    assert tries_in(job) == [(2, 0.0, True)] * 3
    assert [r["accepted_by"] for r in job.metadata()] == ["Ada", None, None]
    assert [dict(r["thresholds"]) for r in job.metadata()] == [{}, *[{"likeness_face_share": 0.0}] * 2]
    assert {commit["try_number"] for commit in job.commits()} <= {0, 1}

    told = invoke("quality", "calibrate", job.output, "--out", str(job.folder / "quality.png"))
    assert told.exit_code == 0, told.output
    assert "6 judged tries of 3 clips, 3 of them committed" in told.stdout
    identity = check_model(load_run_config(job.folder / "run.yaml", {})).identity
    assert len(read_sample(job.output, identity)) == 6, "what `plan` expects tries by"


@pytest.mark.slow
def test_without_a_gate_what_it_rejected_is_rendered(make_job: Callable[..., Job]) -> None:
    job = make_job({**STRICT, "max_reseeds": 0}, num_rows=1)
    assert job.run().exit_code == 3
    change_rules(job, None)

    assert job.run().exit_code == 0
    assert outcomes(job) == [("rendered", None)]
    assert job.metadata()[0]["likeness_mean"] is None


@pytest.mark.slow
def test_best_of_two_renders_both_seeds_of_every_clip_but_one_of_a_given_seed(make_job: Callable[..., Job]) -> None:
    job = make_job({**LENIENT, "best_of": 2}, num_rows=2)
    job.rows[1]["seed"] = 5
    job.__post_init__()
    done = job.run()

    assert done.exit_code == 0, done.stderr
    ids = [str(r["clip_id"]) for r in job.metadata()]
    assert [[t.number for t in read_tries(job.output, clip_id, 1)] for clip_id in ids] == [[0, 1], [0]]
    assert {commit["attempt"] for commit in job.commits()} == {r["attempt"] for r in job.metadata()}


@pytest.mark.slow
def test_an_unsafe_photo_rejects_its_rows_and_nothing_is_rendered_or_tried_again(make_job: Callable[..., Job]) -> None:
    job = make_job({"safety": {"max_score": 1e-4}}, num_rows=2)
    for _ in range(2):
        result = job.run()
        assert result.exit_code == 3, result.stderr
        assert outcomes(job) == [("rejected", "UnsafePhoto")] * 2
        assert all("must be below 0.0001 (quality.safety.max_score)" in str(r["error"]) for r in job.metadata())
    assert "0 to render" in result.stdout
    assert [event.kind for event in job.events()] == ["rejected"] * 2
    assert [*storage.list_files(storage.join(job.output, "clips"))] == []


class Scripted:
    """A job of 12 clips, of which 4 pass with their third seed only."""

    def __init__(self, job: Job) -> None:
        self.job, self._log = job, job.folder / "judged.txt"
        clips = prepare(load_run_config(job.folder / "run.yaml", {}), Selection(), datetime.now(UTC)).clips
        poor = [seed_of_try(clip, number) for clip in clips[:NUM_POOR] for number in range(NUM_POOR_SEEDS)]
        path = os.pathsep.join([str(ROOT / "tests" / "scripted_scores"), str(ROOT)])
        job.env = {"PYTHONPATH": path, "POOR_SEEDS": ",".join(map(str, poor)), "JUDGED_SEEDS": str(self._log)}

    def judged(self) -> list[int]:
        """The seeds that were judged, in this order."""
        return [int(line) for line in self._log.read_text().split()] if self._log.exists() else []

    def recorded(self) -> list[TryRecord]:
        tries = list_tries(storage.join(self.job.output, "tries"))
        return [record for _, record in read_each(self.job.output, tries) if isinstance(record, TryRecord)]

    def check_end(self) -> None:
        assert outcomes(self.job) == [("rendered", None)] * NUM_CLIPS
        numbers = Counter(commit["try_number"] for commit in self.job.commits())
        assert numbers == {0: NUM_CLIPS - NUM_POOR, NUM_POOR_SEEDS: NUM_POOR}
        assert len(self.recorded()) == NUM_CLIPS + NUM_POOR * NUM_POOR_SEEDS


@pytest.fixture
def scripted(make_job: Callable[..., Job]) -> Scripted:
    return Scripted(make_job(SCRIPTED, num_rows=NUM_CLIPS, head=None))


@pytest.mark.slow
@pytest.mark.only_chaos
def test_clips_whose_first_seeds_fail_are_rendered_with_the_next_ones(scripted: Scripted) -> None:
    done = scripted.job.run()

    assert done.exit_code == 0, done.stderr
    scripted.check_end()
    assert len(scripted.judged()) == len(set(scripted.judged())) == len(scripted.recorded())


@pytest.mark.slow
def test_a_recorded_try_is_not_rendered_again_after_a_kill(scripted: Scripted) -> None:
    driver = scripted.job.start()
    wait_until(lambda: len(scripted.recorded()) >= NUM_CLIPS // 2, driver)
    workers = workers_of(driver)
    driver.kill()
    driver.communicate()
    wait_until(lambda: not any(worker.is_running() for worker in workers))
    recorded, judged_before = {record.commit.seed for record in scripted.recorded()}, scripted.judged()
    assert NUM_CLIPS // 2 <= len(recorded) < NUM_CLIPS + NUM_POOR * NUM_POOR_SEEDS, "it was killed in the middle"

    done = scripted.job.run()

    assert done.exit_code == 0, done.stderr
    scripted.check_end()
    judged_after = scripted.judged()[len(judged_before) :]
    assert not recorded & set(judged_after)
    assert len(judged_after) == len(set(judged_after))


@pytest.mark.slow
def test_a_redo_without_a_gate_commits_another_seed_as_a_new_edition(make_job: Callable[..., Job]) -> None:
    job = make_job(None, num_rows=2)
    assert job.run().exit_code == 0
    (first, second) = job.commits()
    asked = job.run("--redo", "--where", f"clip_id == '{first['clip_id']}'", command="retry")
    assert asked.exit_code == 0, asked.stderr

    done = job.run()

    assert done.exit_code == 0, done.stderr
    redone = next(commit for commit in job.commits() if commit["edition"] == 2 and "attempt" in commit)
    assert (redone["clip_id"], redone["try_number"], redone["scores"]) == (first["clip_id"], 1, {})
    assert redone["seed"] != first["seed"]
    assert {r["clip_id"]: r["attempt"] for r in job.metadata()} == {
        first["clip_id"]: redone["attempt"],
        second["clip_id"]: second["attempt"],
    }
