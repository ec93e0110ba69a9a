"""Reads the ledger's small JSON objects, strictly."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import structlog
from pydantic import BaseModel, ValidationError

from lynx_batch import storage
from lynx_batch.clip import canonical_json
from lynx_batch.errors import MissingObject, UnreadableRecord

log = structlog.get_logger()

NUM_PARALLEL_READS = 32
NUM_AT_ONCE = 1000

Record = TypeVar("Record", bound=BaseModel)


def parse(kind: type[Record], uri: str, data: bytes) -> Record:
    """The record in `data`, which was read from `uri`. Raises UnreadableRecord with the URI if this version cannot read it."""
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        version = kind.model_fields["schema_version"].default
        raise UnreadableRecord(f"{storage.redact(uri)}: not a {kind.__name__} of schema version {version}") from error


def read_records(kind: type[Record], uris: Sequence[str]) -> Iterator[tuple[str, Record]]:
    """Each URI with its record, in this order. Reads many at once, but holds a bounded number.

    Damaged and foreign objects are named in a warning and left out. Objects that were removed since they were listed are left out.
    """
    with ThreadPoolExecutor(NUM_PARALLEL_READS, thread_name_prefix="records") as pool:
        for start in range(0, len(uris), NUM_AT_ONCE):
            batch = uris[start : start + NUM_AT_ONCE]
            for uri, record in zip(batch, pool.map(lambda uri: _read(kind, uri), batch), strict=True):
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


def put_once(uri: str, record: BaseModel, *, is_store_safe: bool) -> bool:
    """Writes the record unless something is at `uri`; whether it was written.

    A store that is not safe has no create-only put: of two writers at the same moment, both write, and the last one's record stays.
    """
    data = canonical_json(record.model_dump(mode="json"))
    if is_store_safe:
        return storage.create_only(uri, data)
    if storage.stat(uri) is not None:
        return False
    storage.write_bytes(uri, data)
    return True


@lru_cache(maxsize=10_000)
def warn_left_out(error: str) -> None:
    """Logs that an object of the ledger is left out, and why; once per process and error."""
    log.warning("left_out", error=error)
