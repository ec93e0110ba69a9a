"""The quality gate on the first rank: a rendered clip is judged before it counts.

A try is recorded before its worker answers, and what follows is decided from all recorded tries. So any worker may carry on where
another one was killed.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from lynx_batch.config import QualityConfig
from lynx_batch.errors import MissingObject, NotJudged, UnsafePhoto
from lynx_batch.ledger.commits import CommitRecord, commit, read_commit
from lynx_batch.ledger.tries import (
    DROPPED,
    BestTry,
    TryRecord,
    decide_by_tries,
    delete_files,
    drop_rejected,
    record_try,
)
from lynx_batch.outage import retry_while_unavailable
from lynx_batch.planning.verdict import (
    UNSAFE,
    UNSAFE_FALCONSAI,
    Accept,
    Reject,
    Render,
    Verdict,
    explain_unsafe,
    is_unsafe,
    missing_safety,
    missing_scores,
    thresholds,
)
from lynx_batch.rendering.tasks import Judged, RenderTask, WorkerSettings
from lynx_model.scoring.judge import ClipJudge
from lynx_model.scoring.options import OPEN_NSFW, JudgeOptions
from lynx_model.scoring.scores import ClipScores, NsfwScores
from lynx_model.spec import RenderParams, Subject

SCORED = ("likeness", "technical", "motion")


@dataclass(frozen=True, slots=True)
class TryScores:
    """What the scorers say of a try. `scorers` has the SHA-256 of each of their files."""

    values: dict[str, float]
    scorers: Mapping[str, Mapping[str, str]]
    is_unsafe: bool


class Gate:
    """Judges and decides about the clips of one output by the rules of one run."""

    def __init__(
        self,
        output: str,
        quality: QualityConfig,
        judge: ClipJudge,
        *,
        is_store_safe: bool,
        required_marks: frozenset[str] = frozenset(),
    ) -> None:
        self._output, self._quality, self._judge, self._is_store_safe = output, quality, judge, is_store_safe
        self._required_marks = required_marks

    @classmethod
    def load(cls, settings: WorkerSettings) -> "Gate | None":
        """The gate of a run; None if it does not judge.

        Raises:
            MissingFile, WeightsMismatch: If a scorer's file is missing or wrong.
        """
        quality = settings.quality
        if quality is None:
            return None
        return cls(
            settings.output,
            quality,
            ClipJudge.load(judge_options(quality, settings.faces.pack)),
            is_store_safe=settings.is_store_safe,
            required_marks=settings.provenance.required_marks,
        )

    def find(self, task: RenderTask) -> CommitRecord | Judged | None:
        """What has become of the clip already: committed from an earlier try, or to go on with another one. None: render this try."""
        verdict, tries = self._decide(task)
        if verdict == Render(task.number):
            return None
        return self._carry_out(task, verdict, tries)

    def check_photo(self, photo_rgb: NDArray[np.uint8], shown: str) -> None:
        """Judges a photo, uint8 (H, W, 3). `shown` names it in messages. May run beside `judge`: it uses no face network.

        Raises:
            UnsafePhoto: If it breaks a rule of safety.
            NotJudged: If a scorer fails.
        """
        if self._quality.safety is None:
            return
        try:
            values = _unsafe_scores(self._judge.score_photo(photo_rgb).nsfw)
        except Exception as error:  # whatever the libraries raise
            raise NotJudged(f"{shown}: not judged: {type(error).__name__}: {error}") from error
        if missing := missing_safety(values, self._quality):
            raise NotJudged(f"{shown}: not judged: no {', '.join(missing)}")
        if why := explain_unsafe(values, self._quality):
            raise UnsafePhoto(f"{shown}: the photo has {why}")

    def judge(self, video: bytes, subject: Subject, task: RenderTask) -> TryScores:
        """The scores of a try. Raises as `measure`."""
        return measure(self._judge, video, subject, task.params, self._quality)

    def settle(self, task: RenderTask, scores: TryScores, commit: CommitRecord) -> CommitRecord | Judged:
        """Records the try, which would be committed as `commit`, and decides about the clip."""
        record = TryRecord(
            clip_id=task.clip.clip_id,
            edition=task.edition,
            number=task.number,
            judged_at=datetime.now(UTC),
            scores=scores.values,
            scorers={name: dict(files) for name, files in scores.scorers.items()},
            is_unsafe=scores.is_unsafe,
            keep_rejected=self._quality.keep_rejected,
            commit=commit,
        )
        record_try(self._output, record, is_store_safe=self._is_store_safe)
        verdict, tries = self._decide(task, rendered=record)
        if record not in tries:  # another worker was first
            delete_files(self._output, commit, DROPPED["nothing"])
        return self._carry_out(task, verdict, tries)

    def _decide(self, task: RenderTask, rendered: TryRecord | None = None) -> tuple[Verdict, list[TryRecord]]:
        return decide_by_tries(
            self._output,
            task.clip,
            task.edition,
            self._quality,
            rendered=rendered,
            required_marks=self._required_marks,
        )

    def _carry_out(self, task: RenderTask, verdict: Verdict, tries: Sequence[TryRecord]) -> CommitRecord | Judged:
        if isinstance(verdict, Accept):
            accepted = next(record for record in tries if record.number == verdict.number)
            facts = {
                "committed_at": datetime.now(UTC),  # the try may be of an earlier run
                "num_tries": len(tries),
                "thresholds": thresholds(self._quality),
            }
            return commit(self._output, accepted.commit.model_copy(update=facts), is_store_safe=self._is_store_safe)
        if isinstance(verdict, Reject):
            with suppress(MissingObject):  # another run with other rules may have committed one of these tries
                return retry_while_unavailable(lambda: read_commit(self._output, task.clip.clip_id, task.edition))
            drop_rejected(self._output, tries, self._quality)
            return Judged(verdict=verdict, best=BestTry.among(tries, verdict.number))
        return Judged(verdict=verdict)


def judge_options(quality: QualityConfig, face_pack: str) -> JudgeOptions:
    """What to measure with under these rules; `face_pack` is on this machine."""
    safety = quality.safety
    return JudgeOptions(
        num_frames=quality.num_frames,
        face_pack=face_pack,
        nsfw_onnx=None if safety is None else safety.opennsfw2 or OPEN_NSFW,
        nsfw_vit=None if safety is None else safety.falconsai,
        prompt_model=None if quality.prompt is None else quality.prompt.model,
    )


def measure(
    judge: ClipJudge, video: bytes, subject: Subject, params: RenderParams, quality: QualityConfig
) -> TryScores:
    """The scores of a clip.

    Raises:
        NotJudged: If a scorer fails, or a score that the rules need is missing or no number: that is never a silent pass.
    """
    try:
        scores = judge.score(video, subject, params)
    except Exception as error:  # whatever the libraries raise
        raise NotJudged(f"not judged: {type(error).__name__}: {error}") from error
    values = flatten(scores)
    if missing := missing_scores(values, quality):
        raise NotJudged(f"not judged: no {', '.join(missing)}")
    return TryScores(values, scores.scorers, is_unsafe(values, quality))


def flatten(scores: ClipScores) -> dict[str, float]:
    """The scores by name, for example likeness_p10, technical_num_cuts and unsafe; those that are unknown are left out."""
    flat = {
        f"{kind}_{name}": float(value)
        for kind in SCORED
        for name, value in asdict(getattr(scores, kind)).items()
        if isinstance(value, bool | int | float)
    }
    if scores.prompt is not None:
        flat["prompt_mean"] = scores.prompt.mean
    return flat | _unsafe_scores(scores.nsfw)


def _unsafe_scores(nsfw: Sequence[NsfwScores]) -> dict[str, float]:
    """The highest probability that each classifier gave any picture; `judge_options` puts open_nsfw first."""
    return {name: score.maximum for name, score in zip((UNSAFE, UNSAFE_FALCONSAI), nsfw, strict=False)}
