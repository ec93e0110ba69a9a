"""The commit: the one record that makes a clip finished. It is put create-only, so a clip has at most one."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from lynx_batch import storage
from lynx_batch.clip import canonical_json
from lynx_batch.ledger.records import parse
from lynx_batch.outage import outlast

SCHEMA_VERSION = 1
NUM_AT_ONCE = 1000


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


def commit(output: str, record: CommitRecord, *, is_store_safe: bool = True) -> CommitRecord:
    """Makes the clip finished; gives the record that did, which is another attempt's if that came first.

    A put whose answer was lost is no loss: the record that is there tells whose it is. A store that is not safe has no
    create-only put: there the last of two attempts that commit in the same moment stays, and both are told that they did.
    """
    put = storage.create_only if is_store_safe else _put_unless_seen
    return outlast(lambda: _commit(output, record, put))


def read_commit(output: str, clip_id: str) -> CommitRecord:
    """Raises MissingObject if the clip is not committed, UnreadableRecord if its record is not one of ours."""
    return parse(CommitRecord, commit_uri(output, clip_id), storage.read_bytes(commit_uri(output, clip_id)))


def committed_clip_ids(output: str) -> set[str]:
    """The clips that are finished, by listing."""
    names = (file.uri.rpartition("/")[2] for file in storage.list_files(storage.join(output, "commits")))
    return {name.removesuffix(".json") for name in names if name.endswith(".json")}


def read_commits(output: str, clip_ids: Sequence[str]) -> Iterator[CommitRecord]:
    """The commits of several clips, many read at once, but never more than a bounded number held."""
    for start in range(0, len(clip_ids), NUM_AT_ONCE):
        uris = [commit_uri(output, clip_id) for clip_id in clip_ids[start : start + NUM_AT_ONCE]]
        yield from (parse(CommitRecord, uri, data) for uri, data in zip(uris, storage.read_each(uris), strict=True))


def commit_uri(output: str, clip_id: str) -> str:
    return storage.join(output, "commits", clip_id[:2], f"{clip_id}.json")


def _commit(output: str, record: CommitRecord, put: Callable[[str, bytes], bool]) -> CommitRecord:
    uri = commit_uri(output, record.clip_id)
    if put(uri, canonical_json(record.model_dump(mode="json"))):
        return record
    return read_commit(output, record.clip_id)


def _put_unless_seen(uri: str, data: bytes) -> bool:
    if storage.stat(uri) is not None:
        return False
    storage.write_bytes(uri, data)
    return True
