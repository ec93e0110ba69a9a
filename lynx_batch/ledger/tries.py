"""The tries of a clip: each is recorded once, create-only, before its worker answers. So a recorded try is never rendered again."""

from collections.abc import Set
from contextlib import suppress
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from lynx_batch import storage
from lynx_batch.clip import ClipSpec
from lynx_batch.config import QualityConfig
from lynx_batch.errors import MissingObject, UnreadableRecord
from lynx_batch.ledger.commits import CommitRecord, read_commit
from lynx_batch.ledger.records import parse, put_once, read_records
from lynx_batch.outage import retry_while_unavailable
from lynx_batch.output import TRIES, TryName, parse_try, tries_uri, try_uri
from lynx_batch.planning.verdict import JudgedTry, Numbers, Verdict, decide

SCHEMA_VERSION = 1


class TryRecord(BaseModel):
    """A try that was rendered and judged.

    `commit` is what its worker would have committed, so that any worker can commit the try later. `scorers` has the SHA-256 of each
    file of each scorer. An unsafe try has no video: its pixels were never uploaded.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = SCHEMA_VERSION
    clip_id: str
    edition: int
    number: int
    judged_at: datetime
    scores: dict[str, float]
    scorers: dict[str, dict[str, str]]
    is_unsafe: bool = False
    commit: CommitRecord

    @property
    def name(self) -> TryName:
        return TryName(self.clip_id, self.edition, self.number)

    def judged(self, *, has_video: bool) -> JudgedTry:
        return JudgedTry(
            number=self.number,
            scores=self.scores,
            has_video=has_video,
            is_unsafe=self.is_unsafe,
        )


def record_try(output: str, record: TryRecord, *, is_store_safe: bool) -> None:
    """Records the try, unless another worker was first. A store that is not safe keeps the last of two at the same moment."""
    uri = try_uri(output, record.name)
    retry_while_unavailable(lambda: put_once(uri, record, is_store_safe=is_store_safe))


def read_tries(output: str, clip_id: str, edition: int) -> list[TryRecord]:
    """The tries of that edition, by number.

    Raises:
        UnreadableRecord: If one is damaged or stored under another's name. Its seed must not be rendered again, so nobody can go on.
    """
    listed = retry_while_unavailable(lambda: list(storage.list_files(tries_uri(output, clip_id))))
    uris = [file.uri for file in listed if (name := parse_try(file.uri)) and name.edition == edition]
    return sorted((_read_try(uri) for uri in uris), key=lambda record: record.number)


def _read_try(uri: str) -> TryRecord:
    record = parse(TryRecord, uri, retry_while_unavailable(lambda: storage.read_bytes(uri)))
    if record.name != parse_try(uri):
        raise UnreadableRecord(f"{storage.redact(uri)}: must hold the try of its name, but holds {record.name}")
    return record


def files_of_tries(output: str, clip_ids: Set[str]) -> dict[str, tuple[str, ...]]:
    """The files that the tries of each of these clips name, relative to the output location."""
    names: dict[str, tuple[str, ...]] = dict.fromkeys(clip_ids, ())
    listed = (file.uri for file in storage.list_files(storage.join(output, TRIES)))
    uris = [uri for uri in listed if (name := parse_try(uri)) and name.clip_id in clip_ids]
    for _, record in read_records(TryRecord, uris):
        names[record.clip_id] += record.commit.files
    return names


def decide_by_tries(
    output: str,
    clip: ClipSpec,
    edition: int,
    quality: QualityConfig,
    *,
    rendered: TryRecord | None = None,
    required_marks: Set[str] = frozenset(),
) -> tuple[Verdict, list[TryRecord]]:
    """What to do next with a clip, and its tries so far.

    `rendered` is a try that was just uploaded. It takes the place of a recorded one whose video was dropped since, but never of one that
    was found unsafe. A try whose video lacks one of `required_marks` counts as dropped, too: it may not be committed.
    """

    def has_video(record: TryRecord) -> bool:
        return required_marks <= {*record.commit.marks} and _has_video(output, record)

    tries = read_tries(output, clip.clip_id, edition)
    if rendered is not None:
        tries = [rendered if t.number == rendered.number and not (t.is_unsafe or has_video(t)) else t for t in tries]
    first = _first_number(output, clip.clip_id, edition)
    numbers = Numbers.of(quality, is_seed_given=clip.request.is_seed_given, first=first)
    judged = [record.judged(has_video=has_video(record)) for record in tries]
    return decide(judged, quality, numbers), tries


def _first_number(output: str, clip_id: str, edition: int) -> int:
    """A new edition replaces a withdrawn commit, whose seed was good: it starts with that one."""
    if edition > 1:
        with suppress(MissingObject, UnreadableRecord):
            return retry_while_unavailable(lambda: read_commit(output, clip_id, edition - 1)).try_number
    return 0


def _has_video(output: str, record: TryRecord) -> bool:
    uri = storage.join(output, record.commit.clip_uri)
    return not record.is_unsafe and retry_while_unavailable(lambda: storage.stat(uri)) is not None
