"""The ledger's small JSON objects, read back strictly."""

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from lynx_batch.errors import UnreadableRecord
from lynx_batch.storage import redact

Record = TypeVar("Record", bound=BaseModel)


def parse(kind: type[Record], uri: str, data: bytes) -> Record:
    """The record that lies at `uri`. Raises UnreadableRecord, naming it, if it is not one that this version can read."""
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        version = kind.model_fields["schema_version"].default
        raise UnreadableRecord(f"{redact(uri)}: not a {kind.__name__} of schema version {version}") from error
