"""The figures of a run: outcomes and their reasons, times, tries and likeness. Values in, values out."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lynx_batch.ledger.metadata import Outcome
from lynx_batch.report.rows import ReportRow
from lynx_batch.stages import CLIP_STAGES

NUM_BINS = 20
MAX_GROUPS_SHOWN = 20
"""So many subjects and prompts are listed, the least alike first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why rows were not rendered: one kind of error, how often it happened, and one of its messages."""

    outcome: Outcome
    error_type: str
    num_rows: int
    example: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTime:
    """How long a stage took: the median and the 90th percentile over the clips that this run rendered."""

    name: str
    median_s: float
    p90_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Likeness:
    """The likeness of some clips: how many, and the least, mean and greatest of their means."""

    name: str
    num_clips: int
    least: float
    mean: float
    greatest: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a whole run came to.

    `counts` has every outcome. `gpu_hours` and what follows from it are None if they are unknown. `num_extra_tries` counts tries beyond
    the first of each clip, None without a quality gate; `num_extra_attempts` counts attempts beyond the first. `bins` is the number of
    clips in each of `NUM_BINS` equal parts of [0, 1]; lower likeness counts as 0. `by_subject` and `by_prompt` have the least alike first.
    """

    num_rows: int
    counts: dict[Outcome, int]
    num_rendered_here: int
    reasons: tuple[Reason, ...]
    gpu_hours: float | None
    usd: float | None
    stages: tuple[StageTime, ...]
    num_extra_tries: int | None
    num_extra_attempts: int
    num_judged: int
    likeness: float | None
    bins: tuple[int, ...]
    by_subject: tuple[Likeness, ...]
    by_prompt: tuple[Likeness, ...]
    num_subjects: int
    num_prompts: int

    @property
    def clips_per_gpu_hour(self) -> float | None:
        return self.num_rendered_here / self.gpu_hours if self.gpu_hours else None


def sum_up(rows: Sequence[ReportRow], gpu_hours: float | None, usd_per_gpu_hour: float | None) -> Figures:
    """The figures of a run with these rows."""
    counts = Counter(row.outcome for row in rows)
    tries = [row.num_tries for row in rows if row.num_tries]
    means = [row.likeness for row in rows if row.outcome is Outcome.RENDERED and row.likeness is not None]
    histogram, _ = np.histogram(np.clip(means, 0, 1), NUM_BINS, (0, 1))
    return Figures(
        num_rows=len(rows),
        counts={outcome: counts[outcome] for outcome in Outcome},
        num_rendered_here=len({row.clip_id for row in rows if row.is_rendered_here}),
        reasons=tuple(_reasons(rows)),
        gpu_hours=gpu_hours,
        usd=None if gpu_hours is None or usd_per_gpu_hour is None else gpu_hours * usd_per_gpu_hour,
        stages=tuple(_stage_times(row for row in rows if row.is_rendered_here)),
        num_extra_tries=sum(tries) - len(tries) if tries else None,
        num_extra_attempts=sum(max(row.attempts - 1, 0) for row in rows),
        num_judged=len(means),
        likeness=float(np.mean(means)) if means else None,
        bins=tuple(histogram.tolist()),
        by_subject=_likeness_by(rows, lambda row: row.subject),
        by_prompt=_likeness_by(rows, lambda row: row.prompt),
        num_subjects=len({row.subject for row in rows}),
        num_prompts=len({row.prompt for row in rows}),
    )


def _reasons(rows: Iterable[ReportRow]) -> list[Reason]:
    """The most frequent first."""
    found: dict[tuple[Outcome, str], list[str]] = defaultdict(list)
    for row in rows:
        if row.outcome is not Outcome.RENDERED:
            found[row.outcome, row.error_type].append(row.error)
    reasons = [
        Reason(outcome=outcome, error_type=error_type, num_rows=len(errors), example=errors[0])
        for (outcome, error_type), errors in found.items()
    ]
    return sorted(reasons, key=lambda reason: (-reason.num_rows, reason.outcome, reason.error_type))


def _stage_times(rows: Iterable[ReportRow]) -> list[StageTime]:
    seconds: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        for stage, stage_s in row.stage_s.items():
            seconds[stage].append(stage_s)
    return [
        StageTime(
            name=str(stage),
            median_s=float(np.median(seconds[stage])),
            p90_s=float(np.percentile(seconds[stage], 90)),
        )
        for stage in CLIP_STAGES
        if stage in seconds
    ]


def _likeness_by(rows: Iterable[ReportRow], key: Callable[[ReportRow], str]) -> tuple[Likeness, ...]:
    means: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row.outcome is Outcome.RENDERED and row.likeness is not None:
            means[key(row)].append(row.likeness)
    groups = [
        Likeness(name=name, num_clips=len(some), least=min(some), mean=sum(some) / len(some), greatest=max(some))
        for name, some in means.items()
    ]
    return tuple(sorted(groups, key=lambda group: (group.mean, group.name))[:MAX_GROUPS_SHOWN])
