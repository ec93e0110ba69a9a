"""`accept`: a person overrules the quality gate, but never its verdict on safety. A real ledger; nothing is rendered."""

from pathlib import Path

import pytest

from lynx_batch import storage
from lynx_batch.errors import Fault
from lynx_batch.ledger.commits import read_commit
from lynx_batch.ledger.leftovers import find_leftovers
from lynx_batch.ledger.metadata import read_metadata
from lynx_batch.ledger.tombstones import Tombstone, put_tombstone
from lynx_batch.ledger.tries import BestTry, TryRecord, record_try
from lynx_batch.planning.revocation import Kind, key_of
from lynx_batch.planning.schedule import ClipState
from lynx_batch.planning.verdict import Reject
from lynx_batch.rendering.tasks import Failed, Judged, RenderTask
from tests.builders import NOW, begin, given_up, record, small_clip, start_run
from tests.jobs import invoke

IDS = ("aa", "bb", "cc", "dd", "ee")
BEST = BestTry(number=0, seed=1, scores={}, num_tries=2)


def put_try(
    output: str, clip_id: str, number: int, p10: float, *, has_video: bool = True, unsafe: bool = False
) -> None:
    commit = record(clip_id, attempt=f"run-{number}").model_copy(
        update={"try_number": number, "seed": 100 + number, "scores": {"likeness_p10": p10}}
    )
    if has_video:
        for uri in (commit.clip_uri, commit.poster_uri):
            storage.write_bytes(storage.join(output, uri), b"video")
    found = TryRecord(
        clip_id=clip_id,
        edition=1,
        number=number,
        judged_at=NOW,
        scores=commit.scores,
        scorers={},
        is_unsafe=unsafe,
        commit=commit,
    )
    record_try(output, found, is_store_safe=True)


@pytest.fixture
def output(tmp_path: Path) -> str:
    """A run that rejected four clips: aa has two kept tries, bb none, cc is unsafe, dd had an unsafe try; ee failed."""
    output = str(tmp_path / "out")
    put_try(output, "aa", 0, 0.1)
    put_try(output, "aa", 1, 0.2)
    put_try(output, "bb", 0, 0.1, has_video=False)
    put_try(output, "cc", 0, 0.9, unsafe=True)
    put_try(output, "dd", 0, 0.1)
    put_try(output, "dd", 1, 0.1, has_video=False, unsafe=True)
    clips = {name: small_clip(name, row) for row, name in enumerate(IDS)}
    run = begin(output, "first", [*clips.values()])
    for name in IDS[:4]:
        verdict = Reject("too unlike", is_unsafe=name == "cc")
        task = RenderTask(clip=clips[name], attempt="run-1")
        run.judged(task, "g", Judged(verdict=verdict, best=BEST), attempts=0)
    failure = Failed(error_type="OutOfMemory", error="too big", fault=Fault.CLIP)
    run.failed(RenderTask(clip=clips["ee"], attempt="run-1"), "g", failure, ClipState.FAILED, attempts=3, deaths=0)
    run.close("")
    return output


def write_list(tmp_path: Path, text: str) -> Path:
    (tmp_path / "list.csv").write_text(text, encoding="utf-8")
    return tmp_path / "list.csv"


def test_the_best_kept_try_is_committed_with_who_and_when(output: str, tmp_path: Path) -> None:
    accepted = invoke("accept", output, "--list", write_list(tmp_path, "aa\n"), "--by", " Ada L. ")

    assert (accepted.exit_code, "1 clip committed, 0 had been committed before" in accepted.stdout) == (0, True)
    commit = read_commit(output, "aa", 1)
    assert (commit.try_number, commit.seed, commit.num_tries, commit.accepted_by) == (1, 101, 2, "Ada L.")
    assert commit.accepted_at == commit.committed_at != NOW
    assert "1 clip rejected by the gate, then accepted by a person" in invoke("status", output).stdout
    again = invoke("accept", output, "--list", write_list(tmp_path, "aa\n"), "--by", "Bea")
    assert (again.exit_code, "0 clips committed, 1 had been committed before" in again.stdout) == (0, True)
    assert read_commit(output, "aa", 1) == commit

    assert "aa" not in given_up(output)
    begin(output, "next", [small_clip("aa")]).close("")
    columns = ["run", "outcome", "accepted_by", "accepted_at", "try_number", "likeness_p10"]
    (row,) = (row for row in read_metadata(output, columns).to_pylist() if row["run"] == "next")
    assert [*row.values()][1:] == ["rendered", "Ada L.", commit.accepted_at, 1, 0.2]
    leftovers = [file.uri for file in find_leftovers(output)]
    assert any("/aa/run-0" in uri for uri in leftovers)
    assert not any("/aa/run-1" in uri for uri in leftovers)


@pytest.mark.parametrize(
    ("clip_id", "why"),
    [
        ("bb", "its video was not kept (quality.keep_rejected): lower the limits"),
        ("cc", "is unsafe, and nobody can overrule that: too unlike"),
        ("dd", "one of its tries is unsafe, and nobody can overrule that"),
        ("ee", "must be a clip that the quality gate rejected, but: OutOfMemory: too big"),
        ("ff", "must be a clip that the quality gate rejected; no run here has given it up"),
    ],
)
def test_what_cannot_be_accepted_is_listed_and_the_rest_is_committed(
    output: str, tmp_path: Path, clip_id: str, why: str
) -> None:
    result = invoke("accept", output, "--list", write_list(tmp_path, f"{clip_id}\naa\n"), "--by", "Ada")

    assert (result.exit_code, f"clip {clip_id}: " in result.stdout, why in result.stdout) == (3, True, True), (
        result.stdout
    )
    assert read_commit(output, "aa", 1).accepted_by == "Ada"
    assert not (Path(output) / "commits" / clip_id).exists()


def test_what_was_revoked_is_not_accepted(output: str, tmp_path: Path) -> None:
    key = key_of(Kind.PHOTO_SHA256, small_clip("aa").portraits[0].sha256)
    put_tombstone(output, Tombstone(kind=key.kind, digest=key.digest, revoked_at=NOW, revoked_by="Bob"))
    result = invoke("accept", output, "--list", write_list(tmp_path, "aa\n"), "--by", "Ada")
    assert (result.exit_code, "clip aa: its person, consent or photo was revoked" in result.stdout) == (3, True)
    assert not (Path(output) / "commits").exists()


def test_a_kept_try_without_a_mark_that_the_newest_run_requires_is_refused(output: str, tmp_path: Path) -> None:
    start_run(
        output, "later", minutes=600_000, run_yaml="provenance: {marking: required, aigc: {content_producer: Ada}}"
    )
    result = invoke("accept", output, "--list", write_list(tmp_path, "aa\n"), "--by", "Ada")
    why = "clip aa: its best kept video lacks a mark that the newest run requires (aigc): lower the limits below its scores"
    assert (result.exit_code, why in result.stdout) == (3, True), result.stdout
    assert not (Path(output) / "commits").exists()


def test_a_list_of_decisions_approves_only_what_it_says(output: str, tmp_path: Path) -> None:
    text = '\ufeffname,decision,clip_id\nx, reject ,dd\n"y, z",,bb\n,approve,aa\n,approve,aa\n,,\n'
    result = invoke("accept", output, "--list", write_list(tmp_path, text), "--by", "Ada")
    assert (result.exit_code, "1 clip committed" in result.stdout) == (0, True), result.output
    assert invoke("accept", output, "--list", write_list(tmp_path, "clip_id\naa\n"), "--by", "Ada").exit_code == 0


def test_a_bad_list_is_refused_before_anything_is_committed(output: str, tmp_path: Path) -> None:
    bad = "clip_id,decision\naa,approve\naa,reject\n"
    result = invoke("accept", output, "--list", write_list(tmp_path, bad), "--by", "Ada")
    assert (result.exit_code, "line 3: clip aa: must not have two" in result.stderr) == (2, True), result.stderr
    assert not (Path(output) / "commits").exists()


def test_a_list_that_cannot_be_read_and_a_blank_name_are_refused(output: str, tmp_path: Path) -> None:
    result = invoke("accept", output, "--list", tmp_path / "none.csv", "--by", "Ada")
    assert (result.exit_code, "none.csv: does not exist" in result.stderr) == (2, True)
    result = invoke("accept", output, "--list", write_list(tmp_path, "aa\n"), "--by", " ")
    assert (result.exit_code, "--by ' ': must be a name" in result.stderr) == (2, True)
