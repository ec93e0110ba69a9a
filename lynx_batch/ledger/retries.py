"""Wishes to take up again what was given up: one small immutable object for each `retry`."""

from collections.abc import Iterable
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from lynx_batch import storage
from lynx_batch.clip import canonical_json
from lynx_batch.ledger.records import read_records
from lynx_batch.output import new_retry_uri, retries_uri

SCHEMA_VERSION = 1


class RetryRequest(BaseModel):
    """These clips, as far as they were given up until `asked_at`, may be rendered by the next run."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = SCHEMA_VERSION
    asked_at: datetime
    clip_ids: list[str]


def write_retry_request(output: str, request: RetryRequest) -> None:
    storage.write_bytes(new_retry_uri(output, request.asked_at), canonical_json(request.model_dump(mode="json")))


def read_retry_requests(output: str) -> dict[str, datetime]:
    """When each clip was asked for again, the last time."""
    uris = [file.uri for file in storage.list_files(retries_uri(output))]
    return _last(request for _, request in read_records(RetryRequest, uris))


def _last(requests: Iterable[RetryRequest]) -> dict[str, datetime]:
    ordered = sorted(requests, key=lambda request: request.asked_at)
    return {clip_id: request.asked_at for request in ordered for clip_id in request.clip_ids}
