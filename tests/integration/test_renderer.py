"""A renderer in this process: the model on one rank, without Ray."""

import gc
import hashlib
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from PIL import Image

from lynx_batch import storage
from lynx_batch.clip import ClipSpec
from lynx_batch.config import load_run_config
from lynx_batch.errors import Fault
from lynx_batch.ledger.editions import list_editions
from lynx_batch.ledger.tombstones import Tombstone, put_tombstone
from lynx_batch.planning.revocation import Kind, key_of
from lynx_batch.preparation.prepare import prepare
from lynx_batch.preparation.selection import Selection
from lynx_batch.rendering.renderer import Renderer
from lynx_batch.rendering.tasks import Failed, FramesReady, Rendered, RenderTask
from lynx_model.spec import ParallelPlan
from tests.builders import HOPPER, row
from tests.jobs import Job, worker_settings
from tests.watermarks import write_network
from tests.web import serve

NUM_CLIPS = 4


@pytest.fixture
def job(tmp_path: Path, face_pack: Path) -> Job:
    photo = shutil.copy(HOPPER, tmp_path / "photo.jpg")
    rows = [row(photo, seed=seed) for seed in range(NUM_CLIPS)]
    return Job(folder=tmp_path, face_pack=face_pack, rows=rows, steps=1)


def load(job: Job, provenance: dict[str, object] | None = None) -> tuple[Renderer, list[ClipSpec]]:
    config = load_run_config(
        job.folder / "run.yaml", {f"provenance.{key}": each for key, each in (provenance or {}).items()}
    )
    prepared = prepare(config, Selection(), datetime.now(UTC))
    return Renderer(worker_settings(config, prepared.model), rank=0, device="cpu"), prepared.clips


def num_frame_sets() -> int:
    """How many clips' frames this process holds: numpy shares the memory of the uint8 tensors they were made in."""
    tensors = (item for item in gc.get_objects() if type(item) is torch.Tensor)
    return sum(tensor.dtype is torch.uint8 and tensor.shape[-1] == 3 for tensor in tensors)


def test_clips_are_delivered_in_any_order_and_their_frames_are_freed(job: Job) -> None:
    renderer, clips = load(job)
    tasks = [RenderTask(clip=clip, attempt=f"a{number}") for number, clip in enumerate(clips)]
    for early, late in zip(tasks[::2], tasks[1::2], strict=True):
        for task in (early, late):
            assert isinstance(renderer.render(task, lambda step, num_steps: None), FramesReady)
        assert num_frame_sets() == 2
        for task in (late, early):
            delivered = renderer.deliver(task)
            assert isinstance(delivered, Rendered)
            assert delivered.commit.attempt == task.attempt
        assert num_frame_sets() == 0


def test_the_commit_tells_that_the_face_lay_turned(job: Job) -> None:
    Image.open(HOPPER).transpose(Image.Transpose.ROTATE_270).save(job.folder / "photo.jpg", quality=95)
    renderer, (clip, *_) = load(job)
    task = RenderTask(clip=clip, attempt="a0")
    renderer.render(task, lambda step, num_steps: None)
    delivered = renderer.deliver(task)
    assert isinstance(delivered, Rendered)
    assert delivered.commit.face_turned_degrees == 90


def test_a_subject_that_was_read_ahead_is_not_read_again(job: Job) -> None:
    renderer, (clip, *_) = load(job)
    renderer.prefetch(RenderTask(clip=clip, attempt="a0"))
    (job.folder / "photo.jpg").unlink()
    assert isinstance(renderer.render(RenderTask(clip=clip, attempt="a0"), lambda step, num_steps: None), FramesReady)


def test_what_cannot_be_read_ahead_is_told_when_it_is_rendered(job: Job) -> None:
    renderer, (clip, *_) = load(job)
    (job.folder / "photo.jpg").unlink()
    renderer.prefetch(RenderTask(clip=clip, attempt="a0"))
    failed = renderer.render(RenderTask(clip=clip, attempt="a0"), lambda step, num_steps: None)
    assert isinstance(failed, Failed)
    assert (failed.error_type, failed.fault, [span.stage for span in failed.spans]) == (
        "MissingObject",
        Fault.INPUT,
        ["subject"],
    )


def test_what_a_clip_went_through_is_told_in_order(job: Job) -> None:
    renderer, (clip, *_) = load(job)
    task = RenderTask(clip=clip, attempt="a0")
    renderer.render(task, lambda step, num_steps: None)
    delivered = renderer.deliver(task)
    assert isinstance(delivered, Rendered)
    stages = [span.stage for span in delivered.spans]
    assert stages == ["subject", "text", "denoise", "decode", "encode", "upload", "commit"]
    assert all(a.end_s <= b.end_s for a, b in zip(delivered.spans, delivered.spans[1:], strict=False))
    assert set(delivered.commit.stage_s) == {f"{stage}_s" for stage in stages[:-1]}


def test_a_marked_clip_is_committed_as_it_was_signed(job: Job) -> None:
    renderer, (clip, *_) = load(job, {"marking": "required", "c2pa": {"certificates": "development"}})
    task = RenderTask(clip=clip, attempt="a0")
    renderer.render(task, lambda step, num_steps: None)
    delivered = renderer.deliver(task)
    assert isinstance(delivered, Rendered)
    record = delivered.commit
    content = (Path(job.output) / record.clip_uri).read_bytes()
    assert (record.sha256, record.num_bytes) == (hashlib.sha256(content).hexdigest(), len(content))
    assert record.marks == ("tags", "c2pa")
    assert [span.stage for span in delivered.spans][4:] == ["mark", "encode", "mark", "upload", "commit"]
    assert record.stage_s["mark_s"] > 0


def test_a_required_mark_that_fails_is_the_clips_fault_and_nothing_is_uploaded(job: Job) -> None:
    weak = write_network(job.folder / "weak.jit", strength=0.0)
    renderer, (clip, *_) = load(job, {"marking": "required", "watermark": weak})
    task = RenderTask(clip=clip, attempt="a0")
    renderer.render(task, lambda step, num_steps: None)
    failed = renderer.deliver(task)
    assert isinstance(failed, Failed)
    assert (failed.error_type, failed.fault) == ("NotMarked", Fault.CLIP)
    assert failed.error.startswith("watermark: ")
    assert not list(Path(job.output).rglob("*.mp4"))


def test_what_a_shared_denoising_raises_may_be_another_ranks_death(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    renderer, (clip, *_) = load(job)

    def lose_a_peer(*_: object, **__: object) -> None:
        raise RuntimeError("Connection closed by peer")

    def failure() -> Failed:
        failed = renderer.render(RenderTask(clip=clip, attempt="a0"), lambda step, num_steps: None)
        assert isinstance(failed, Failed)
        return failed

    monkeypatch.setattr(renderer._pipe, "sample", lose_a_peer)
    alone = failure()
    monkeypatch.setattr(renderer, "_settings", replace(renderer._settings, plan=ParallelPlan.of_size(2)))
    shared = failure()
    assert [(f.fault, f.breaks_group) for f in (alone, shared)] == [(Fault.CLIP, False), (Fault.UNCLEAR, True)]


def test_a_photo_that_its_server_gives_no_more_rejects_its_clip_and_leaves_the_group_ready(
    tmp_path: Path, face_pack: Path
) -> None:
    with serve() as server:
        uri = server.put("/a.jpg", Path(HOPPER).read_bytes())
        settings = {"inputs": {"allow": [server.url], "max_tries": 1}}
        renderer, (clip,) = load(Job(folder=tmp_path, face_pack=face_pack, rows=[row(uri)], steps=1, settings=settings))
        server.put("/a.jpg", status=503)
        failed = renderer.render(RenderTask(clip=clip, attempt="a"), lambda step, num_steps: None)
        assert isinstance(failed, Failed)
        assert (failed.error_type, failed.fault) == ("PhotoUnreachable", Fault.INPUT)
        server.put("/a.jpg", Path(HOPPER).read_bytes())
        assert isinstance(
            renderer.render(RenderTask(clip=clip, attempt="b"), lambda step, num_steps: None), FramesReady
        )


def put_tombstone_of(output: str, photo_sha256: str) -> None:
    key = key_of(Kind.PHOTO_SHA256, photo_sha256)
    put_tombstone(output, Tombstone(kind=key.kind, digest=key.digest, revoked_at=datetime.now(UTC), revoked_by="me"))


@pytest.mark.parametrize("moment", ["start", "delivery", "upload"])
def test_what_is_revoked_is_never_committed_and_a_late_commit_is_taken_back(
    job: Job, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    renderer, (clip, *_) = load(job)
    task = RenderTask(clip=clip, attempt="r1-00000001")
    (portrait,) = clip.portraits

    def revoke() -> None:
        put_tombstone_of(job.output, portrait.sha256)

    if moment == "start":
        revoke()
    answer = renderer.render(task, lambda step, num_steps: None)
    if moment == "delivery":
        revoke()
    if moment == "upload":
        # between the check before the commit and the one after it, a moment that nobody can hit from outside
        create_only = storage.create_only

        def commit_after_revocation(uri: str, data: bytes) -> bool:
            if f"commits/{clip.clip_id[:2]}/{clip.clip_id}.json" in uri:
                monkeypatch.setattr(storage, "create_only", create_only)
                revoke()
            return create_only(uri, data)

        monkeypatch.setattr(storage, "create_only", commit_after_revocation)
    failed = answer if moment == "start" else renderer.deliver(task)

    assert isinstance(failed, Failed)
    assert (failed.error_type, failed.error, failed.fault) == (
        "ConsentRevoked",
        "photo_sha256: revoked",
        Fault.INPUT,
    )
    assert not list_editions(job.output).in_force
    assert len(list_editions(job.output).withdrawn) == (moment == "upload")
    assert list(storage.list_files(storage.join(job.output, "clips"))) == []
    assert renderer._read_subject.cache_info().currsize == 0, "no embedding is kept"
