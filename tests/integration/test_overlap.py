"""A clip is judged and delivered while the next one is denoised, to a store that is slow or refuses."""

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import boto3
import pytest
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from lynx_batch import storage
from lynx_batch.ledger.editions import list_editions
from lynx_batch.ledger.events import EventKind
from lynx_batch.ledger.metadata import read_metadata
from tests.builders import row
from tests.jobs import DEADLINE_S, Job, wait_until, workers_of
from tests.stores import use_endpoint

pytestmark = [pytest.mark.ray, pytest.mark.slow]

OUTPUT = "s3://slow/out"
UPLOAD_S = 2.0
MANY_STEPS = 300  # 5 s of one core of 2026
LONG_STEPS = 400  # denoising takes far longer than reading and decoding, as it does with real clips
JUDGING = {"likeness": {"min_mean": -1}, "technical": False, "safety": {"max_score": 1}}
"""Judges all and rejects nothing: the tiny model's noise looks like nobody."""


class SlowStore:
    """A real S3 protocol server on which the upload of a video takes `UPLOAD_S`, and the first `num_failing` fail."""

    def __init__(self) -> None:
        self._app = DomainDispatcherApplication(create_backend_app)
        self.videos: list[str] = []
        self.num_failing = 0

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if environ["REQUEST_METHOD"] == "PUT" and path.endswith(".mp4"):
            self.videos.append(path)
            if len(self.videos) <= self.num_failing:
                start_response("503 Slow Down", [])
                return []
            time.sleep(UPLOAD_S)
        return self._app(environ, start_response)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowStore]:
    store = SlowStore()
    server = make_server("127.0.0.1", 0, store, threaded=True)
    thread = Thread(target=server.serve_forever)
    thread.start()
    use_endpoint(f"http://127.0.0.1:{server.port}", monkeypatch)
    boto3.client("s3").create_bucket(Bucket="slow")
    yield store
    for file in storage.list_files(OUTPUT):
        storage.delete(file.uri)
    server.shutdown()
    thread.join()


@pytest.fixture
def make_job(tmp_path: Path, face_pack: Path) -> Callable[..., Job]:
    def make(num_rows: int, steps: int, **settings: object) -> Job:
        rows = [row(seed=seed) for seed in range(num_rows)]
        return Job(
            folder=tmp_path,
            face_pack=face_pack,
            rows=rows,
            steps=steps,
            settings=settings,
            output=OUTPUT,
            deadline_s=3 * DEADLINE_S,
        )

    return make


def read_trace() -> list[dict[str, Any]]:
    (file,) = (file for file in storage.list_files(f"{OUTPUT}/report") if file.uri.endswith("trace.json"))
    return list(json.loads(storage.read_bytes(file.uri))["traceEvents"])


def of_stage(events: list[dict[str, Any]], stage: str) -> list[dict[str, Any]]:
    return [event for event in events if event["name"] == stage]


def end_of(event: dict[str, Any]) -> float:
    return float(event["ts"] + event["dur"])


def overlap_s(one: dict[str, Any], other: dict[str, Any]) -> float:
    return float(min(end_of(one), end_of(other)) - max(one["ts"], other["ts"])) / 1e6


@pytest.mark.slow(s=110)
def test_a_group_denoises_while_it_judges_and_delivers(make_job: Callable[..., Job], store: SlowStore) -> None:
    """Both ranks denoise together, so the second one does not wait for the first, which judges and delivers, either."""
    cluster = {"max_groups": 1, "gpus_per_group": 2}
    result = make_job(2, steps=LONG_STEPS, quality=JUDGING, cluster=cluster).run()
    assert result.exit_code == 0, result.stderr

    events = read_trace()
    denoising, uploads = of_stage(events, "denoise"), of_stage(events, "upload")
    judging, next_starts = of_stage(events, "judge"), of_stage(events, "subject")[1:]
    assert len(judging) == 2
    assert all(end_of(judged) > start["ts"] for judged, start in zip(judging[:-1], next_starts, strict=True))
    assert min(event["dur"] for event in uploads) > UPLOAD_S * 1e6
    for upload, next_denoising in zip(uploads[:-1], denoising[1:], strict=True):
        assert overlap_s(upload, next_denoising) > UPLOAD_S / 2
    (shown,) = re.findall(r"each group denoised at least (\d+\.\d)% of its time", result.stdout)
    assert float(shown) >= 95


def test_a_failed_upload_is_retried_and_uses_up_no_attempt(make_job: Callable[..., Job], store: SlowStore) -> None:
    store.num_failing = 2
    job = make_job(3, steps=MANY_STEPS // 4)
    result = job.run()
    assert result.exit_code == 0, result.stderr

    assert store.videos[0] == store.videos[1] == store.videos[2]
    assert len(set(store.videos)) == 3
    assert {event.kind for event in job.events()} == {EventKind.RENDERED}
    assert read_metadata(OUTPUT)["attempts"].to_pylist() == [1, 1, 1]


def test_a_worker_that_dies_loses_only_the_clips_aboard_its_group(
    make_job: Callable[..., Job], store: SlowStore
) -> None:
    job = make_job(3, steps=MANY_STEPS // 4)
    process = job.start()
    wait_until(lambda: bool(store.videos), process)
    worker, *_ = workers_of(process)
    worker.kill()
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr

    metadata = read_metadata(OUTPUT)
    assert metadata["attempts"].to_pylist() == [1, 1, 1]
    assert metadata["outcome"].to_pylist() == ["rendered"] * 3
    lost = {event.clip_id for event in job.events() if event.error_type == "GroupLost"}
    assert store.videos[0].split("/")[-2] in lost, "it was in delivery"
    assert {event["args"]["clip"] for event in of_stage(read_trace(), "GroupLost")} != set()
    assert set(list_editions(OUTPUT).in_force) == set(metadata["clip_id"].to_pylist())
