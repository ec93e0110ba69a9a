"""How the scores of tries are distributed."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """All values of one score, in ascending order; there is at least one."""

    score: str
    values: tuple[float, ...]

    @property
    def low(self) -> float:
        return self.values[0]

    @property
    def high(self) -> float:
        return self.values[-1]

    @property
    def is_constant(self) -> bool:
        return self.low == self.high

    @property
    def median(self) -> float:
        return median(self.values)

    def position(self, value: float) -> float:
        """Where `value` lies between the lowest value (0) and the highest one (1); 0.5 if all are the same."""
        return 0.5 if self.is_constant else (value - self.low) / (self.high - self.low)

    def histogram(self, num_bins: int) -> list[int]:
        """How many values each of `num_bins` equally wide bins from `low` to `high` has."""
        counts = [0] * num_bins
        for value in self.values:
            counts[min(int(self.position(value) * num_bins), num_bins - 1)] += 1
        return counts


def distributions(tries: Iterable[Mapping[str, float]]) -> list[Distribution]:
    """The distribution of each score, by name, from the scores of each try."""
    values = defaultdict(list)
    for scores in tries:
        for name, value in scores.items():
            values[name].append(value)
    return [Distribution(score=name, values=tuple(sorted(found))) for name, found in sorted(values.items())]
