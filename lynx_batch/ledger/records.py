"""The ledger's small JSON objects, read back strictly."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import structlog
from pydantic import BaseModel, ValidationError

from lynx_batch import storage
from lynx_batch.errors import MissingObject, UnreadableRecord

log = structlog.get_logger()

NUM_PARALLEL_READS = 32
NUM_AT_ONCE = 1000

Record = TypeVar("Record", bound=BaseModel)


def parse(kind: type[Record], uri: str, data: bytes) -> Record:
    """The record that lies at `uri`. Raises UnreadableRecord, naming it, if it is not one that this version can read."""
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        version = kind.model_fields["schema_version"].default
        raise UnreadableRecord(f"{storage.redact(uri)}: not a {kind.__name__} of schema version {version}") from error


def read_records(kind: type[Record], uris: Sequence[str]) -> Iterator[tuple[str, Record]]:
    """Each record with its URI, in their order, many read at once but a bounded number held.

    A damaged or foreign one is named in a warning and left out, and so is one that was removed since it was listed.
    """
    with ThreadPoolExecutor(NUM_PARALLEL_READS, thread_name_prefix="records") as pool:
        for start in range(0, len(uris), NUM_AT_ONCE):
            some = uris[start : start + NUM_AT_ONCE]
            for uri, record in zip(some, pool.map(lambda uri: _read(kind, uri), some), strict=True):
                if record is not None:
                    yield uri, record


def _read(kind: type[Record], uri: str) -> Record | None:
    try:
        return parse(kind, uri, storage.read_bytes(uri))
    except MissingObject:
        return None
    except UnreadableRecord as error:
        warn_left_out(str(error))
        return None


@lru_cache(maxsize=10_000)
def warn_left_out(error: str) -> None:
    """Tells once in a process that an object of the ledger is left out, and why."""
    log.warning("left_out", error=error)
