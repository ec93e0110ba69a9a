"""Events: one small immutable object for each ended attempt, there from its end on; metadata follows minutes later."""

from collections.abc import Container
from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from lynx_batch import storage
from lynx_batch.clip import canonical_json
from lynx_batch.ledger.records import parse

SCHEMA_VERSION = 1


class EventKind(StrEnum):
    """What an attempt came to: `retried` means that the clip is tried again in the same run."""

    RENDERED = "rendered"
    RETRIED = "retried"
    REJECTED = "rejected"
    FAILED = "failed"


class AttemptEvent(BaseModel):
    """`row` is the clip's first row in the run's manifest, `group` the workers that tried."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = SCHEMA_VERSION
    run_id: str
    clip_id: str
    attempt: str
    row: int
    kind: EventKind
    at: datetime
    group: str = ""
    error_type: str | None = None
    error: str | None = None


def write_event(output: str, event: AttemptEvent) -> None:
    name = f"{event.at:%Y%m%dT%H%M%S.%fZ}-{event.clip_id}-{event.attempt}.json"
    uri = storage.join(output, "events", f"run={event.run_id}", name)
    storage.write_bytes(uri, canonical_json(event.model_dump(mode="json")))


def read_events(output: str, run_id: str, settled: Container[str] = ()) -> list[AttemptEvent]:
    """The events of a run in the order of their time; those of `settled` clips are listed, but not read."""
    listed = (file.uri for file in storage.list_files(storage.join(output, "events", f"run={run_id}")))
    uris = [uri for uri in listed if _clip_id_of(uri) not in settled]
    events = [parse(AttemptEvent, uri, data) for uri, data in zip(uris, storage.read_each(uris), strict=True)]
    return sorted(events, key=lambda event: event.at)


def _clip_id_of(uri: str) -> str:
    return uri.rpartition("/")[2].split("-")[1]
