"""Summarises an output location from its objects alone."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow.compute as pc

from lynx_batch.ledger.editions import list_editions
from lynx_batch.ledger.events import EventKind
from lynx_batch.ledger.history import recent_events
from lynx_batch.ledger.metadata import Outcome, read_metadata
from lynx_batch.ledger.runs import Run, read_runs


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """A run and its rows by outcome; for a run that has not ended, the outcomes known so far."""

    run: Run
    counts: Counter[Outcome]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Finished clips and runs; `reasons` counts why rows of the newest run were not rendered."""

    num_committed: int
    runs: tuple[RunState, ...]
    reasons: Counter[str]


def summarise(output: str) -> Summary:
    """Reads the summary of an output location; its runs are sorted from the oldest to the newest."""
    runs = read_runs(output)
    return Summary(
        num_committed=len(list_editions(output).in_force),
        runs=tuple(RunState(run=run, counts=_counts(output, run)) for run in runs),
        reasons=Counter(f"{outcome}: {error}" for outcome, error in _outcomes(output, runs[-1]) if error)
        if runs
        else Counter(),
    )


def _counts(output: str, run: Run) -> Counter[Outcome]:
    if run.end is not None:
        return Counter(run.end.counts)
    return Counter(outcome for outcome, _ in _outcomes(output, run))


def _outcomes(output: str, run: Run) -> Iterator[tuple[Outcome, str]]:
    """The outcome of each row of a run, with the reason or an empty text."""
    columns = ["outcome", "error_type", "error"]
    for row in read_metadata(output, columns, pc.field("run") == run.run_id).to_pylist():
        yield Outcome(row["outcome"]), f"{row['error_type']}: {row['error']}" if row["error_type"] else ""
    for event in recent_events(output, run.run_id) if run.end is None else ():
        if event.kind is not EventKind.RETRIED:
            yield Outcome(event.kind), f"{event.error_type}: {event.error}" if event.error_type else ""
