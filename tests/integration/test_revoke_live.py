"""`revoke` while a real run renders: on a local folder and on S3."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lynx_batch import storage
from lynx_batch.ledger.commits import read_commit
from lynx_batch.ledger.editions import list_editions
from lynx_batch.ledger.metadata import read_metadata
from lynx_batch.ledger.owners import read_owners
from tests.builders import COLLINS, HOPPER, row
from tests.heads import Head
from tests.jobs import Job, wait_until
from tests.stores import create_bucket, moto_server, use_endpoint

pytestmark = [pytest.mark.ray, pytest.mark.slow]

NUM_CLIPS = 6


@contextmanager
def local_folder(folder: Path) -> Iterator[str]:
    yield ""


@pytest.fixture(params=[local_folder, moto_server])
def job(
    request: pytest.FixtureRequest, tmp_path: Path, face_pack: Path, monkeypatch: pytest.MonkeyPatch, head: Head
) -> Iterator[Job]:
    """Clips of eileen and of grace in turn, of which each takes a while."""
    people = [(COLLINS, "eileen"), (HOPPER, "grace")] * (NUM_CLIPS // 2)
    rows = [row(photo, seed=n, subject_id=name, consent_ref=f"form-{name}") for n, (photo, name) in enumerate(people)]
    with request.param(tmp_path) as url:
        env = use_endpoint(url, monkeypatch) if url else {}
        output = create_bucket("live") if url else str(tmp_path / "out")
        settings = {"provenance": {"require_consent": True}}
        shared = None if url else head
        yield Job(
            folder=tmp_path,
            face_pack=face_pack,
            rows=rows,
            steps=4,
            output=output,
            env=env,
            settings=settings,
            head=shared,
        )


def test_a_person_is_revoked_while_a_run_renders_them(job: Job) -> None:
    run = job.start()
    wait_until(lambda: bool(list_editions(job.output).in_force), run)

    assert "is alive" in job.ask("revoke", "--subject", "eileen", "--erase", "--yes").stderr
    revoked = job.ask("revoke", "--subject", "eileen", "--yes")
    run.communicate(timeout=job.deadline_s)

    assert revoked.exit_code == 0, revoked.stderr
    owners = {owner.clip_id: owner for owner in read_owners(job.output) if owner.clip_id}
    assert len(owners) == NUM_CLIPS, "runs/*/clips.parquet tells of all, rendered or not"
    in_force = list_editions(job.output).in_force
    assert {owners[clip_id].subject_id for clip_id in in_force} <= {"grace"}
    files = [file.uri for file in storage.list_files(storage.join(job.output, "clips"))]
    assert {owners[uri.split("/")[-2]].subject_id for uri in files} <= {"grace"}
    assert job.ask("verify").exit_code == 0

    again = job.run()
    assert again.exit_code == 3, again.stderr
    in_force = list_editions(job.output).in_force
    assert sorted(str(owners[clip_id].subject_id) for clip_id in in_force) == ["grace"] * (NUM_CLIPS // 2)
    assert not any(read_commit(job.output, *named).allows_missing_consent for named in in_force.items())
    newest = max(read_metadata(job.output)["run"].to_pylist())
    rows = [told for told in read_metadata(job.output).to_pylist() if told["run"] == newest]
    assert [(told["error_type"], told["subject_id"]) for told in rows if told["outcome"] == "rejected"] == [
        ("ConsentRevoked", None)
    ] * (NUM_CLIPS // 2)
    if not job.env:
        erased = job.ask("revoke", "--subject", "eileen", "--erase", "--yes")
        assert erased.exit_code == 0, erased.stderr
        for name, count in (("eileen", 0), ("grace", NUM_CLIPS // 2)):
            named = [told for told in read_metadata(job.output).to_pylist() if told["run"] == newest]
            assert [told["subject_id"] for told in named].count(name) == count
