"""What is left of revoked clips at an output location, and its removal."""

from collections.abc import Callable, Iterable, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar

import structlog

from lynx_batch import storage
from lynx_batch.errors import StoreRefused
from lynx_batch.ledger.commits import Withdrawal, read_commits, withdraw
from lynx_batch.ledger.editions import list_editions
from lynx_batch.ledger.history import given_up_redos
from lynx_batch.ledger.owners import read_owners
from lynx_batch.ledger.records import read_records
from lynx_batch.ledger.tombstones import read_revoked
from lynx_batch.ledger.tries import TryRecord
from lynx_batch.outage import retry_while_unavailable
from lynx_batch.output import (
    REPORT,
    RESUME,
    attempts_uri,
    judgements_uri,
    parse_attempt,
    parse_judgement,
    parse_report_photo,
    parse_saved_clip,
    tries_uri,
)
from lynx_batch.planning.revocation import Covered, Owner, find_covered
from lynx_batch.storage import OldVersion

log = structlog.get_logger()

NUM_PARALLEL = 16

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Remains:
    """The editions of covered clips that are in force, and the URIs of their videos, posters, previews, tries, judgements and saved steps,
    and of reports' copies of covered photos.
    """

    commits: dict[str, int]
    files: list[str]


def find_remains(output: str, covered: Covered) -> Remains:
    files = _photos_in_reports(output, covered.photos) if covered.photos else []
    if not covered.clip_ids:
        return Remains({}, files)
    saved = (file.uri for file in storage.list_files(storage.join(output, RESUME)))
    files += [uri for uri in saved if (name := parse_saved_clip(uri)) and name.of.clip_id in covered.clip_ids]
    judged = (file.uri for file in storage.list_files(judgements_uri(output)))
    files += [uri for uri in judged if (of := parse_judgement(uri)) and covered.holds(of[0], None)]
    for found in _in_parallel(lambda clip_id: _files_of(output, clip_id, covered), covered.clip_ids):
        files += found
    return Remains(_commits_in_force(output, covered), files)


def withdraw_revoked(output: str, rows: Iterable[Owner]) -> None:
    """Takes back during a run the clips of its `rows` that were revoked meanwhile, but for what valid rows of any run spare.

    Its workers do so clip by clip, and the run at its end: for a worker that was killed right after its commit, and for rows that asked for
    the same clip as another row. Old versions that the store does not give up are left to `revoke`.
    """
    rows, revoked = list(rows), retry_while_unavailable(lambda: read_revoked(output))
    own = find_covered(rows, revoked)
    if not own.clip_ids and not own.photos:
        return
    found = find_covered([*retry_while_unavailable(lambda: read_owners(output)), *rows], revoked)
    covered = replace(found, clip_ids=found.clip_ids & own.clip_ids, photos=found.photos & own.photos)
    now = datetime.now(UTC)
    retry_while_unavailable(lambda: remove(output, find_remains(output, covered), now, command="render"))
    try:
        retry_while_unavailable(lambda: remove_old_versions(output, covered.clip_ids))
    except StoreRefused as error:
        log.warning("old_versions_left", error=str(error))


def remove(output: str, remains: Remains, now: datetime, command: str) -> None:
    """Withdraws the commits, and then deletes the files. Safe to repeat."""

    def take_back(of: tuple[str, int]) -> None:
        clip_id, edition = of
        reason = "the person, the consent or the photo was revoked"
        withdrawal = Withdrawal(clip_id=clip_id, edition=edition, reason=reason, withdrawn_at=now, command=command)
        withdraw(output, withdrawal)

    redos = given_up_redos(output, list_editions(output), remains.commits.keys()) if remains.commits else {}
    _in_parallel(take_back, [*remains.commits.items(), *redos.items()])
    _in_parallel(storage.delete, remains.files)


def find_old_versions(output: str, clip_ids: Set[str]) -> list[OldVersion]:
    """What a versioned bucket keeps of replaced or deleted files of these clips.

    Raises:
        StoreRefused: If the store does not permit it, or is of a kind whose versions cannot be listed.
    """
    if not clip_ids:
        return []
    saved = storage.list_old_versions(storage.join(output, RESUME))
    found = [each for each in saved if (name := parse_saved_clip(each.uri)) and name.of.clip_id in clip_ids]
    folders = [place(output, clip_id) for clip_id in clip_ids for place in (attempts_uri, tries_uri)]
    return found + [version for each in _in_parallel(_list_old_versions, folders) for version in each]


def remove_old_versions(output: str, clip_ids: Set[str]) -> int:
    """Removes them for good. Returns their number; raises as `find_old_versions`."""
    return delete_versions(find_old_versions(output, clip_ids))


def delete_versions(versions: Iterable[OldVersion]) -> int:
    return len(_in_parallel(storage.delete_version, versions))


def _list_old_versions(folder: str) -> list[OldVersion]:
    return list(storage.list_old_versions(folder))


def _photos_in_reports(output: str, photos: Set[str]) -> list[str]:
    files = (file.uri for file in storage.list_files(storage.join(output, REPORT)))
    return [uri for uri in files if parse_report_photo(uri) in photos]


def _files_of(output: str, clip_id: str, covered: Covered) -> list[str]:
    attempts = [file.uri for file in storage.list_files(attempts_uri(output, clip_id))]
    tries = [file.uri for file in storage.list_files(tries_uri(output, clip_id))]
    made_by: dict[str, str | None] = {uri: parse_attempt(uri) for uri in attempts}
    made_by |= dict.fromkeys(tries)
    made_by |= {uri: record.commit.run_id for uri, record in read_records(TryRecord, tries)}
    return [uri for uri, run_id in made_by.items() if covered.holds(clip_id, run_id)]


def _commits_in_force(output: str, covered: Covered) -> dict[str, int]:
    in_force = {c: edition for c, edition in list_editions(output).in_force.items() if c in covered.clip_ids}
    made_by = {record.clip_id: record.run_id for record in read_commits(output, in_force)}
    return {c: edition for c, edition in in_force.items() if covered.holds(c, made_by.get(c))}


def _in_parallel(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    with ThreadPoolExecutor(NUM_PARALLEL, thread_name_prefix="remains") as pool:
        return list(pool.map(work, items))
