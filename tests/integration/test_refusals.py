"""A store that refuses in mid-run stops the run soon, with the right exit code, and no clip is to blame."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lynx_batch.ledger.editions import list_editions
from lynx_batch.ledger.metadata import read_metadata
from lynx_batch.ledger.runs import read_runs
from tests.builders import row
from tests.jobs import Job
from tests.stores import Refusals, refusing_store

pytestmark = pytest.mark.ray

OUTPUT = "s3://bucket/out"
NUM_CLIPS = 4
SOON_S = 60


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Refusals]:
    with refusing_store(monkeypatch) as refusals:
        yield refusals


@pytest.fixture
def job(tmp_path: Path, face_pack: Path, store: Refusals) -> Job:
    rows = [row(seed=seed) for seed in range(NUM_CLIPS)]
    return Job(folder=tmp_path, face_pack=face_pack, rows=rows, output=OUTPUT)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "status", "code", "exit_code", "told"),
    [
        ("/clips/", 403, "AccessDenied", 3, "s3:PutObject"),
        pytest.param(r"/clips/.*\.mp4", 413, "EntityTooLarge", 3, "EntityTooLarge", marks=pytest.mark.only_chaos),
        ("", 400, "ExpiredToken", 4, "AWS_SESSION_TOKEN"),
    ],
)
def test_a_refusal_in_mid_run_ends_it_soon_and_the_next_run_goes_on(
    job: Job, store: Refusals, what: str, status: int, code: str, exit_code: int, told: str
) -> None:
    process = job.start()
    while not list_editions(OUTPUT).in_force:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)  # another process is watched
    refused_s = time.monotonic()
    store.status, store.code, store.what, store.method = status, code, what, "PUT"
    stdout, stderr = process.communicate(timeout=job.deadline_s)
    assert process.returncode == exit_code, stderr
    assert told in stdout
    assert time.monotonic() - refused_s < SOON_S
    store.method = "none"

    num_committed = len(list_editions(OUTPUT).in_force)
    if not what:  # nothing could be told of the run's end
        assert read_runs(OUTPUT)[0].end is None
        return
    end = read_runs(OUTPUT)[0].end
    assert end is not None
    assert end.counts == {"rendered": num_committed, "abandoned": NUM_CLIPS - num_committed}
    assert job.run().exit_code == 0
    assert len(list_editions(OUTPUT).in_force) == NUM_CLIPS > num_committed
    assert max(read_metadata(OUTPUT, ["attempts"])["attempts"].to_pylist()) <= 1


def test_a_missing_right_ends_a_run_before_it_begins(job: Job, store: Refusals) -> None:
    store.method, store.what = "DELETE", "/metadata/"
    result = job.run()
    assert result.exit_code == 2
    assert "s3:DeleteObject" in result.stderr
    assert "Traceback" not in result.stderr
    assert read_runs(OUTPUT) == []
