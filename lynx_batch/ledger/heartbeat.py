"""Signs of life of a run, so that a second driver on the same output is told: a courtesy on which nothing depends."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, ConfigDict

from lynx_batch import storage
from lynx_batch.clip import canonical_json
from lynx_batch.errors import LynxError, MissingObject
from lynx_batch.ledger.records import parse

SCHEMA_VERSION = 1
FILE_NAME = "heartbeat.json"
BEAT_EVERY_S = 30.0
FRESH = timedelta(seconds=4 * BEAT_EVERY_S)


class Heartbeat(BaseModel):
    """That a run's driver was alive at `at`, and where it is."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = SCHEMA_VERSION
    at: datetime
    host: str
    process_id: int


@contextmanager
def beating(output: str, run_id: str) -> Iterator[None]:
    """Shows that the run is alive, for as long as it is; a store in trouble is none of the run's."""
    uri, is_over = storage.join(output, "runs", run_id, FILE_NAME), threading.Event()
    thread = threading.Thread(target=_beat, args=(uri, is_over), name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        with suppress(LynxError):
            storage.delete(uri)


def living_runs(output: str, now: datetime, within: timedelta = FRESH) -> dict[str, Heartbeat]:
    """The runs that were alive lately."""
    uris = [file.uri for file in storage.list_files(storage.join(output, "runs")) if file.uri.endswith(f"/{FILE_NAME}")]
    beats: dict[str, Heartbeat] = {}
    for uri in uris:
        with suppress(MissingObject):  # the run has just ended
            beats[uri.split("/")[-2]] = parse(Heartbeat, uri, storage.read_bytes(uri))
    return {run_id: beat for run_id, beat in beats.items() if now - beat.at < within}


def _beat(uri: str, is_over: threading.Event) -> None:
    host, process_id = socket.gethostname(), os.getpid()
    while not is_over.is_set():
        beat = Heartbeat(at=datetime.now(UTC), host=host, process_id=process_id)
        with suppress(LynxError):
            storage.write_bytes(uri, canonical_json(beat.model_dump(mode="json")))
        is_over.wait(BEAT_EVERY_S)
