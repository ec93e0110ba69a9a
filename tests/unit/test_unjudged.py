"""`judge`: clips that were committed without a quality gate get scores later. Real videos, photos and scorers; nothing is rendered."""

import hashlib
import shutil
from pathlib import Path

import pytest
from typer.testing import Result as CliResult

from lynx_batch import storage
from lynx_batch.clip import ClipSpec
from lynx_batch.config import QualityConfig, RunConfig
from lynx_batch.ledger.commits import commit, read_commit
from lynx_batch.ledger.editions import list_editions
from lynx_batch.ledger.history import known_commits
from lynx_batch.ledger.metadata import read_metadata
from lynx_batch.output import RUN_FILE, judgement_uri, run_file_uri
from lynx_batch.rendering.tasks import Rendered, RenderTask
from lynx_batch.rendering.unjudged import find_unjudged, judge_all
from lynx_model.faces.reader import FaceReader
from lynx_model.spec import RenderParams
from tests.builders import COLLINS, HOPPER, begin, make_clip, make_request, record, tiny_run, write_run
from tests.clips import encode, film, load_photo
from tests.jobs import invoke
from tests.scorers import save_clip_model

PARAMS = RenderParams(prompt="A person waves.", width=208, height=128, num_frames=9, seed=1)
OWN, OTHER, LOST, SCORED, UNKNOWN = "aa", "bb", "cc", "dd", "ee"


@pytest.fixture(scope="module")
def videos(face_pack: Path) -> dict[str, bytes]:
    """Of each clip; the subject's photo shows Collins."""
    reader = FaceReader.load(str(face_pack), "pack")
    sizes = {"width": PARAMS.width, "height": PARAMS.height, "num_frames": PARAMS.num_frames}
    own, other = (encode(film(reader, load_photo(photo), **sizes)) for photo in (COLLINS, HOPPER))
    return {OWN: own, OTHER: other, LOST: own, SCORED: own, UNKNOWN: own}


@pytest.fixture
def output(tmp_path: Path, face_pack: Path, videos: dict[str, bytes]) -> str:
    """A run without a gate that has committed all of the clips, and another one that has metadata of all but one."""
    output = str(tmp_path / "out")
    photo = shutil.copy(COLLINS, tmp_path / "photo.jpg")
    clips = {
        name: request_of(name, photo if name != LOST else shutil.copy(COLLINS, tmp_path / "lost.jpg"))
        for name in (OWN, OTHER, LOST, SCORED)
    }
    run = begin(output, "run", [*clips.values()])
    write_run_file(output, "run", face_pack)
    for name, video in videos.items():
        scores = {"likeness_p10": 0.5} if name == SCORED else {}
        made = record(name).model_copy(update={"scores": scores, "sha256": hashlib.sha256(video).hexdigest()})
        storage.write_bytes(storage.join(output, made.clip_uri), video)
        done = commit(output, made)
        if name in clips:
            run.rendered(
                RenderTask(clip=clips[name], attempt="run-1"), "g", Rendered(commit=done, spans=()), attempts=1
            )
    run.close("")
    (tmp_path / "lost.jpg").unlink()
    return output


def request_of(name: str, photo: Path) -> ClipSpec:
    sha256 = hashlib.sha256(COLLINS.read_bytes()).hexdigest()
    return make_clip(name, make_request(PARAMS, subject_uri=str(photo)), photo_sha256=sha256)


def write_run_file(output: str, run_id: str, face_pack: Path, **sections: object) -> None:
    config = RunConfig.model_validate(tiny_run(face_pack, **sections))
    storage.write_bytes(run_file_uri(output, run_id, RUN_FILE), config.to_yaml())


def judge(output: str, *options: object) -> CliResult:
    return invoke("judge", output, "--workers", 1, *options)


def scores_of(output: str) -> dict[str, dict[str, float]]:
    return {found.clip_id: found.scores for found in known_commits(output, list_editions(output).in_force)}


def test_clips_get_scores_once_and_those_that_cannot_are_listed(output: str, tmp_path: Path) -> None:
    first = judge(output)

    assert first.exit_code == 3, first.output
    for told in (
        "2 clips judged, 1 had scores before",
        f"clip {LOST}: MissingObject: {tmp_path}/lost.jpg",
        f"clip {UNKNOWN}: no run's",
    ):
        assert told in first.stdout, first.stdout
    scores = scores_of(output)
    assert scores[OWN]["likeness_p10"] > 0.5 > 0.25 > scores[OTHER]["likeness_mean"]
    assert {"technical_num_cuts", "motion_mean", "unsafe"} < scores[OWN].keys()
    assert scores[OWN]["technical_is_as_ordered"] == 1
    assert (scores[LOST], scores[SCORED], scores[UNKNOWN]) == ({}, {"likeness_p10": 0.5}, {})
    assert read_commit(output, OWN, 1).scores == {}, "a commit never changes"

    kept = storage.read_bytes(judgement_uri(output, OWN, 1))
    again = judge(output)
    assert (again.exit_code, "0 clips judged, 3 had scores before" in again.stdout) == (3, True), again.stdout
    assert storage.read_bytes(judgement_uri(output, OWN, 1)) == kept

    begin(output, "next", [request_of(OWN, tmp_path / "photo.jpg")]).close("")
    rows = read_metadata(output, ["run", "likeness_p10", "scores"]).to_pylist()
    (row,) = (row for row in rows if row["run"] == "next")
    assert (row["likeness_p10"], dict(row["scores"])) == (scores[OWN]["likeness_p10"], scores[OWN])


def test_a_part_is_judged_and_the_rest_later(output: str) -> None:
    limited = judge(output, "--limit", 1)
    assert "1 clip judged, 1 had scores before\n2 clips left without scores (--limit)" in limited.stdout
    judging = judge_all(output, find_unjudged(output).clips, QualityConfig(), num_workers=1)
    assert next(judging) == (OTHER, None)
    judging.close()  # as Ctrl-C does
    backlog = find_unjudged(output, "run")
    assert [clip.commit.clip_id for clip in backlog.clips] == [LOST]
    assert (backlog.num_committed, backlog.left_out) == (4, {}), "the run has no row of the other one"


def test_what_has_changed_is_not_judged(output: str, tmp_path: Path, face_pack: Path) -> None:
    storage.write_bytes(storage.join(output, record(OWN).clip_uri), b"another")
    shutil.copy(HOPPER, tmp_path / "photo.jpg")
    told = judge(output).stdout
    assert f"clip {OWN}: NotJudged: {output}/{record(OWN).clip_uri}: must have the committed bytes" in told
    assert f"clip {OTHER}: PhotoChanged: subject_uri {tmp_path}/photo.jpg: the photo changed since" in told

    write_run_file(output, "run", face_pack, inputs={"allow": ["s3://elsewhere/"]})
    assert f"clip {OTHER}: InputRefused: " in judge(output).stdout
    storage.write_bytes(run_file_uri(output, "run", RUN_FILE), b"unknown_key: 1")
    told = judge(output).stdout
    assert f"clip {OTHER}: {output}/runs/run/run.yaml:" in told
    assert "unknown_key: unknown" in told


def test_scorers_are_those_of_a_run_file(output: str, tmp_path: Path, face_pack: Path) -> None:
    model = save_clip_model(tmp_path / "clip")
    file = write_run(
        tmp_path, face_pack, quality={"num_frames": 2, "technical": False, "prompt": {"model": str(model)}}
    )
    judge(output, "--scorers", file, "--limit", 1)
    assert "prompt_mean" in (found := scores_of(output)[OWN])
    assert "unsafe" not in found
    shutil.rmtree(model)
    result = judge(output, "--scorers", file)
    assert (result.exit_code, f"quality.prompt.model='{model}': does not exist" in result.stderr) == (2, True)


def test_what_cannot_be_judged_at_all_is_refused(output: str, tmp_path: Path, face_pack: Path) -> None:
    result = judge(output, "--run", "none")
    assert (result.exit_code, "--run 'none': must be a run of" in result.stderr) == (2, True)
    result = judge(output, "--scorers", write_run(tmp_path, face_pack))
    assert (result.exit_code, "must have a section quality" in result.stderr) == (2, True)
