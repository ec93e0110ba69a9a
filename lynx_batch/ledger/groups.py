"""Counts rows by what varies between them: how many of each outcome, and how alike, for each value of some columns or tags."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lynx_batch.columns import cell_of, column_of, tag_key
from lynx_batch.errors import ConfigError
from lynx_batch.ledger.metadata import FILTER_COLUMNS, Outcome
from lynx_batch.ledger.order import newest_rows
from lynx_batch.spelling import nearest

LIKENESS = "likeness_mean"


@dataclass(slots=True, kw_only=True)
class Group:
    """The rows with the same values. `likeness` sums up the `num_judged` clips that have one."""

    counts: Counter[Outcome] = field(default_factory=Counter)
    num_judged: int = 0
    total_likeness: float = 0.0

    @property
    def likeness(self) -> float | None:
        """The mean."""
        return self.total_likeness / self.num_judged if self.num_judged else None

    def add(self, outcome: Outcome, likeness: float | None) -> None:
        self.counts[outcome] += 1
        if outcome is Outcome.RENDERED and likeness is not None:
            self.num_judged += 1
            self.total_likeness += likeness


Values = tuple[Any, ...]


def group_rows(output: str, names: Sequence[str]) -> dict[Values, Group]:
    """The newest row of each clip, and of each row that never became one, by its values of `names`: columns, or tags as `tags.KEY`.

    Groups are sorted by their values; nulls come last.

    Raises:
        ConfigError: If there is no such column.
    """
    for name in names:
        if tag_key(name) is None and (name not in FILTER_COLUMNS or name == "tags"):
            known = nearest(name, FILTER_COLUMNS)
            raise ConfigError(f"--by {name!r}: must be a column of the metadata or tags.KEY; the nearest is {known!r}")
    wanted = [*dict.fromkeys(["outcome", LIKENESS, *map(column_of, names)])]
    groups: dict[Values, Group] = defaultdict(Group)
    for batch in newest_rows(output).select(wanted).to_batches():
        for row in batch.to_pylist():
            groups[tuple(cell_of(row, name) for name in names)].add(Outcome(row["outcome"]), row[LIKENESS])
    return dict(sorted(groups.items(), key=lambda group: [*map(_sorting_key, group[0])]))


def _sorting_key(value: Any) -> tuple[bool, Any]:
    return (True, 0) if value is None else (False, value)
