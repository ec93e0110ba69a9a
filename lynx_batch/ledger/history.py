"""Clips that earlier runs gave up: a new run leaves them alone until somebody asks for them again."""

from lynx_batch.ledger.events import AttemptEvent, EventKind, read_events

GIVEN_UP = frozenset({EventKind.REJECTED, EventKind.FAILED})


def given_up_before(output: str) -> dict[str, AttemptEvent]:
    """The last word on each clip that was rejected or failed by a worker and not asked for again since."""
    last: dict[str, AttemptEvent] = {}
    for event in read_events(output):
        if event.kind is not EventKind.RETRIED:
            last[event.clip_id] = event
    return {clip_id: event for clip_id, event in last.items() if event.kind in GIVEN_UP}
