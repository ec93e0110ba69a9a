"""What becomes of a clip, from the scores of its tries and the rules of the run: pure, so that everybody who asks decides alike.

A try is one seed of a clip, rendered and judged; it is recorded once and never rendered again. Tries have numbers from 0 on, and a redo
goes on counting. Messages call the number `try_number`, as the metadata does.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lynx_batch.config import QualityConfig
from lynx_batch.errors import UnsafePhoto

NOT_GOOD_ENOUGH, UNSAFE_CONTENT = "NotGoodEnough", "UnsafeContent"
"""Error types of rows that the quality gate rejected."""

LIKENESS_P10 = "likeness_p10"
UNSAFE, UNSAFE_FALCONSAI = "unsafe", "unsafe_falconsai"
"""The scores that `safety` limits: how unsafe the worst frame is, from 0 to 1, by open_nsfw and by `safety.falconsai`."""

UNSAFE_ERRORS = frozenset({UNSAFE_CONTENT, UnsafePhoto.__name__})
"""Error types of rows that are unsafe, which nobody can overrule."""

SAFETY_RULES = {UNSAFE: "max_score", UNSAFE_FALCONSAI: "max_falconsai"}
"""The key of `quality.safety` that limits each score."""

MAX_TECHNICAL = {
    "technical_num_not_finite": 0,
    "technical_longest_black_s": 0,
    "technical_longest_frozen_s": 0,
    "technical_longest_constant_s": 0,
    "technical_black_area": 0.4,
    "technical_num_cuts": 0,
}
"""A video is faulty above these values, or if it is not as ordered. Uncalibrated; a night scene has a black area of about 0.2."""

AS_ORDERED = "technical_is_as_ordered"

RULE = re.compile(r"\((quality\.[\w.]+)\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedTry:
    """What is known of a try.

    Args:
        number: Which of the clip's seeds, from 0 on.
        scores: Values by name. A try of an earlier run may lack some; a rule without a score is broken.
        has_video: Whether its video is still in the store.
        is_unsafe: Whether it was found unsafe when it was judged. That holds for every later run.
    """

    number: int
    scores: Mapping[str, float]
    has_video: bool = True
    is_unsafe: bool = False


@dataclass(frozen=True, slots=True)
class Accept:
    """Commit the video of this try."""

    number: int


@dataclass(frozen=True, slots=True)
class Render:
    """Render the try with this number: a new one, or one that passes now but whose video is gone."""

    number: int


@dataclass(frozen=True, slots=True)
class Reject:
    """No further try is allowed. `reason` is about the try with this number: the best one, or the one that is unsafe."""

    reason: str
    is_unsafe: bool = False
    number: int = 0

    @property
    def error_type(self) -> str:
        return UNSAFE_CONTENT if self.is_unsafe else NOT_GOOD_ENOUGH


Verdict = Accept | Render | Reject


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """Which tries a clip may have: `first`, and at most `best_of` + `max_reseeds` in all."""

    first: int
    best_of: int
    max_reseeds: int

    @classmethod
    def of(cls, quality: QualityConfig, *, is_seed_given: bool, first: int = 0) -> "Numbers":
        """A row that gives its seed has that one try, unless the run allows other seeds."""
        if is_seed_fixed(is_seed_given, quality):
            return cls(first=first, best_of=1, max_reseeds=0)
        return cls(first=first, best_of=quality.best_of, max_reseeds=quality.max_reseeds)

    @property
    def wanted(self) -> range:
        """These are rendered in any case, unless one is unsafe."""
        return range(self.first, self.first + self.best_of)

    @property
    def allowed(self) -> range:
        return range(self.first, self.first + self.best_of + self.max_reseeds)


def is_seed_fixed(is_seed_given: bool, quality: QualityConfig | None) -> bool:
    """Whether a run with these rules may render no other seed than the row's."""
    return is_seed_given and not (quality and quality.reseed_given)


def decide(tries: Sequence[JudgedTry], quality: QualityConfig, numbers: Numbers) -> Verdict:
    """What to do next with a clip that has these tries. Tries of other numbers than the allowed ones count, too: a later run may
    allow fewer.
    """
    if unsafe := [t for t in tries if t.is_unsafe or is_unsafe(t.scores, quality)]:
        worst = unsafe[0]
        why = explain_unsafe(worst.scores, quality) or "was found unsafe"
        return Reject(f"try_number={worst.number}: {why}", is_unsafe=True, number=worst.number)
    judged = {t.number for t in tries}
    missing = [number for number in numbers.wanted if number not in judged]
    if missing:
        return Render(missing[0])
    passed = [t for t in tries if not broken_rules(t, quality)]
    if passed:
        best = best_of(passed)
        return Accept(best.number) if best.has_video else Render(best.number)
    more = [number for number in numbers.allowed if number not in judged]
    if more:
        return Render(more[0])
    best = best_of(tries)
    head = "its only try failed" if len(tries) == 1 else f"none of {len(tries)} tries passed; the best one"
    why = "; ".join(broken_rules(best, quality))
    return Reject(f"{head}, try_number={best.number}: {why}", number=best.number)


def best_of(tries: Sequence[JudgedTry]) -> JudgedTry:
    """The one with the highest tenth percentile of likeness; among equals, the earliest. At least one try."""
    return max(tries, key=lambda judged: (judged.scores.get(LIKENESS_P10, 0.0), -judged.number))


def broken_rules(judged: JudgedTry, quality: QualityConfig) -> list[str]:
    """Every rule that the try breaks, with its value. One whose safety was never judged does not pass either."""
    broken = _technical_faults(judged.scores) if quality.technical else []
    for key, limit in _likeness_limits(quality).items():
        name = likeness_score(key)
        value = judged.scores.get(name)
        if value is None:
            broken.append(f"{name}: was not judged (quality.likeness.{key})")
        elif not value >= limit:
            broken.append(f"{name}={value:.2f}: must be at least {limit:g} (quality.likeness.{key})")
    broken += [
        f"{name}: was not judged (quality.safety)" for name in _unsafe_limits(quality) if name not in judged.scores
    ]
    return broken


def _technical_faults(scores: Mapping[str, float]) -> list[str]:
    if AS_ORDERED not in scores:
        return ["technical: was not judged (quality.technical)"]
    above = [(name, scores[name], limit) for name, limit in MAX_TECHNICAL.items() if scores.get(name, 0) > limit]
    faults = [f"{name}={value:.3g}: must be at most {limit:g} (quality.technical)" for name, value, limit in above]
    is_as_ordered = "the video's frames, size and rate: must be as ordered (quality.technical)"
    return faults if scores[AS_ORDERED] else [is_as_ordered, *faults]


def rules_in(reason: str) -> list[str]:
    """The keys of the rules that a reason of `Reject` names, such as quality.likeness.min_p10."""
    return sorted(set(RULE.findall(reason)))


def missing_scores(scores: Mapping[str, float], quality: QualityConfig) -> list[str]:
    """The scores that the rules need and that are missing, and those that are no finite numbers: then the clip was not judged."""
    needed = [likeness_score(key) for key in _likeness_limits(quality)]
    needed += [LIKENESS_P10] if quality.best_of > 1 else []
    needed += [AS_ORDERED, "technical_black_area"] if quality.technical else []
    needed += _unsafe_limits(quality)
    return sorted({name for name in (*needed, *scores) if not math.isfinite(scores.get(name, math.nan))})


def _likeness_limits(quality: QualityConfig) -> dict[str, float]:
    """The keys of `quality.likeness` that ask for something."""
    limits = {} if quality.likeness is None else quality.likeness.model_dump()
    return {key: limit for key, limit in limits.items() if limit is not None}


def likeness_score(rule: str) -> str:
    """The score that a key of `quality.likeness` limits: likeness_mean for min_mean."""
    return f"likeness_{rule.removeprefix('min_')}"


def is_unsafe(scores: Mapping[str, float], quality: QualityConfig) -> bool:
    """Whether the scores forbid to upload the try."""
    return explain_unsafe(scores, quality) is not None


def explain_unsafe(scores: Mapping[str, float], quality: QualityConfig) -> str | None:
    """Which of the safety rules the scores of a clip or a photo break, with value and limit; None if they break none."""
    faults = [
        f"{name}={scores[name]:.2f}: must be below {limit:g} (quality.safety.{SAFETY_RULES[name]})"
        for name, limit in _unsafe_limits(quality).items()
        if scores.get(name, 0) >= limit
    ]
    return "; ".join(faults) or None


def missing_safety(scores: Mapping[str, float], quality: QualityConfig) -> list[str]:
    """The scores that the safety rules need and that are missing or no finite numbers."""
    return [name for name in _unsafe_limits(quality) if not math.isfinite(scores.get(name, math.nan))]


def _unsafe_limits(quality: QualityConfig) -> dict[str, float]:
    """What `quality.safety` allows, by score."""
    safety = quality.safety
    if safety is None:
        return {}
    limits = {name: getattr(safety, rule) for name, rule in SAFETY_RULES.items()}
    return limits if safety.falconsai is not None else {UNSAFE: limits[UNSAFE]}


def thresholds(quality: QualityConfig) -> dict[str, float]:
    """The limits of a run by the name of the score: the least likeness, and the most of everything else."""
    likeness = {likeness_score(key): limit for key, limit in _likeness_limits(quality).items()}
    return {**likeness, **(MAX_TECHNICAL if quality.technical else {}), **_unsafe_limits(quality)}
