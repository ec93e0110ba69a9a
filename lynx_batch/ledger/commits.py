"""The commit: the one record that makes a clip finished. It is put create-only, so a clip has at most one."""

from collections.abc import Iterable
from datetime import datetime

from pydantic import BaseModel, ConfigDict, ValidationError

from lynx_batch import storage
from lynx_batch.clip import canonical_json
from lynx_batch.errors import UnreadableRecord

SCHEMA_VERSION = 1


class CommitRecord(BaseModel):
    """What is known of a finished clip. URIs are relative to the output location."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = SCHEMA_VERSION
    clip_id: str
    attempt: str
    run_id: str
    committed_at: datetime
    clip_uri: str
    poster_uri: str
    sha256: str
    num_bytes: int
    num_frames: int
    fps: int
    width: int
    height: int
    seed: int
    group_size: int
    device: str
    stage_s: dict[str, float]
    identity: dict[str, str | bool | None]
    software: dict[str, str]


def commit(output: str, record: CommitRecord) -> CommitRecord:
    """Makes the clip finished; gives the record that did, which is another attempt's if that came first.

    A put whose answer was lost is no loss: the record that is there tells whose it is.
    """
    uri = commit_uri(output, record.clip_id)
    if storage.create_only(uri, canonical_json(record.model_dump(mode="json"))):
        return record
    return read_commit(output, record.clip_id)


def read_commit(output: str, clip_id: str) -> CommitRecord:
    """Raises MissingObject if the clip is not committed, UnreadableRecord if its record is not one of ours."""
    return _parse(commit_uri(output, clip_id), storage.read_bytes(commit_uri(output, clip_id)))


def committed_clip_ids(output: str) -> set[str]:
    """The clips that are finished, by listing."""
    names = (file.uri.rpartition("/")[2] for file in storage.list_files(storage.join(output, "commits")))
    return {name.removesuffix(".json") for name in names if name.endswith(".json")}


def read_commits(output: str, clip_ids: Iterable[str]) -> list[CommitRecord]:
    """The commits of several clips, many read at once."""
    uris = [commit_uri(output, clip_id) for clip_id in clip_ids]
    return [_parse(uri, data) for uri, data in zip(uris, storage.read_each(uris), strict=True)]


def commit_uri(output: str, clip_id: str) -> str:
    return storage.join(output, "commits", clip_id[:2], f"{clip_id}.json")


def _parse(uri: str, data: bytes) -> CommitRecord:
    try:
        return CommitRecord.model_validate_json(data)
    except ValidationError as error:
        raise UnreadableRecord(f"{storage.redact(uri)}: not a commit of schema version {SCHEMA_VERSION}") from error
