"""A run's heartbeat, by which a second driver on the same output notices it. Nothing depends on it."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, ConfigDict

from lynx_batch import storage
from lynx_batch.clip import canonical_json
from lynx_batch.errors import LynxError
from lynx_batch.ledger.records import read_records
from lynx_batch.output import RUN_HEARTBEAT, parse_run_file, run_file_uri, runs_uri
from lynx_batch.storage import StoredFile

SCHEMA_VERSION = 1
BEAT_EVERY_S = 30.0
FRESH = timedelta(seconds=4 * BEAT_EVERY_S)
MISSED_S = 2 * BEAT_EVERY_S + 15.0
LOOK_EVERY_S = 1.0


class Heartbeat(BaseModel):
    """A run's driver was alive at `at`, as this process of this host."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = SCHEMA_VERSION
    at: datetime
    host: str
    process_id: int


@contextmanager
def beating(output: str, run_id: str) -> Iterator[None]:
    """Writes the run's heartbeat, the first one before the block begins, and removes it after the block. Errors of the store do not reach the run."""
    uri, is_over = run_file_uri(output, run_id, RUN_HEARTBEAT), threading.Event()
    thread = threading.Thread(target=_go_on_beating, args=(uri, is_over), name="heartbeat", daemon=True)
    try:
        _beat(uri)
        thread.start()
        yield
    finally:
        is_over.set()
        if thread.ident is not None:
            thread.join()
        with suppress(LynxError):
            storage.delete(uri)


def living_runs(output: str, now: datetime) -> dict[str, Heartbeat]:
    """The runs whose heartbeat is fresh; `now` is the time by the store's clock, as from `storage.clock`."""
    files = storage.list_files(runs_uri(output))
    fresh = [file.uri for file in files if parse_run_file(file.uri)[1] == RUN_HEARTBEAT and _is_fresh(file, now)]
    return {parse_run_file(uri)[0]: beat for uri, beat in read_records(Heartbeat, fresh)}


def is_beating(output: str, run_id: str) -> bool:
    """Whether a run is alive, without comparing clocks: watches its heartbeat until it changes, or should have. Blocks for up to 75 s."""
    uri, ends_s = run_file_uri(output, run_id, RUN_HEARTBEAT), time.monotonic() + MISSED_S
    first = storage.stat(uri)
    while first is not None and time.monotonic() < ends_s:
        if (seen := storage.stat(uri)) != first:
            return seen is not None
        time.sleep(LOOK_EVERY_S)
    return False


def _is_fresh(file: StoredFile, now: datetime) -> bool:
    return file.modified_at is not None and now - file.modified_at < FRESH


def _go_on_beating(uri: str, is_over: threading.Event) -> None:
    while not is_over.wait(BEAT_EVERY_S):
        _beat(uri)


def _beat(uri: str) -> None:
    beat = Heartbeat(at=datetime.now(UTC), host=socket.gethostname(), process_id=os.getpid())
    with suppress(LynxError):
        storage.write_bytes(uri, canonical_json(beat.model_dump(mode="json")))
