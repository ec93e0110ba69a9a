"""Clips that earlier runs gave up: a new run leaves them alone until somebody asks for them again."""

import pyarrow as pa
import pyarrow.compute as pc

from lynx_batch.ledger.commits import committed_clip_ids
from lynx_batch.ledger.events import AttemptEvent, EventKind, read_events
from lynx_batch.ledger.metadata import Outcome, read_metadata
from lynx_batch.ledger.runs import list_runs

GIVEN_UP = frozenset({EventKind.REJECTED, EventKind.FAILED})


def given_up_before(output: str) -> dict[str, AttemptEvent]:
    """The last word on each clip that was rejected or failed by a worker, was not asked for again and is not committed."""
    last = {event.clip_id: event for event in _decisive_events(output) if event.kind is not EventKind.RETRIED}
    given_up = {clip_id: event for clip_id, event in last.items() if event.kind in GIVEN_UP}
    committed = committed_clip_ids(output) if given_up else set()
    return {clip_id: event for clip_id, event in given_up.items() if clip_id not in committed}


def _decisive_events(output: str) -> list[AttemptEvent]:
    """Every event that can be the last word on a clip that was given up, in the order of their time.

    The metadata of a finished run tells which of its clips those are, so a good run's thousands of events stay unread.
    """
    table = read_metadata(output, ["run", "clip_id", "outcome"])
    is_suspect = pc.is_in(table["outcome"], pa.array([Outcome.REJECTED, Outcome.FAILED], pa.string()))
    suspects = set(table.filter(is_suspect)["clip_id"].drop_null().to_pylist())
    finished = set(table["run"].unique().to_pylist())
    events = read_events(output, set(list_runs(output)) - finished)
    if suspects:
        events += read_events(output, finished, suspects)
    return sorted(events, key=lambda event: event.at)
