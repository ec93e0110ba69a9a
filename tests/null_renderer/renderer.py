"""What a worker imports in place of `lynx_batch.rendering.renderer`: each clip is committed at once."""

import os
import time
from datetime import UTC, datetime

from lynx_batch.errors import Fault
from lynx_batch.ledger.commits import CommitRecord, commit
from lynx_batch.output import poster_path, video_path
from lynx_batch.rendering.tasks import Failed, FramesReady, Rendered, RenderTask, WorkerSettings
from lynx_batch.stages import CLIP_STAGES, Span, Stage
from lynx_model.sampler import OnStep

SECONDS = 0.001
"""What each stage of a clip pretends to have taken."""


class Renderer:
    """One clip in `NULL_FAILS_EACH`, if that is set, fails."""

    def __init__(self, settings: WorkerSettings, *, rank: int, device: str) -> None:
        self._settings, self._device = settings, device
        self._fails_each = int(os.environ.get("NULL_FAILS_EACH", "0"))

    def prefetch(self, task: RenderTask) -> None:
        """There is no photo to read."""

    def pause(self) -> None:
        """There is nothing to save."""

    def render(self, task: RenderTask, on_step: OnStep) -> FramesReady | Failed:
        if self._fails_each and task.clip.request.row % self._fails_each == 0:
            return Failed(error_type="NullFailure", error="this clip is to fail", fault=Fault.CLIP)
        return FramesReady()

    def deliver(self, task: RenderTask) -> Rendered:
        spans = tuple(Span(stage=stage, start_s=time.time(), seconds=SECONDS) for stage in CLIP_STAGES)
        record = commit(self._settings.output, self._record(task), is_store_safe=self._settings.is_store_safe)
        return Rendered(commit=record, spans=spans)

    def _record(self, task: RenderTask) -> CommitRecord:
        clip_id, params = task.clip.clip_id, task.params
        return CommitRecord(
            clip_id=clip_id,
            edition=task.edition,
            attempt=task.attempt,
            run_id=self._settings.run_id,
            committed_at=datetime.now(UTC),
            clip_uri=video_path(clip_id, task.attempt),
            poster_uri=poster_path(clip_id, task.attempt),
            sha256="0" * 64,
            num_bytes=1,
            num_frames=params.num_frames,
            fps=params.fps,
            width=params.width,
            height=params.height,
            seed=params.seed,
            group_size=self._settings.plan.num_ranks,
            device=self._device,
            stage_s={stage.column: SECONDS for stage in CLIP_STAGES if stage is not Stage.JUDGE},
            identity={"base": self._settings.identity.base, "precision": self._settings.identity.precision},
            software={"torch": "none"},
        )
