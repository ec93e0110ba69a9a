"""How fast a run goes, how long it will take, and what its clips cost so far, from the records of an output location alone."""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from lynx_batch import storage
from lynx_batch.ledger.events import EventKind
from lynx_batch.ledger.history import STAGE_COLUMNS, recent_events
from lynx_batch.ledger.metadata import Outcome, read_metadata
from lynx_batch.ledger.runs import Run
from lynx_batch.ledger.spending import read_spent
from lynx_batch.output import events_uri, parse_event

S_AN_HOUR = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """`clips_per_hour` counts what the run itself rendered since it started. `left_s` is None before its first clip."""

    clips_per_hour: float
    num_attempts: int
    num_left: int
    left_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a run has cost. `usd` is None without a price."""

    gpu_hours: float
    usd: float | None

    def at(self, usd_per_gpu_hour: float | None) -> "Cost":
        """The same GPU-hours at this price; None leaves the run's own."""
        return self if usd_per_gpu_hour is None else replace(self, usd=self.gpu_hours * usd_per_gpu_hour)


NO_COST = Cost(gpu_hours=0.0, usd=None)


def read_pace(output: str, run: Run, num_ended: int, now: datetime) -> Pace:
    """The pace of a run that has not ended. `num_ended` of its rows have an outcome."""
    is_own = (pc.field("run") == run.run_id) & (pc.field("rendered_by_run") == run.run_id)
    num_rendered = read_metadata(output, ["row"], is_own & (pc.field("outcome") == Outcome.RENDERED)).num_rows
    num_rendered += sum(event.kind is EventKind.RENDERED for event in recent_events(output, run.run_id))
    hours = max((now - run.record.started_at).total_seconds(), 1.0) / S_AN_HOUR
    num_left = max(run.record.num_rows - num_ended, 0)
    return Pace(
        clips_per_hour=num_rendered / hours,
        num_attempts=sum(
            parse_event(file.uri.rpartition("/")[2]) is not None
            for file in storage.list_files(events_uri(output, run.run_id))
        ),
        num_left=num_left,
        left_s=num_left * hours * S_AN_HOUR / num_rendered if num_rendered else None,
    )


def read_costs(output: str) -> dict[str, Cost]:
    """What each run has cost, by the record that it keeps of that; an old run without one, by the clips that it committed."""
    by_record = {
        run_id: Cost(gpu_hours=sum(record.gpu_s.values()) / S_AN_HOUR, usd=record.usd)
        for run_id, record in read_spent(output).items()
    }
    return by_record | _costs_of_clips(output, without=by_record)


def _costs_of_clips(output: str, without: Collection[str]) -> dict[str, Cost]:
    """For how long each run worked on the clips that it committed, `without` these runs. Loading, waiting and what failed do not count."""
    columns = ["run", "rendered_by_run", "group_size", *STAGE_COLUMNS]
    is_wanted = ~pc.field("run").isin(pa.array(without, pa.string()))
    rows = read_metadata(output, columns, is_wanted & (pc.field("outcome") == Outcome.RENDERED))
    seconds: defaultdict[str, float] = defaultdict(float)
    for batch in rows.to_batches(max_chunksize=10_000):
        for row in batch.to_pylist():
            if row["run"] == row["rendered_by_run"]:
                seconds[row["run"]] += row["group_size"] * sum(row[stage] or 0.0 for stage in STAGE_COLUMNS)
    return {run_id: Cost(gpu_hours=total / S_AN_HOUR, usd=None) for run_id, total in seconds.items()}
