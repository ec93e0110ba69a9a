"""Events: one small immutable object for each ended attempt, and for each wish to try a given-up clip again."""

from collections.abc import Collection, Iterable
from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, ValidationError

from lynx_batch import storage
from lynx_batch.clip import canonical_json
from lynx_batch.errors import UnreadableRecord

SCHEMA_VERSION = 1


class EventKind(StrEnum):
    """What an attempt came to: `retried` means that the clip is tried again in the same run."""

    RENDERED = "rendered"
    RETRIED = "retried"
    REJECTED = "rejected"
    FAILED = "failed"
    RETRY_REQUESTED = "retry_requested"


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


def read_events(
    output: str, run_ids: Iterable[str] | None = None, clip_ids: Collection[str] | None = None
) -> list[AttemptEvent]:
    """The events of some runs and clips, or of all, in the order of their time; others are listed, but not read."""
    folder = storage.join(output, "events")
    prefixes = [folder] if run_ids is None else [storage.join(folder, f"run={run_id}") for run_id in run_ids]
    listed = (file.uri for prefix in prefixes for file in storage.list_files(prefix))
    uris = [uri for uri in listed if clip_ids is None or _clip_id_of(uri) in clip_ids]
    events = [_parse(uri, data) for uri, data in zip(uris, storage.read_each(uris), strict=True)]
    return sorted(events, key=lambda event: event.at)


def _clip_id_of(uri: str) -> str:
    return uri.rpartition("/")[2].split("-")[1]


def _parse(uri: str, data: bytes) -> AttemptEvent:
    try:
        return AttemptEvent.model_validate_json(data)
    except ValidationError as error:
        raise UnreadableRecord(f"{storage.redact(uri)}: not an event of schema version {SCHEMA_VERSION}") from error
