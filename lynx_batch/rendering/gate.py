"""The quality gate on the first rank: a rendered clip is judged before it counts.

A try is recorded before its worker answers, and what follows is decided from all recorded tries. So any worker may carry on where
another one was killed.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from lynx_batch import storage
from lynx_batch.config import QualityConfig
from lynx_batch.errors import STORE_FAULTS, NotJudged
from lynx_batch.ledger.commits import CommitRecord, commit
from lynx_batch.ledger.tries import TryRecord, decide_by_tries, record_try
from lynx_batch.planning.verdict import (
    UNSAFE,
    Accept,
    Reject,
    Render,
    Verdict,
    is_unsafe,
    missing_scores,
)
from lynx_batch.rendering.tasks import Judged, RenderTask, WorkerSettings
from lynx_model.scoring.judge import ClipJudge
from lynx_model.scoring.options import OPEN_NSFW, JudgeOptions
from lynx_model.scoring.scores import ClipScores
from lynx_model.spec import Subject

SCORED = ("likeness", "technical", "motion")
ALL_FILES = ("clip_uri", "preview_uri", "poster_uri")
DROPPED = {"clip": (), "poster": ("clip_uri", "preview_uri"), "nothing": ALL_FILES}
"""What is deleted of a rejected try, by `keep_rejected`."""


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
        nsfw = OPEN_NSFW if quality.safety is not None else None
        options = JudgeOptions(num_frames=quality.num_frames, face_pack=settings.faces.pack, nsfw_onnx=nsfw)
        judge = ClipJudge.load(options)
        return cls(
            settings.output,
            quality,
            judge,
            is_store_safe=settings.is_store_safe,
            required_marks=settings.provenance.required_marks,
        )

    def find(self, task: RenderTask) -> CommitRecord | Judged | None:
        """What has become of the clip already: committed from an earlier try, or to go on with another one. None: render this try."""
        verdict, tries = self._decide(task)
        if verdict == Render(task.number):
            return None
        return self._carry_out(verdict, tries)

    def judge(self, video: bytes, subject: Subject, task: RenderTask) -> TryScores:
        """The scores of a try.

        Raises:
            NotJudged: If a scorer fails, or a score that the rules need is missing or no number: that is never a silent pass.
        """
        try:
            scores = self._judge.score(video, subject, task.params)
        except Exception as error:  # whatever the libraries raise
            raise NotJudged(f"not judged: {type(error).__name__}: {error}") from error
        values = flatten(scores)
        if missing := missing_scores(values, self._quality):
            raise NotJudged(f"not judged: no {', '.join(missing)}")
        return TryScores(values, scores.scorers, is_unsafe(values, self._quality))

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
            commit=commit,
        )
        record_try(self._output, record, is_store_safe=self._is_store_safe)
        verdict, tries = self._decide(task, rendered=record)
        if record not in tries:  # another worker was first
            self._delete(commit, ALL_FILES)
        return self._carry_out(verdict, tries)

    def _decide(self, task: RenderTask, rendered: TryRecord | None = None) -> tuple[Verdict, list[TryRecord]]:
        return decide_by_tries(
            self._output,
            task.clip,
            task.edition,
            self._quality,
            rendered=rendered,
            required_marks=self._required_marks,
        )

    def _carry_out(self, verdict: Verdict, tries: Sequence[TryRecord]) -> CommitRecord | Judged:
        if isinstance(verdict, Accept):
            accepted = next(record for record in tries if record.number == verdict.number)
            return commit(self._output, accepted.commit, is_store_safe=self._is_store_safe)
        if isinstance(verdict, Reject):
            self._drop_rejected(tries)
        return Judged(verdict=verdict)

    def _drop_rejected(self, tries: Sequence[TryRecord]) -> None:
        """Deletes what `keep_rejected` does not keep."""
        for record in tries:
            self._delete(record.commit, DROPPED[self._quality.keep_rejected])

    def _delete(self, commit: CommitRecord, fields: tuple[str, ...]) -> None:
        with suppress(*STORE_FAULTS):  # `prune` removes what is left
            for uri in filter(None, (getattr(commit, field) for field in fields)):
                storage.delete(storage.join(self._output, uri))


def flatten(scores: ClipScores) -> dict[str, float]:
    """The scores by name, for example likeness_p10, technical_num_cuts and unsafe; those that are unknown are left out.

    `unsafe` is the highest probability that any classifier gave any frame.
    """
    flat = {
        f"{kind}_{name}": float(value)
        for kind in SCORED
        for name, value in asdict(getattr(scores, kind)).items()
        if isinstance(value, bool | int | float)
    }
    if scores.nsfw:
        flat[UNSAFE] = max(score.maximum for score in scores.nsfw)
    if scores.prompt is not None:
        flat["prompt_mean"] = scores.prompt.mean
    return flat
