"""What a revocation covers: which rows it matches, and which clips and files were made on such rows.

A revocation names a person (`subject_id`), a consent (`consent_ref`) or a photo (`photo_sha256`). Records hold only a digest of that
name, so that they can be kept when the person's data is erased.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Set
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

SHA256 = re.compile("[0-9a-f]{64}")


class Kind(StrEnum):
    """What was revoked; each value is the name of the column that holds it."""

    SUBJECT_ID = "subject_id"
    CONSENT_REF = "consent_ref"
    PHOTO_SHA256 = "photo_sha256"


class Key(NamedTuple):
    """A revoked person, consent or photo. `digest` is the SHA-256 of its kind and name."""

    kind: Kind
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A row of a run, and whose clip it asks for. `clip_id` is None for a row that never became a clip."""

    run_id: str
    row: int
    clip_id: str | None
    subject_id: str | None = None
    consent_ref: str | None = None
    photo_sha256: str | None = None

    @property
    def keys(self) -> list[Key]:
        return keys_of(self.subject_id, self.consent_ref, self.photo_sha256)


@dataclass(frozen=True, slots=True, kw_only=True)
class Covered:
    """The clips that revocations cover. `spared` are clips that some run made for a row with another, valid consent.

    `photos` are the hashes of photos that no valid row shows.
    """

    clip_ids: frozenset[str]
    spared: frozenset[tuple[str, str]] = frozenset()
    photos: frozenset[str] = frozenset()

    def holds(self, clip_id: str, run_id: str | None) -> bool:
        """Whether what that run made of the clip must go. None stands for an unknown run."""
        return clip_id in self.clip_ids and (clip_id, run_id) not in self.spared


@lru_cache(maxsize=100_000)
def key_of(kind: Kind, value: str) -> Key:
    return Key(kind, hashlib.sha256(f"{kind}:{value}".encode()).hexdigest())


def keys_of(subject_id: str | None, consent_ref: str | None, photo_sha256: str | None = None) -> list[Key]:
    """The keys by which a row can be revoked. A name with white space around it has two: as written, and without it."""
    values = {Kind.SUBJECT_ID: subject_id, Kind.CONSENT_REF: consent_ref, Kind.PHOTO_SHA256: photo_sha256}
    return [
        key_of(kind, name)
        for kind, value in values.items()
        if value is not None
        for name in dict.fromkeys((value, value.strip()))
    ]


def keys_of_photos(sha256s: Iterable[str]) -> list[Key]:
    """The keys by which a row with these photos can be revoked: each of them is enough."""
    return [key_of(Kind.PHOTO_SHA256, sha256) for sha256 in sha256s]


def explain_revoked(keys: Iterable[Key], revoked: Set[Key]) -> str | None:
    """Why a row with these keys must not be rendered; None if nothing of it is revoked. Shows no value."""
    kinds = [key.kind for key in keys if key in revoked]
    return f"{kinds[0]}: revoked" if kinds else None


def find_covered(owners: Iterable[Owner], revoked: Set[Key]) -> Covered:
    """The clips of the rows that `revoked` matches.

    A revoked person or photo covers their clips in all runs. A revoked consent covers a clip too, but spares what a run made of it
    whose rows for that clip all name other consents.
    """
    owners = list(owners)
    rows_of: defaultdict[str, list[Owner]] = defaultdict(list)
    for owner in owners:
        if owner.clip_id is not None:
            rows_of[owner.clip_id].append(owner)
    kinds = {
        clip_id: {key.kind for row in rows for key in row.keys if key in revoked} for clip_id, rows in rows_of.items()
    }
    covered = {clip_id for clip_id, found in kinds.items() if found}
    by_consent = {clip_id for clip_id in covered if kinds[clip_id] == {Kind.CONSENT_REF}}
    spared = {(clip_id, run) for clip_id in by_consent for run in _runs_with_other_consent(rows_of[clip_id], revoked)}
    clips = Covered(clip_ids=frozenset(covered), spared=frozenset(spared))
    return replace(clips, photos=_photos_of_revoked_rows(owners, revoked, clips))


def rows_to_blank(owners: Iterable[Owner], revoked: Set[Key], covered: Covered) -> dict[str, set[int]]:
    """The rows of each run that hold data about what was revoked."""
    rows: defaultdict[str, set[int]] = defaultdict(set)
    for owner in owners:
        is_covered = owner.clip_id is not None and covered.holds(owner.clip_id, owner.run_id)
        if is_covered or explain_revoked(owner.keys, revoked):
            rows[owner.run_id].add(owner.row)
    return dict(rows)


def _photos_of_revoked_rows(owners: Iterable[Owner], revoked: Set[Key], clips: Covered) -> frozenset[str]:
    """The photos of covered rows, without those that another row shows."""
    is_revoked: defaultdict[str, list[bool]] = defaultdict(list)
    for owner in owners:
        if owner.photo_sha256 is not None:
            is_covered = owner.clip_id is not None and clips.holds(owner.clip_id, owner.run_id)
            is_revoked[owner.photo_sha256].append(is_covered or explain_revoked(owner.keys, revoked) is not None)
    return frozenset(photo for photo, rows in is_revoked.items() if all(rows))


def _runs_with_other_consent(rows: Iterable[Owner], revoked: Set[Key]) -> set[str]:
    valid: defaultdict[str, list[bool]] = defaultdict(list)
    for row in rows:
        is_named = bool((row.consent_ref or "").strip())
        has_other = is_named and revoked.isdisjoint(keys_of(None, row.consent_ref))
        valid[row.run_id].append(has_other)
    return {run_id for run_id, each in valid.items() if all(each)}
