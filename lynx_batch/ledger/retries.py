"""Wishes to take up again what was given up: one small immutable object for each `retry`."""

import secrets
from collections.abc import Iterable
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from lynx_batch import storage
from lynx_batch.clip import canonical_json
from lynx_batch.ledger.records import read_records

SCHEMA_VERSION = 1


class RetryWish(BaseModel):
    """These clips, as far as they were given up until `asked_at`, may be rendered by the next run."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = SCHEMA_VERSION
    asked_at: datetime
    clip_ids: list[str]


def write_wish(output: str, wish: RetryWish) -> None:
    name = f"{wish.asked_at:%Y%m%dT%H%M%S.%fZ}-{secrets.token_hex(4)}.json"
    storage.write_bytes(storage.join(_folder(output), name), canonical_json(wish.model_dump(mode="json")))


def read_wishes(output: str) -> dict[str, datetime]:
    """When each clip was asked for again, the last time."""
    uris = [file.uri for file in storage.list_files(_folder(output))]
    return _last(wish for _, wish in read_records(RetryWish, uris))


def _last(wishes: Iterable[RetryWish]) -> dict[str, datetime]:
    ordered = sorted(wishes, key=lambda wish: wish.asked_at)
    return {clip_id: wish.asked_at for wish in ordered for clip_id in wish.clip_ids}


def _folder(output: str) -> str:
    return storage.join(output, "events", "retries")
