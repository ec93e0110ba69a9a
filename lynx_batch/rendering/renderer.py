"""One rank's share of rendering a clip: photo -> subject -> latents -> frames -> a committed object. Without Ray."""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from threading import Event, Lock

import numpy as np
import psutil  # type: ignore[import-untyped]
import structlog
import torch
from numpy.typing import NDArray
from torch import Tensor

from lynx_batch import storage
from lynx_batch.clip import ClipSpec, Portrait, StoredClip
from lynx_batch.delivery.deliver import EncodedClip, finish, upload
from lynx_batch.delivery.picture import check_picture
from lynx_batch.errors import (
    STORE_FAULTS,
    ConsentExpired,
    ConsentRevoked,
    Fault,
    ImplausibleResult,
    MissingObject,
    PhotoChanged,
    PhotoRefused,
    StoreRefused,
    StoreUnready,
)
from lynx_batch.inputs import read_photo_file
from lynx_batch.ledger.commits import CommitRecord, commit, read_commit
from lynx_batch.ledger.owners import owners_of
from lynx_batch.ledger.remains import withdraw_revoked
from lynx_batch.ledger.tombstones import refuse_revoked
from lynx_batch.outage import retry_while_unavailable
from lynx_batch.planning.revocation import keys_of, keys_of_photos
from lynx_batch.rendering.attempt import Attempt
from lynx_batch.rendering.gate import Gate
from lynx_batch.rendering.marking import load_marker
from lynx_batch.rendering.resume import SavedClips, delete_saved
from lynx_batch.rendering.software import software_versions
from lynx_batch.rendering.tasks import Failed, FramesReady, Judged, Rendered, RenderTask, Result, WorkerSettings
from lynx_batch.stages import Span, Stage
from lynx_model.engine import parallel
from lynx_model.faces.photo import read_photo
from lynx_model.faces.reader import FaceReader, NamedPicture
from lynx_model.pipeline import LynxPipeline, PreparedClip
from lynx_model.sampler import OnStep, Paused, SamplerState
from lynx_model.spec import Subject

log = structlog.get_logger()

NUM_CACHED_SUBJECTS = 64


@dataclass(frozen=True, slots=True)
class _Ready:
    """A clip that is ready for denoising, from noise or from the saved state of an earlier attempt."""

    clip: PreparedClip
    state: SamplerState | None
    subject: Subject


@dataclass(frozen=True, slots=True)
class _Undelivered:
    """A rendered clip that waits to be delivered. `frames` is (F, H, W, 3)."""

    attempt: Attempt
    frames: NDArray[np.uint8]
    subject: Subject


class Renderer:
    """The model on one device, which renders clip after clip.

    Three threads may use it at once: one renders (the only one that uses the device), one delivers the previous clip, and one reads
    the next clip's subject.
    """

    def __init__(self, settings: WorkerSettings, *, rank: int, device: str) -> None:
        self._settings, self._rank = settings, rank
        self._marker = None if rank > 0 else load_marker(settings.provenance)
        faces = FaceReader.load(settings.faces.pack, settings.faces.identity, is_parity=settings.faces.parity)
        self._pipe = LynxPipeline.load_source(
            settings.model,
            device=device,
            faces=faces,
            plan=settings.plan,
            engine=settings.engine,
        )
        self._device_name = torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"
        self._software = software_versions()
        self._saved = SavedClips(settings.output, self._software)
        self._gate = None if rank > 0 else Gate.load(settings)
        self._read_subject = lru_cache(maxsize=NUM_CACHED_SUBJECTS)(self._read_subject_once)
        self._reading, self._pausing = Lock(), Event()
        self._undelivered: dict[str, _Undelivered] = {}

    def prefetch(self, task: RenderTask) -> None:
        """Reads a clip's subject ahead of time. An error is ignored here; it occurs again, and is reported, in `render`."""
        Attempt(task).carry_out(lambda: self._subject(task.clip))

    def pause(self) -> None:
        """Saves the clip being rendered after its current step, because the node is going away. No other clip may follow."""
        self._pausing.set()

    def render(self, task: RenderTask, on_step: OnStep) -> FramesReady | Result:
        """Renders the frames of a clip, which the first rank keeps for `deliver`. Does nothing if what becomes of the clip is known.

        Failures of the clip are returned, never raised.
        """
        attempt = Attempt(task)
        ready = attempt.carry_out(lambda: self._find_settled(task) or self._prepare(attempt))
        if not parallel.all_agree(isinstance(ready, _Ready)):
            return _frames_ready() if isinstance(ready, _Ready) else ready
        assert isinstance(ready, _Ready)
        # When a rank dies, the others may notice before Ray does: a collective operation may then raise any error.
        is_shared = self._settings.plan.num_ranks > 1
        unknown = Fault.UNCLEAR if is_shared else Fault.CLIP
        latents = attempt.carry_out(lambda: self._sample(attempt, ready, on_step), unknown=unknown)
        if isinstance(latents, Failed):
            return replace(latents, breaks_group=latents.breaks_group or is_shared)
        if self._rank > 0:
            return _frames_ready()
        return attempt.carry_out(lambda: self._keep_frames(attempt, ready, latents))

    def deliver(self, task: RenderTask) -> Result:
        """Marks, encodes, judges, uploads and commits the frames that `render` kept. May run in parallel with the `render` of another clip."""
        clip = self._undelivered.pop(task.attempt)
        return clip.attempt.carry_out(lambda: self._deliver(clip))

    def _find_settled(self, task: RenderTask) -> Rendered | Judged | None:
        """What another driver, or an attempt whose answer was lost, has made of the clip, if anything. Only the first rank looks."""
        if self._rank > 0:
            return None
        self._refuse_revoked(task.clip)
        with suppress(MissingObject):
            record = retry_while_unavailable(
                lambda: read_commit(self._settings.output, task.clip.clip_id, task.edition)
            )
            return Rendered(commit=record, spans=())
        settled = None if self._gate is None else self._gate.find(task)
        if isinstance(settled, CommitRecord):
            self._refuse_revoked(task.clip)
        return None if settled is None else _answer(settled, ())

    def _prepare(self, attempt: Attempt) -> _Ready:
        task = attempt.task
        _check_consent(task.clip, datetime.now(UTC))
        is_resumed, seed = bool(task.num_steps_saved), task.params.seed
        saved = self._saved.load(task.name, seed, task.num_steps_saved) if is_resumed else None
        with attempt.stage(Stage.SUBJECT):
            subject = self._subject(task.clip)
        with attempt.stage(Stage.TEXT):
            return _Ready(self._pipe.prepare(subject, task.params), saved, subject)

    def _sample(self, attempt: Attempt, ready: _Ready, on_step: OnStep) -> Tensor | Failed:
        """The latents, on the host. Copying them waits for the device, so the stage includes all its time and all its errors."""
        task = attempt.task
        try:
            with attempt.stage(Stage.DENOISE):
                latents = self._pipe.sample(
                    ready.clip, on_step, state=ready.state, is_to_pause=self._pausing.is_set
                ).cpu()
        except Paused as paused:
            return self._save(attempt, paused.state)
        if not latents.isfinite().all():
            raise ImplausibleResult("latents: must be finite numbers")
        min_plausible_s = task.min_plausible_s * ready.clip.share_left(task.num_steps_saved)
        if (took_s := attempt.seconds[Stage.DENOISE]) < min_plausible_s:
            raise ImplausibleResult(f"denoise_s={took_s:.3g}: must be at least {min_plausible_s:.3g} on this device")
        return latents

    def _save(self, attempt: Attempt, state: SamplerState) -> Failed:
        task = attempt.task
        self._saved.save(task.name, task.params.seed, state)
        self._refuse_revoked(task.clip)
        if task.num_steps_saved:
            with suppress(*STORE_FAULTS):
                delete_saved(self._settings.output, task.name, task.num_steps_saved)
        return Failed(
            error_type="NodeDrained",
            error=f"the node is going away; saved after {state.num_steps_done} steps",
            fault=Fault.DRAIN,
            num_steps_saved=state.num_steps_done,
            spans=tuple(attempt.spans),
        )

    def _keep_frames(self, attempt: Attempt, ready: _Ready, latents: Tensor) -> FramesReady:
        with attempt.stage(Stage.DECODE):
            frames = self._pipe.decode(latents)
        check_picture(frames)
        self._undelivered[attempt.task.attempt] = _Undelivered(attempt, frames, ready.subject)
        return _frames_ready()

    def _deliver(self, clip: _Undelivered) -> Rendered | Judged:
        """Marks, encodes, judges, uploads and commits. The commit comes last; it makes the clip finished."""
        settings, attempt, task = self._settings, clip.attempt, clip.attempt.task
        self._refuse_revoked(task.clip)
        encoded = self._finish(clip)
        stored = encoded.stored_as(task.clip.clip_id, task.attempt)
        if self._gate is None:
            self._upload(attempt, encoded, stored)
            record = self._commit_record(clip, stored, {})
            with attempt.stage(Stage.COMMIT):
                settled: CommitRecord | Judged = commit(settings.output, record, is_store_safe=settings.is_store_safe)
        else:
            with attempt.stage(Stage.JUDGE):
                scores = self._gate.judge(encoded.video, clip.subject, task)
            if not scores.is_unsafe:
                self._upload(attempt, encoded, stored)
            with attempt.stage(Stage.COMMIT):
                settled = self._gate.settle(task, scores, self._commit_record(clip, stored, scores.values))
        self._refuse_revoked(task.clip)
        self._clean_up(task, stored, settled)
        return _answer(settled, tuple(attempt.spans))

    def _finish(self, clip: _Undelivered) -> EncodedClip:
        assert self._marker is not None
        settings, task = self._settings, clip.attempt.task
        return finish(
            clip.frames,
            task.clip,
            task.params,
            identity=settings.identity,
            video=settings.video,
            marker=self._marker,
            stage=clip.attempt.stage,
        )

    def _upload(self, attempt: Attempt, encoded: EncodedClip, stored: StoredClip) -> None:
        with attempt.stage(Stage.UPLOAD):
            upload(encoded, stored, output=self._settings.output)

    def _clean_up(self, task: RenderTask, stored: StoredClip, settled: CommitRecord | Judged) -> None:
        """Deletes what is of no use any more: saved steps, and a video that lost the race for a commit."""
        with suppress(*STORE_FAULTS):  # `prune` removes what is left
            if self._gate is None and isinstance(settled, CommitRecord) and settled.attempt != task.attempt:
                for uri in filter(None, (stored.clip_uri, stored.poster_uri, stored.preview_uri)):
                    storage.delete(storage.join(self._settings.output, uri))
            if task.num_steps_saved:
                delete_saved(self._settings.output, task.name, task.num_steps_saved)

    def _commit_record(self, clip: _Undelivered, stored: StoredClip, scores: Mapping[str, float]) -> CommitRecord:
        settings, task = self._settings, clip.attempt.task
        return CommitRecord(
            **asdict(stored),
            clip_id=task.clip.clip_id,
            edition=task.edition,
            attempt=task.attempt,
            run_id=settings.run_id,
            committed_at=datetime.now(UTC),
            seed=task.params.seed,
            try_number=task.number,
            scores=dict(scores),
            face_turned_degrees=clip.subject.turned_degrees,
            allows_missing_consent=settings.allows_missing_consent,
            group_size=settings.plan.num_ranks,
            device=self._device_name,
            num_steps_resumed=task.num_steps_saved,
            stage_s={stage.column: seconds for stage, seconds in clip.attempt.seconds.items()},
            identity=asdict(settings.identity),
            software=self._software,
        )

    def _refuse_revoked(self, clip: ClipSpec) -> None:
        """Raises ConsentRevoked if the clip has a tombstone, and first takes back what no other consent spares.

        It is called before and after the commit: either `revoke` finds the commit, or this call finds the tombstone, which was put
        first.
        """
        request, output = clip.request, self._settings.output
        photos = keys_of_photos(portrait.sha256 for portrait in clip.person)
        try:
            refuse_revoked(output, [*keys_of(request.subject_id, request.consent_ref), *photos])
        except ConsentRevoked:
            self._read_subject.cache_clear()
            withdraw_revoked(output, owners_of(self._settings.run_id, [clip]))
            raise

    def _subject(self, clip: ClipSpec) -> Subject:
        with self._reading:
            return self._read_subject(clip.person)

    def _read_subject_once(self, person: tuple[Portrait, ...]) -> Subject:
        subject = self._pipe.read_person(map(self._read_picture, person), person[0].face_index)
        if subject.turned_degrees and self._rank == 0:
            hashes = ", ".join(portrait.sha256 for portrait in person)
            log.info("face_turned", photo_sha256=hashes, degrees=subject.turned_degrees)
        return subject

    def _read_picture(self, portrait: Portrait) -> NamedPicture:
        name = f"subject_uri {storage.redact(portrait.subject_uri)}"
        try:
            content = retry_while_unavailable(lambda: read_photo_file(portrait.uri, self._settings.inputs))
        except StoreUnready:
            raise
        except StoreRefused as error:
            raise PhotoRefused(str(error)) from error
        if hashlib.sha256(content).hexdigest() != portrait.sha256:
            raise PhotoChanged(f"{name}: the photo changed since the run was planned")
        picture = read_photo(content, is_parity=self._settings.faces.parity)
        if self._gate is not None:
            self._gate.check_photo(picture, name)
        return name, picture


def _answer(settled: CommitRecord | Judged, spans: tuple[Span, ...]) -> Rendered | Judged:
    if isinstance(settled, CommitRecord):
        return Rendered(commit=settled, spans=spans)
    return replace(settled, spans=spans)


def _frames_ready() -> FramesReady:
    on_device = torch.cuda.memory_reserved() if torch.cuda.is_available() else 0
    return FramesReady(memory_gib=(psutil.Process().memory_info().rss + on_device) / 2**30)


def _check_consent(clip: ClipSpec, now: datetime) -> None:
    """Raises ConsentExpired: a consent that was valid when the run started may have expired since."""
    expires_at = clip.request.consent_expires_at
    if expires_at is not None and expires_at <= now:
        raise ConsentExpired(f"consent_expires_at={expires_at.isoformat()}: must be later than now")
