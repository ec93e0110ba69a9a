"""Events: one small immutable object per ended attempt, written at once; the metadata follows minutes later."""

from collections.abc import Callable, Iterator
from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from lynx_batch import storage
from lynx_batch.clip import canonical_json
from lynx_batch.ledger.records import read_records, warn_left_out
from lynx_batch.output import event_uri, events_uri, parse_event

SCHEMA_VERSION = 1


class EventKind(StrEnum):
    """How an attempt ended. `retried`: the same run tries the clip again. `judged`: its try is not good enough, another seed follows."""

    RENDERED = "rendered"
    JUDGED = "judged"
    RETRIED = "retried"
    REJECTED = "rejected"
    FAILED = "failed"


class AttemptEvent(BaseModel):
    """The end of one attempt.

    `row` is the clip's first row in the run's manifest, `group` the name of the group that tried. `deaths` counts the groups that broke
    so far with this clip alone on them, earlier runs included.
    """

    model_config = ConfigDict(frozen=True)

    schema_version: int = SCHEMA_VERSION
    run_id: str
    clip_id: str
    edition: int = 1
    attempt: str
    row: int
    kind: EventKind
    at: datetime
    group: str = ""
    deaths: int = 0
    error_type: str | None = None
    error: str | None = None


def write_event(output: str, event: AttemptEvent) -> None:
    uri = event_uri(output, event.run_id, event.at, event.clip_id, event.attempt)
    storage.write_bytes(uri, canonical_json(event.model_dump(mode="json")))


def read_events(output: str, run_id: str, is_wanted: Callable[[str], bool] = bool) -> list[AttemptEvent]:
    """The events of a run, oldest first. Events of clips whose id is not wanted are listed, but not read.

    Damaged and foreign objects are named in a warning and left out.
    """
    uris = [uri for uri, clip_id in _listed(output, run_id) if is_wanted(clip_id)]
    return sorted((event for _, event in read_records(AttemptEvent, uris)), key=lambda event: event.at)


def _listed(output: str, run_id: str) -> Iterator[tuple[str, str]]:
    """The URI and the ClipId of each event."""
    for file in storage.list_files(events_uri(output, run_id)):
        clip_id = parse_event(file.uri.rpartition("/")[2])
        if clip_id is None:
            warn_left_out(f"{storage.redact(file.uri)}: not the name of an event")
        else:
            yield file.uri, clip_id
