"""The tries of a clip: each is recorded once, create-only, before its worker answers. So a recorded try is never rendered again."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from pydantic import BaseModel, ConfigDict

from lynx_batch import storage
from lynx_batch.clip import ClipSpec
from lynx_batch.config import KeepRejected, QualityConfig
from lynx_batch.errors import STORE_FAULTS, MissingObject, UnreadableRecord
from lynx_batch.ledger.commits import CommitRecord
from lynx_batch.ledger.numbering import first_number, list_tries
from lynx_batch.ledger.records import NUM_PARALLEL_READS, parse, put_once
from lynx_batch.outage import retry_while_unavailable
from lynx_batch.output import TryName, tries_uri, try_uri
from lynx_batch.planning.verdict import JudgedTry, Numbers, Reject, Verdict, decide, is_unsafe

SCHEMA_VERSION = 1

DROPPED: Mapping[KeepRejected, tuple[str, ...]] = {
    "clip": (),
    "poster": ("clip_uri", "preview_uri"),
    "nothing": ("clip_uri", "preview_uri", "poster_uri"),
}
"""What is not kept of a rejected try, by `keep_rejected`."""

DAMAGED = ".damaged"
"""The end of the name under which a damaged try record is kept."""


class TryRecord(BaseModel):
    """A try that was rendered and judged.

    `commit` is what its worker would have committed, so that any worker can commit the try later. `scorers` has the SHA-256 of each
    file of each scorer. An unsafe try has no video: its pixels were never uploaded. `keep_rejected` is the rule of the run that rendered
    it; None if an older release did.
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
    keep_rejected: KeepRejected | None = None
    commit: CommitRecord

    def not_kept(self, newest: KeepRejected) -> tuple[str, ...]:
        """The fields of `commit` whose files neither the try's own run nor the newest one keeps of a rejected try."""
        own = DROPPED[self.keep_rejected or newest]
        return tuple(field for field in DROPPED[newest] if field in own)

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


@dataclass(frozen=True, slots=True, kw_only=True)
class BestTry:
    """What the metadata keeps of a clip that was rejected: its best try, or the one that is unsafe, and how many it had."""

    number: int
    seed: int
    scores: Mapping[str, float]
    num_tries: int

    @classmethod
    def among(cls, tries: Sequence[TryRecord], number: int) -> Self:
        """The try with this number."""
        best = next(record for record in tries if record.number == number)
        return cls(number=number, seed=best.commit.seed, scores=best.scores, num_tries=len(tries))


def record_try(output: str, record: TryRecord, *, is_store_safe: bool) -> None:
    """Records the try, unless another worker was first. A store that is not safe keeps the last of two at the same moment."""
    uri = try_uri(output, record.name)
    retry_while_unavailable(lambda: put_once(uri, record, is_store_safe=is_store_safe))


def read_tries(output: str, clip_id: str, edition: int) -> list[TryRecord]:
    """The tries of that edition, by number.

    Raises:
        UnreadableRecord: If one is damaged or stored under another's name. Its seed must not be rendered again, so nobody can go on.
    """
    names = [name for name in list_tries(tries_uri(output, clip_id)) if name.edition == edition]
    return sorted((read_try(output, name) for name in names), key=lambda record: record.number)


def read_try(output: str, name: TryName) -> TryRecord:
    """Raises UnreadableRecord if the record is damaged or another try's."""
    uri = try_uri(output, name)
    record = parse(TryRecord, uri, retry_while_unavailable(lambda: storage.read_bytes(uri)))
    if record.name != name:
        raise UnreadableRecord(f"{storage.redact(uri)}: must hold the try of its name, but holds {record.name}")
    return record


def read_each(output: str, names: Iterable[TryName]) -> Iterator[tuple[TryName, TryRecord | UnreadableRecord]]:
    """Each of these tries, or why it cannot be read. Reads many at once; leaves out what was removed since it was listed."""

    def read(name: TryName) -> tuple[TryName, TryRecord | UnreadableRecord | None]:
        try:
            return name, read_try(output, name)
        except UnreadableRecord as error:
            return name, error
        except MissingObject:
            return name, None

    with ThreadPoolExecutor(NUM_PARALLEL_READS, thread_name_prefix="tries") as pool:
        for name, found in pool.map(read, names):
            if found is not None:
                yield name, found


def set_aside(output: str, name: TryName) -> None:
    """Renames a damaged record, so that its clip can go on: the try counts as never recorded."""
    uri = try_uri(output, name)
    with suppress(MissingObject):
        storage.write_bytes(uri + DAMAGED, storage.read_bytes(uri))
        storage.delete(uri)


def drop_rejected(output: str, tries: Iterable[TryRecord], quality: QualityConfig) -> None:
    """Deletes of a rejected clip what neither these rules nor those of the run that rendered the try keep (`keep_rejected`).

    Deletes all of a try that these rules call unsafe.
    """
    for record in tries:
        is_forbidden = record.is_unsafe or is_unsafe(record.scores, quality)
        delete_files(
            output, record.commit, DROPPED["nothing"] if is_forbidden else record.not_kept(quality.keep_rejected)
        )


def delete_files(output: str, commit: CommitRecord, fields: Sequence[str]) -> None:
    """Deletes these files of an attempt. What a store in trouble keeps is removed by `prune`."""
    with suppress(*STORE_FAULTS):
        for uri in filter(None, (getattr(commit, field) for field in fields)):
            storage.delete(storage.join(output, uri))


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
    first = first_number(output, clip, edition, quality)
    numbers = Numbers.of(quality, is_seed_given=clip.request.is_seed_given, first=first)
    judged = [record.judged(has_video=has_video(record)) for record in tries]
    return decide(judged, quality, numbers), tries


def still_rejected(
    output: str, clip: ClipSpec, edition: int, quality: QualityConfig | None
) -> tuple[Reject | UnreadableRecord | None, list[TryRecord]]:
    """Why a clip that an earlier run rejected is not tried again, and its tries. None: the present rules allow more."""
    if quality is None:
        return None, []
    try:
        verdict, tries = decide_by_tries(output, clip, edition, quality)
    except UnreadableRecord as error:
        return error, []
    return (verdict if isinstance(verdict, Reject) else None), tries


def _has_video(output: str, record: TryRecord) -> bool:
    uri = storage.join(output, record.commit.clip_uri)
    return not record.is_unsafe and retry_while_unavailable(lambda: storage.stat(uri)) is not None
