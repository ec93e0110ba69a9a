"""The mean of paired differences, and how certain it is. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.stats import t

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The mean difference over `num` pairs. With 95 % confidence, the true mean is from `low` to `high`; None for fewer than two pairs."""

    mean: float
    low: float | None
    high: float | None
    num: int


def difference(values: Sequence[float], reference: Sequence[float]) -> Difference | None:
    """How much higher `values` are, pair by pair; by Student's t, so clips count as independent. None without pairs."""
    pairs = [value - other for value, other in zip(values, reference, strict=True)]
    if not pairs:
        return None
    mean, num = fmean(pairs), len(pairs)
    if num < 2:
        return Difference(mean=mean, low=None, high=None, num=num)
    half = float(t.ppf((1 + CONFIDENCE) / 2, num - 1)) * stdev(pairs) / math.sqrt(num)
    return Difference(mean=mean, low=mean - half, high=mean + half, num=num)
