"""One rank's part in rendering a clip: photo -> subject -> latents -> frames -> a committed object. Knows no Ray."""

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import TypeVar

import structlog
import torch
from torch import Tensor

from lynx_batch import storage
from lynx_batch.clip import ClipSpec
from lynx_batch.delivery.deliver import deliver
from lynx_batch.errors import ConsentExpired, LynxError, Permanent, PhotoChanged, StoreUnavailable
from lynx_batch.execution.environment import software_versions
from lynx_batch.execution.tasks import AttemptResult, Failed, Helped, Rendered, RenderTask, WorkerSettings
from lynx_batch.ledger.commits import CommitRecord, commit
from lynx_batch.planning.schedule import Fault
from lynx_model import parallel
from lynx_model.errors import OutOfMemory
from lynx_model.faces.photo import read_photo
from lynx_model.faces.reader import FaceReader
from lynx_model.pipeline import LynxPipeline, PreparedClip
from lynx_model.sampler import OnStep
from lynx_model.spec import Subject

log = structlog.get_logger()

NUM_CACHED_SUBJECTS = 64
MAX_ERROR_LENGTH = 1000

T = TypeVar("T")


class Renderer:
    """The model on one device, ready for clip after clip."""

    def __init__(self, settings: WorkerSettings, *, rank: int, device: str) -> None:
        self._settings, self._rank = settings, rank
        faces = FaceReader.load(settings.faces.pack, settings.faces.identity, is_parity=settings.faces.parity)
        self._pipe = LynxPipeline.load(
            base=settings.model.base,
            adapters={"id": settings.model.id_adapter, "ref": settings.model.ref_adapter},
            device=device,
            dtype=settings.engine.dtype,
            faces=faces,
            loras=settings.model.loras,
            plan=settings.plan,
            engine=settings.engine.options,
        )
        self._device_name = torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"
        self._software = software_versions()
        self._read_subject = lru_cache(maxsize=NUM_CACHED_SUBJECTS)(self._read_subject_once)

    def render(self, task: RenderTask, on_step: OnStep) -> AttemptResult:
        """Renders, delivers and commits a clip; never raises what the clip or the store is to blame for."""
        stopwatch = Stopwatch()
        prepared = _attempted(lambda: self._prepare(task.clip, stopwatch))
        if not parallel.all_agree(not isinstance(prepared, Failed)):
            return prepared if isinstance(prepared, Failed) else Helped()
        assert not isinstance(prepared, Failed)
        latents = _attempted(lambda: self._sample(prepared, stopwatch, on_step))
        if isinstance(latents, Failed):
            return replace(latents, breaks_group=self._settings.plan.num_ranks > 1)
        return _attempted(lambda: self._deliver(task, latents, stopwatch)) if self._rank == 0 else Helped()

    def _prepare(self, clip: ClipSpec, stopwatch: "Stopwatch") -> PreparedClip:
        _check_consent(clip, datetime.now(UTC))
        request = clip.request
        with stopwatch.stage("subject_s"):
            subject = self._read_subject(request.subject_uri, clip.photo_sha256, request.face_index)
        with stopwatch.stage("text_s"):
            return self._pipe.prepare(subject, request.params)

    def _sample(self, prepared: PreparedClip, stopwatch: "Stopwatch", on_step: OnStep) -> Tensor:
        with stopwatch.stage("denoise_s"):
            return self._pipe.sample(prepared, on_step)

    def _deliver(self, task: RenderTask, latents: Tensor, stopwatch: "Stopwatch") -> Rendered:
        """Decodes, uploads and commits; the commit comes last, and makes the clip finished."""
        settings, clip = self._settings, task.clip
        with stopwatch.stage("decode_s"):
            frames = self._pipe.decode(latents)
        delivered = deliver(
            frames,
            output=settings.output,
            clip_id=clip.clip_id,
            attempt=task.attempt,
            fps=clip.params.fps,
            crf=settings.crf,
        )
        stage_s = {**stopwatch.seconds, "encode_s": delivered.encode_s, "upload_s": delivered.upload_s}
        record = CommitRecord(
            **asdict(delivered),
            clip_id=clip.clip_id,
            attempt=task.attempt,
            run_id=settings.run_id,
            committed_at=datetime.now(UTC),
            seed=clip.params.seed,
            group_size=settings.plan.num_ranks,
            device=self._device_name,
            stage_s=stage_s,
            identity=asdict(settings.identity),
            software=self._software,
        )
        winner = commit(settings.output, record)
        if winner.attempt != task.attempt:
            for uri in (delivered.clip_uri, delivered.poster_uri):
                storage.delete(storage.join(settings.output, uri))
        return Rendered(commit=winner)

    def _read_subject_once(self, uri: str, sha256: str, face_index: int | None) -> Subject:
        photo = storage.read_bytes(uri)
        if hashlib.sha256(photo).hexdigest() != sha256:
            raise PhotoChanged(f"subject_uri {storage.redact(uri)}: the photo changed since the run was planned")
        return self._pipe.read_subject(read_photo(photo), face_index)


def _attempted(do: Callable[[], T]) -> T | Failed:
    """What `do` gives, or what it failed with. The one place where a library's error becomes an outcome of the clip."""
    try:
        return do()
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        return _failed(OutOfMemory(str(error)))
    except LynxError as error:
        return _failed(error)
    except Exception as error:
        log.exception("attempt_broke")
        return _failed(error)


def _failed(error: Exception) -> Failed:
    return Failed(
        error_type=type(error).__name__,
        error=str(error)[:MAX_ERROR_LENGTH],
        fault=_fault(error),
    )


def _fault(error: Exception) -> Fault:
    if isinstance(error, Permanent):
        return Fault.INPUT
    return Fault.MACHINE if isinstance(error, StoreUnavailable) else Fault.CLIP


def _check_consent(clip: ClipSpec, now: datetime) -> None:
    """A consent that was good when the run began may have expired since."""
    expires_at = clip.request.consent_expires_at
    if expires_at is not None and expires_at <= now:
        raise ConsentExpired(f"consent_expires_at={expires_at.isoformat()}: must be later than now")


class Stopwatch:
    """Seconds spent per stage of one attempt."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started_s = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started_s
