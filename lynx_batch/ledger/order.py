"""The order of runs by their start, whatever their names are; and which metadata rows are still valid after newer runs."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lynx_batch.ledger.metadata import read_metadata
from lynx_batch.ledger.runs import RunRecord, read_runs

BEGINNING = datetime.min.replace(tzinfo=UTC)
DATED = re.compile(r"(\d{8}T\d{6})Z-\w+")


@dataclass(frozen=True, slots=True)
class RunOrder:
    """`ranks` numbers the runs by age, from 0 for the oldest; `records` holds the run records that exist.

    A run whose record is gone started at the time in its id, or before all others if there is none.
    """

    ranks: Mapping[str, int]
    records: Mapping[str, RunRecord]

    @classmethod
    def of(cls, output: str, mentioned: Iterable[str]) -> "RunOrder":
        """The order of the runs at `output` and of the `mentioned` ones, whose records may be gone."""
        records = {run.run_id: run.record for run in read_runs(output)}
        started_at = {run_id: _parse_start(run_id) for run_id in mentioned}
        started_at |= {run_id: record.started_at for run_id, record in records.items()}
        by_age = sorted(started_at, key=lambda run_id: (started_at[run_id], run_id))
        return cls({run_id: rank for rank, run_id in enumerate(by_age)}, records)

    def manifest_of(self, run_id: str) -> str | None:
        """The manifest of a run, or None if its record is gone or does not name it."""
        record = self.records.get(run_id)
        return record.manifest if record else None

    def newest_whole_runs(self) -> dict[str, str]:
        """For each manifest, the newest run that took all of its rows; manifests without such a run are missing."""
        whole = (run_id for run_id in self.ranks if run_id in self.records and self.records[run_id].is_whole)
        return {manifest: run_id for run_id in whole if (manifest := self.manifest_of(run_id))}

    def current_runs(self) -> frozenset[str]:
        """The runs that no newer run over the whole of the same manifest replaced."""
        last: dict[str | None, int] = {
            manifest: self.ranks[run_id] for manifest, run_id in self.newest_whole_runs().items()
        }
        return frozenset(run_id for run_id, rank in self.ranks.items() if rank >= last.get(self.manifest_of(run_id), 0))

    def sort_newest_first(self, table: pa.Table) -> pa.Table:
        """`table` with the newest run's rows first; it must have the columns `run` and `row`."""
        ranked = table.append_column("rank", pc.index_in(table["run"], pa.array(self.ranks, pa.string())))
        return ranked.sort_by([("rank", "descending"), ("row", "ascending")]).drop_columns(["rank"])


def newest_rows(output: str) -> pa.Table:
    """Metadata: for each clip its row in the newest run that names it, and then the rows that never became a clip.

    Such a row counts until a newer run of the same manifest mentions it, or takes all rows.
    """
    table = read_metadata(output)
    order = RunOrder.of(output, pc.unique(table["run"]).to_pylist())
    rows = order.sort_newest_first(table)
    clips = rows.filter(pc.is_valid(rows["clip_id"]))
    manifests = pa.array([order.manifest_of(run_id) for run_id in rows["run"].to_pylist()], pa.string())
    newest = rows.take(_first_positions(rows.append_column("manifest", manifests), ["manifest", "row"]))
    is_left = pc.and_(
        pc.is_null(newest["clip_id"]), pc.is_in(newest["run"], pa.array(order.current_runs(), pa.string()))
    )
    return pa.concat_tables([clips.take(_first_positions(clips, ["clip_id"])), newest.filter(is_left)])


def _first_positions(table: pa.Table, keys: list[str]) -> pa.ChunkedArray:
    """The position of the first row for each combination of `keys`."""
    position = pa.array(np.arange(table.num_rows))
    groups = table.select(keys).append_column("position", position).group_by(keys, use_threads=False)
    return groups.aggregate([("position", "min")])["position_min"]


def _parse_start(run_id: str) -> datetime:
    """The start time in a run id that `new_run_id` made; BEGINNING for any other id."""
    match = DATED.fullmatch(run_id)
    try:
        return datetime.strptime(match[1], "%Y%m%dT%H%M%S").replace(tzinfo=UTC) if match else BEGINNING
    except ValueError:
        return BEGINNING
