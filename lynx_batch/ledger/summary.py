"""What an output location holds, from its objects alone."""

from collections import Counter
from dataclasses import dataclass

from lynx_batch.ledger.commits import committed_clip_ids
from lynx_batch.ledger.events import AttemptEvent, read_events
from lynx_batch.ledger.history import given_up_before
from lynx_batch.ledger.metadata import read_metadata
from lynx_batch.ledger.runs import count_rows, list_runs


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """One run. A run that is still going on, or was killed, has no outcomes yet: `counts` holds its events then."""

    run_id: str
    num_rows: int
    is_finished: bool
    counts: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """`given_up` are the last words on the clips that were rejected or failed by a worker."""

    num_committed: int
    runs: tuple[RunState, ...]
    given_up: tuple[AttemptEvent, ...]


def summarise(output: str) -> Summary:
    """The runs of an output location, oldest first, and how many clips are finished."""
    metadata = read_metadata(output)
    outcomes: dict[str, Counter[str]] = {}
    for run_id, outcome in zip(metadata["run"].to_pylist(), metadata["outcome"].to_pylist(), strict=True):
        outcomes.setdefault(run_id, Counter())[outcome] += 1
    runs = list_runs(output)
    events: dict[str, Counter[str]] = {}
    for event in read_events(output, [run_id for run_id in runs if run_id not in outcomes]):
        events.setdefault(event.run_id, Counter())[event.kind] += 1
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
        given_up=tuple(given_up_before(output).values()),
    )
