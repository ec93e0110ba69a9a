"""Limits of likeness for a run, from tries that were judged: for a wanted share of tries that pass, or from people's labels.

Only likeness is calibrated. What is a technical fault or unsafe does not depend on how many clips should pass.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import ge
from statistics import fmean

from lynx_batch.config import QualityConfig
from lynx_batch.planning.distributions import distributions
from lynx_batch.planning.expectation import committed_share, expected_tries, passes
from lynx_batch.planning.verdict import JudgedTry, Numbers, likeness_score, missing_scores

RULES = ("min_mean", "min_p10", "min_face_share")
"""The limits of `quality.likeness`."""

SCORES = tuple(likeness_score(rule) for rule in RULES)
FACE_SHARE = likeness_score("min_face_share")

STEPS_PER_UNIT = 1000
"""Limits have three decimals."""

FEW_TRIES = 30
"""With fewer, a limit depends on single tries: at a pass rate of 0.9, on the three worst."""

NUM_CLIPS = 1000
HOUR_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredTry:
    """A judged try of an edition of a clip. `gpu_s` are its GPU-seconds, or None if nobody noted them."""

    clip_id: str
    edition: int
    judged: JudgedTry
    gpu_s: float | None
    is_committed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What rules would lead to, by the tries that were judged.

    Args:
        aim: What the rules were chosen for.
        pass_share: The share of tries that pass. Technical faults and unsafe tries count as failed.
        committed_share: The share of clips of which some try passes.
        gpu_hours: For `NUM_CLIPS` clips; None if nobody noted how long tries take.
        balanced_accuracy: The mean of two shares: good tries that pass, and bad ones that fail. None without labels.
    """

    aim: str
    quality: QualityConfig
    pass_share: float
    tries_per_clip: float
    committed_share: float
    gpu_hours: float | None
    balanced_accuracy: float | None


Labelled = Sequence[tuple[JudgedTry, bool]]
"""Tries, and whether a person called them good."""


def is_usable(judged: JudgedTry, policy: QualityConfig) -> bool:
    """Whether all likeness scores of the try are known, and all others that the policy needs."""
    return not missing_scores(judged.scores, policy) and all(score in judged.scores for score in SCORES)


def limits_for_pass_rate(tries: Sequence[JudgedTry], policy: QualityConfig, pass_rate: float) -> QualityConfig:
    """`policy` with the highest limits that at least `pass_rate` of the tries pass, of those without any other fault.

    Each limit is set so that it fails equally many tries. All tries must be usable.
    """
    base, rules = _start(tries, policy)
    whole = [judged for judged in tries if passes(judged, base)]
    if not (whole and rules):
        return base
    rows = [tuple(judged.scores[likeness_score(rule)] for rule in rules) for judged in whole]
    ascending = [sorted(values) for values in zip(*rows, strict=True)]

    def limits(num_below: int) -> list[float]:
        return [round_down(values[num_below]) for values in ascending]

    def misses(num_below: int) -> bool:
        least = limits(num_below)
        return sum(all(map(ge, row, least)) for row in rows) < pass_rate * len(rows)

    num_below = bisect_left(range(len(rows)), True, key=misses) - 1
    return with_limits(base, dict(zip(rules, limits(max(0, num_below)), strict=True)))


def limits_for_labels(labelled: Labelled, policy: QualityConfig) -> QualityConfig:
    """`policy` with the limits of best balanced accuracy. A limit is set only if it adds accuracy to those before it.

    There must be good and bad tries, all of them usable. Of limits that are equally accurate, the lowest is set.
    """
    quality, rules = _start([judged for judged, _ in labelled], policy)
    accuracy = balanced_accuracy(labelled, quality)
    while rules:
        found = {rule: _best_limit(labelled, quality, rule) for rule in rules}
        best = max(rules, key=lambda rule: found[rule][0])
        if found[best][0] <= accuracy:
            break
        accuracy, limit = found[best]
        quality = with_limits(quality, {best: limit})
        rules.remove(best)
    return quality


def why_no_limit(tries: Sequence[JudgedTry], policy: QualityConfig, *, by_labels: bool) -> str:
    """Why neither function above set a limit that `policy` lacks. `tries` are those that it was given."""
    base, rules = _start(tries, policy)
    if not any(judged.scores[FACE_SHARE] > 0 for judged in tries):
        return "no face was found in any of the tries; look at some clips"
    if not rules:
        return "every score of likeness is the same in all tries"
    if not any(passes(judged, base) for judged in tries):
        return "all tries are unsafe or have technical faults, which no limit of likeness can mend"
    if by_labels:
        return "no score of likeness tells good tries from bad ones, or that run has these limits already"
    return "that run has these limits already"


def balanced_accuracy(labelled: Labelled, quality: QualityConfig) -> float:
    """The mean of two shares: good tries that pass, and bad ones that fail."""
    good = [passes(judged, quality) for judged, is_good in labelled if is_good]
    bad = [passes(judged, quality) for judged, is_good in labelled if not is_good]
    return (fmean(good) + 1 - fmean(bad)) / 2


def assess(aim: str, quality: QualityConfig, tries: Sequence[ScoredTry], labelled: Labelled | None = None) -> Candidate:
    """What these rules would do, by the tries; there must be at least one."""
    numbers = Numbers.of(quality, is_seed_given=False)
    share = fmean(passes(each.judged, quality) for each in tries)
    seconds = [each.gpu_s for each in tries if each.gpu_s is not None]
    num_tries = expected_tries(share, numbers)
    return Candidate(
        aim=aim,
        quality=quality,
        pass_share=share,
        tries_per_clip=num_tries,
        committed_share=committed_share(share, numbers),
        gpu_hours=NUM_CLIPS * num_tries * fmean(seconds) / HOUR_S if seconds else None,
        balanced_accuracy=balanced_accuracy(labelled, quality) if labelled else None,
    )


def limits_of(quality: QualityConfig) -> dict[str, float]:
    """The limits of likeness that are set."""
    return {} if quality.likeness is None else quality.likeness.model_dump(exclude_none=True)


def with_limits(quality: QualityConfig, limits: Mapping[str, float]) -> QualityConfig:
    """`quality` with these limits of likeness in addition to its own."""
    return _with_only(quality, limits_of(quality) | dict(limits))


def round_down(value: float) -> float:
    """`value` with three decimals, never above it: a try whose score set a limit must pass it."""
    steps = math.floor(value * STEPS_PER_UNIT)
    is_above = steps / STEPS_PER_UNIT > value
    return max(-1.0, (steps - is_above) / STEPS_PER_UNIT)  # a cosine may lie a little outside of -1 to 1


def _start(tries: Iterable[JudgedTry], policy: QualityConfig) -> tuple[QualityConfig, list[str]]:
    """`policy` without the limits that are to be chosen, and their names.

    A score that never varies gets no limit. The policy's own limit stays where all tries pass it.
    """
    spread = {each.score: each for each in distributions(judged.scores for judged in tries)}
    chosen = [rule for rule in RULES if not spread[likeness_score(rule)].is_constant]
    own = limits_of(policy).items()
    kept = {rule: limit for rule, limit in own if rule not in chosen and limit <= spread[likeness_score(rule)].low}
    return _with_only(policy, kept), chosen


def _with_only(quality: QualityConfig, limits: Mapping[str, float]) -> QualityConfig:
    return QualityConfig.model_validate(quality.model_dump() | {"likeness": dict(limits)})


def _best_limit(labelled: Labelled, quality: QualityConfig, rule: str) -> tuple[float, float]:
    """The best balanced accuracy that one more limit gives, and that limit: half way between two scores."""
    score = likeness_score(rule)
    num = {is_good: sum(label == is_good for _, label in labelled) for is_good in (True, False)}
    passed = {
        is_good: sorted(j.scores[score] for j, label in labelled if label == is_good and passes(j, quality))
        for is_good in (True, False)
    }
    values = sorted({judged.scores[score] for judged, _ in labelled})

    def accuracy(limit: float) -> float:
        good, bad = (len(passed[is_good]) - bisect_left(passed[is_good], limit) for is_good in (True, False))
        return (good / num[True] + 1 - bad / num[False]) / 2

    limits = {round_down((low + high) / 2) for low, high in pairwise(values)}
    best = max(limits, key=lambda limit: (accuracy(limit), -limit))
    return accuracy(best), best
