"""The commit: the record that makes a clip finished, and its withdrawal. Both are create-only puts.

`output` names them, `editions` says which commit is in force.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from lynx_batch import storage
from lynx_batch.clip import canonical_json
from lynx_batch.errors import UnreadableRecord
from lynx_batch.ledger.records import parse, put_once, read_records, warn_left_out
from lynx_batch.outage import retry_while_unavailable
from lynx_batch.output import commit_uri, withdrawal_uri
from lynx_batch.stages import BUSY_STAGES

SCHEMA_VERSION = 1


class CommitRecord(BaseModel):
    """A finished clip. URIs are relative to the output location.

    `try_number` says which of the clip's seeds it has; `scores` are a judged clip's, and empty if nobody has judged it. `num_tries`
    were there when it was committed, and it passed `thresholds`. If a person overruled the gate, `accepted_by` says who and `accepted_at`
    when. `marks` are the marks that the video carries, `failed_marks` those that failed, with the reasons.
    `allows_missing_consent`: its run rendered rows without a consent, too. True in records that are older than this field.
    `face_turned_degrees` is how far the face is rotated clockwise in its photo; None in records that are older than this field.
    `num_steps_resumed` steps had been done by an earlier attempt, whose time is not in `stage_s`.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = SCHEMA_VERSION
    clip_id: str
    edition: int = 1
    attempt: str
    run_id: str
    committed_at: datetime
    clip_uri: str
    poster_uri: str
    preview_uri: str | None = None
    sha256: str
    num_bytes: int
    num_frames: int
    fps: int
    width: int
    height: int
    marks: tuple[str, ...] = ()
    failed_marks: dict[str, str] = {}
    seed: int
    try_number: int = 0
    scores: dict[str, float] = {}
    num_tries: int | None = None
    thresholds: dict[str, float] = {}
    accepted_by: str | None = None
    accepted_at: datetime | None = None
    face_turned_degrees: int | None = None
    allows_missing_consent: bool = True
    group_size: int
    device: str
    num_steps_resumed: int = 0
    stage_s: dict[str, float]
    identity: dict[str, str | bool | None]
    software: dict[str, str]

    @property
    def busy_s(self) -> float:
        """For how many seconds its last attempt kept its group busy."""
        return sum(self.stage_s.get(stage.column, 0.0) for stage in BUSY_STAGES)

    @property
    def files(self) -> tuple[str, ...]:
        """Every file of the attempt."""
        return tuple(uri for uri in (self.clip_uri, self.poster_uri, self.preview_uri) if uri is not None)


class Withdrawal(BaseModel):
    """An edition of a clip is no longer in force: why, since when, and by which command."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = SCHEMA_VERSION
    clip_id: str
    edition: int
    reason: str
    withdrawn_at: datetime
    command: str


def commit(output: str, record: CommitRecord, *, is_store_safe: bool = True) -> CommitRecord:
    """Makes the clip finished. Returns the record in the store, which is another attempt's if that committed first.

    A put whose response was lost does no harm: the record in the store says which attempt won. A store that is not safe has no
    create-only put: if two attempts commit at the same moment, the last one stays, and both believe that they won.
    """
    return retry_while_unavailable(lambda: _commit(output, record, is_store_safe=is_store_safe))


def withdraw(output: str, withdrawal: Withdrawal) -> None:
    """Takes a commit out of force, so that the next run renders the clip as its next edition. An earlier withdrawal stays as it is."""
    uri = withdrawal_uri(output, withdrawal.clip_id, withdrawal.edition)
    storage.create_only(uri, canonical_json(withdrawal.model_dump(mode="json")))


def read_commit(output: str, clip_id: str, edition: int) -> CommitRecord:
    """Raises MissingObject if there is no such commit, UnreadableRecord if it is damaged or belongs to another clip or edition."""
    uri = commit_uri(output, clip_id, edition)
    record = parse(CommitRecord, uri, storage.read_bytes(uri))
    if not _fits_name(output, uri, record):
        raise UnreadableRecord(_describe_misnamed(uri, record))
    return record


def read_commits(output: str, editions: Mapping[str, int]) -> Iterator[CommitRecord]:
    """The commits of these editions of clips. A damaged one is named in a warning and left out."""
    uris = [commit_uri(output, clip_id, edition) for clip_id, edition in editions.items()]
    for uri, record in read_records(CommitRecord, uris):
        if _fits_name(output, uri, record):
            yield record
        else:
            warn_left_out(_describe_misnamed(uri, record))


def _fits_name(output: str, uri: str, record: CommitRecord) -> bool:
    """Whether a record is stored under its own name. One that was copied to another name would hand out the wrong clip's video."""
    return uri == commit_uri(output, record.clip_id, record.edition)


def _describe_misnamed(uri: str, record: CommitRecord) -> str:
    return f"{storage.redact(uri)}: must hold the commit of its name, but holds edition {record.edition} of {record.clip_id}"


def _commit(output: str, record: CommitRecord, *, is_store_safe: bool) -> CommitRecord:
    uri = commit_uri(output, record.clip_id, record.edition)
    if put_once(uri, record, is_store_safe=is_store_safe):
        return record
    return read_commit(output, record.clip_id, record.edition)
