"""The figures of a run: outcomes and their reasons, times, tries and likeness. Values in, values out."""

import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from lynx_batch.ledger.metadata import Outcome
from lynx_batch.ledger.pace import Cost
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
class AxisValue:
    """The rows with one value of an axis. `likeness` is the mean of the clips that have one, None if there is none."""

    value: str
    num_rows: int
    num_rendered: int
    likeness: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """Something that varies between rows, such as `guidance_scale`, with its values in their order."""

    name: str
    values: tuple[AxisValue, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a whole run came to.

    `counts` has every outcome. `gpu_hours` and what follows from it are None if they are unknown. `num_extra_tries` counts tries beyond
    the first of each clip that this run finished, None without a quality gate; `num_still_in_force` are rows that were not rendered, but of
    whose clips an older edition is in force; `num_extra_attempts` counts attempts beyond the first. `bins` is the number of
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
    num_still_in_force: int
    num_judged: int
    likeness: float | None
    bins: tuple[int, ...]
    by_subject: tuple[Likeness, ...]
    by_prompt: tuple[Likeness, ...]
    num_subjects: int
    num_prompts: int
    axes: tuple[Axis, ...] = ()

    @property
    def clips_per_gpu_hour(self) -> float | None:
        return self.num_rendered_here / self.gpu_hours if self.gpu_hours else None


def sum_up(rows: Iterable[ReportRow], cost: Cost | None) -> Figures:
    """The figures of a run with these rows, each of which is seen once. `cost` is None if it is unknown."""
    sums = _Sums()
    for row in rows:
        sums.add(row)
    means = np.frombuffer(sums.means) if sums.means else np.empty(0)
    histogram, _ = np.histogram(np.clip(means, 0, 1), NUM_BINS, (0, 1))
    return Figures(
        num_rows=sums.counts.total(),
        counts={outcome: sums.counts[outcome] for outcome in Outcome},
        num_rendered_here=len(sums.rendered_here),
        reasons=tuple(_reasons(sums.errors)),
        gpu_hours=cost.gpu_hours if cost else None,
        usd=cost.usd if cost else None,
        stages=tuple(_stage_times(sums.stage_s)),
        num_extra_tries=sums.num_extra_tries if sums.has_tries else None,
        num_extra_attempts=sums.num_extra_attempts,
        num_still_in_force=sums.num_still_in_force,
        num_judged=len(means),
        likeness=float(np.mean(means)) if sums.means else None,
        bins=tuple(histogram.tolist()),
        by_subject=_least_alike(sums.by_subject),
        by_prompt=_least_alike(sums.by_prompt),
        num_subjects=len(sums.subjects),
        num_prompts=len(sums.prompts),
        axes=tuple(_axis(name, values) for name, values in sums.by_axis.items()),
    )


@dataclass(slots=True)
class _Errors:
    """How often one kind of error happened, and its first message."""

    example: str
    num_rows: int = 0


@dataclass(slots=True)
class _Alike:
    """The likeness of some clips so far."""

    num_clips: int = 0
    least: float = math.inf
    total: float = 0.0
    greatest: float = -math.inf

    def add(self, mean: float) -> None:
        self.num_clips += 1
        self.total += mean
        self.least, self.greatest = min(self.least, mean), max(self.greatest, mean)


@dataclass(slots=True)
class _Varied:
    """The rows with one value of an axis so far."""

    num_rows: int = 0
    num_rendered: int = 0
    alike: _Alike = field(default_factory=_Alike)

    def add(self, row: ReportRow) -> None:
        self.num_rows += 1
        if row.outcome is Outcome.RENDERED:
            self.num_rendered += 1
            if row.likeness is not None:
                self.alike.add(row.likeness)


class _Sums:
    """The sums of the rows so far. Numbers are kept as arrays, because there may be a million."""

    def __init__(self) -> None:
        self.counts: Counter[Outcome] = Counter()
        self.errors: dict[tuple[Outcome, str], _Errors] = {}
        self.rendered_here: set[str] = set()
        self.subjects: set[str] = set()
        self.prompts: set[str] = set()
        self.num_extra_attempts = self.num_extra_tries = self.num_still_in_force = 0
        self.has_tries = False
        self.means = array("d")
        self.stage_s: defaultdict[str, array[float]] = defaultdict(lambda: array("d"))
        self.by_subject: defaultdict[str, _Alike] = defaultdict(_Alike)
        self.by_prompt: defaultdict[str, _Alike] = defaultdict(_Alike)
        self.by_axis: defaultdict[str, defaultdict[str, _Varied]] = defaultdict(lambda: defaultdict(_Varied))

    def add(self, row: ReportRow) -> None:
        self.counts[row.outcome] += 1
        self.subjects.add(row.subject)
        self.prompts.add(row.prompt)
        self.num_extra_attempts += max(row.attempts - 1, 0)
        self.num_extra_tries += row.num_extra_tries
        self.num_still_in_force += row.is_still_in_force
        self.has_tries |= bool(row.num_tries)
        for axis, value in row.varied.items():
            self.by_axis[axis][value].add(row)
        if row.outcome is not Outcome.RENDERED:
            self.errors.setdefault((row.outcome, row.error_type), _Errors(row.error)).num_rows += 1
        elif (mean := row.likeness) is not None:
            self.means.append(mean)
            self.by_subject[row.subject].add(mean)
            self.by_prompt[row.prompt].add(mean)
        if row.is_rendered_here:
            self.rendered_here.add(row.clip_id)
            for stage, stage_s in row.stage_s.items():
                self.stage_s[stage].append(stage_s)


def _reasons(errors: Mapping[tuple[Outcome, str], _Errors]) -> list[Reason]:
    """The most frequent first."""
    reasons = [
        Reason(outcome=outcome, error_type=error_type, num_rows=found.num_rows, example=found.example)
        for (outcome, error_type), found in errors.items()
    ]
    return sorted(reasons, key=lambda reason: (-reason.num_rows, reason.outcome, reason.error_type))


def _stage_times(stage_s: Mapping[str, "array[float]"]) -> list[StageTime]:
    return [
        StageTime(
            name=str(stage),
            median_s=float(np.median(stage_s[stage])),
            p90_s=float(np.percentile(stage_s[stage], 90)),
        )
        for stage in CLIP_STAGES
        if stage in stage_s
    ]


def _least_alike(found: Mapping[str, _Alike]) -> tuple[Likeness, ...]:
    groups = [
        Likeness(name=name, num_clips=a.num_clips, least=a.least, mean=a.total / a.num_clips, greatest=a.greatest)
        for name, a in found.items()
    ]
    return tuple(sorted(groups, key=lambda group: (group.mean, group.name))[:MAX_GROUPS_SHOWN])


def _axis(name: str, values: Mapping[str, _Varied]) -> Axis:
    return Axis(
        name=name,
        values=tuple(
            AxisValue(
                value=value,
                num_rows=found.num_rows,
                num_rendered=found.num_rendered,
                likeness=found.alike.total / found.alike.num_clips if found.alike.num_clips else None,
            )
            for value, found in sorted(values.items(), key=lambda item: _in_order(item[0]))
        ),
    )


def _in_order(value: str) -> tuple[float, str]:
    """Numbers by size, before texts."""
    try:
        return float(value), ""
    except ValueError:
        return math.inf, value
