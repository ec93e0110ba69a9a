"""Requests to try clips again that were given up: one small immutable object per `retry` command."""

from collections.abc import Iterable
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from lynx_batch import storage
from lynx_batch.clip import canonical_json
from lynx_batch.ledger.records import read_records
from lynx_batch.output import new_retry_uri, retries_uri

SCHEMA_VERSION = 1


class RetryRequest(BaseModel):
    """The next run may try these clips again if they were given up before `asked_at`."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = SCHEMA_VERSION
    asked_at: datetime
    clip_ids: list[str]


def write_retry_request(output: str, request: RetryRequest) -> None:
    storage.write_bytes(new_retry_uri(output, request.asked_at), canonical_json(request.model_dump(mode="json")))


def read_retry_requests(output: str) -> dict[str, datetime]:
    """The time of the last retry request for each clip."""
    uris = [file.uri for file in storage.list_files(retries_uri(output))]
    return _last_requests(request for _, request in read_records(RetryRequest, uris))


def _last_requests(requests: Iterable[RetryRequest]) -> dict[str, datetime]:
    ordered = sorted(requests, key=lambda request: request.asked_at)
    return {clip_id: request.asked_at for request in ordered for clip_id in request.clip_ids}
