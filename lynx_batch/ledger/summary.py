"""What an output location holds, from its objects alone."""

from collections import Counter
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from lynx_batch.ledger.commits import committed_clip_ids
from lynx_batch.ledger.events import read_events
from lynx_batch.ledger.history import given_up_before
from lynx_batch.ledger.metadata import read_metadata
from lynx_batch.ledger.runs import count_rows, list_runs


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """One run. `counts` holds rows by their outcome.

    A run that is still going on, or was killed, has no outcomes yet: `counts` holds clips by their last event then.
    """

    run_id: str
    num_rows: int
    is_finished: bool
    counts: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """`reasons` counts why rows were not rendered: those of the newest finished run, else the clips given up so far."""

    num_committed: int
    runs: tuple[RunState, ...]
    reasons: Counter[str]


def summarise(output: str) -> Summary:
    """The runs of an output location, oldest first, and how many clips are finished."""
    metadata = read_metadata(output, ["run", "outcome", "error_type", "error"])
    outcomes: dict[str, Counter[str]] = {}
    for run_id, outcome in zip(metadata["run"].to_pylist(), metadata["outcome"].to_pylist(), strict=True):
        outcomes.setdefault(run_id, Counter())[outcome] += 1
    runs = list_runs(output)
    unfinished = read_events(output, [run_id for run_id in runs if run_id not in outcomes])
    last_events = {(event.run_id, event.clip_id): event.kind for event in unfinished}
    events: dict[str, Counter[str]] = {}
    for (run_id, _), kind in last_events.items():
        events.setdefault(run_id, Counter())[kind] += 1
    return Summary(
        num_committed=len(committed_clip_ids(output)),
        runs=tuple(
            RunState(
                run_id=run_id,
                num_rows=count_rows(output, run_id),
                is_finished=run_id in outcomes,
                counts=dict(outcomes.get(run_id) or events.get(run_id) or {}),
            )
            for run_id in runs
        ),
        reasons=_reasons(output, metadata),
    )


def _reasons(output: str, metadata: pa.Table) -> Counter[str]:
    if not metadata.num_rows:
        given_up = given_up_before(output).values()
        return Counter(f"{event.kind}: {event.error_type}: {event.error}" for event in given_up)
    newest = metadata.filter(pc.equal(metadata["run"], pc.max(metadata["run"])))
    untold = newest.filter(pc.is_valid(newest["error_type"])).to_pylist()
    return Counter(f"{row['outcome']}: {row['error_type']}: {row['error']}" for row in untold)
