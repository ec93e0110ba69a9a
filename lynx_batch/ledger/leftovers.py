"""Leftovers of killed attempts: files that no commit in force names."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Set
from datetime import datetime

from lynx_batch import storage
from lynx_batch.ledger.commits import read_commits
from lynx_batch.ledger.editions import Editions, list_editions
from lynx_batch.ledger.history import given_up_before
from lynx_batch.ledger.numbering import list_tries
from lynx_batch.ledger.runs import newest_quality
from lynx_batch.ledger.tries import DROPPED, TryRecord, read_each
from lynx_batch.output import (
    CLIPS,
    RESUME,
    RUN_END,
    TRIES,
    TryName,
    parse_log_part,
    parse_run_file,
    parse_saved_clip,
    parse_video,
    run_file_uri,
    runs_uri,
)
from lynx_batch.planning.verdict import NOT_GOOD_ENOUGH, UNSAFE_ERRORS
from lynx_batch.storage import StoredFile

FILES_PER_CLIP = 2
"""A video and a poster. The commit of a clip with more files, such as a preview, is read."""


def find_leftovers(output: str) -> list[StoredFile]:
    """Videos, posters and previews that no commit in force names and no try needs, and saved states of editions that nobody renders any
    more.

    While a run is active, some of these are about to be committed.
    """
    of_clip = defaultdict(list)
    for file in storage.list_files(storage.join(output, CLIPS)):
        if name := parse_video(output, file.uri):
            of_clip[name.clip_id].append(file)
    saved = list(storage.list_files(storage.join(output, RESUME)))
    editions = list_editions(output)
    found = [file for file in saved if (save := parse_saved_clip(file.uri)) and _is_over(save.of, editions)]
    needed = _files_needed(output, editions, of_clip.keys() - editions.finished)
    for clip_id in of_clip.keys() - editions.in_force:
        found += [file for file in of_clip[clip_id] if not file.uri.endswith(needed[clip_id])]
    in_force = editions.in_force.items()
    doubtful = {clip_id: n for clip_id, n in in_force if len(of_clip.get(clip_id, ())) > FILES_PER_CLIP}
    for commit in read_commits(output, doubtful):
        named = (*commit.files, *needed.get(commit.clip_id, ()))
        found += [file for file in of_clip[commit.clip_id] if not file.uri.endswith(named)]
    return found


def _is_over(of: TryName, editions: Editions) -> bool:
    wanted = editions.wanted(of.clip_id)
    return of.edition < wanted or editions.is_finished(of.clip_id, wanted)


def _files_needed(output: str, editions: Editions, open_clips: Set[str]) -> dict[str, tuple[str, ...]]:
    """What the tries of these clips' wanted editions name, relative to the output location.

    If the quality gate rejected the clip, that is what `keep_rejected` of the try's own run or of the newest run keeps. Nothing is needed of
    an unsafe try.
    """
    needed: dict[str, tuple[str, ...]] = dict.fromkeys(open_clips, ())
    tries = [name for name in list_tries(storage.join(output, TRIES)) if name.clip_id in open_clips]
    if not tries:
        return needed
    given_up = given_up_before(output, editions).select(["clip_id", "error_type"]).to_pylist()
    rejected = {row["clip_id"] for row in given_up if row["error_type"] in {NOT_GOOD_ENOUGH, *UNSAFE_ERRORS}}
    quality = newest_quality(output)
    for name, record in read_each(output, (name for name in tries if name.edition == editions.wanted(name.clip_id))):
        if isinstance(record, TryRecord) and not record.is_unsafe:
            dropped = record.not_kept(quality.keep_rejected) if quality and name.clip_id in rejected else ()
            kept = [field for field in DROPPED["nothing"] if field not in dropped]
            needed[name.clip_id] += tuple(filter(None, (getattr(record.commit, field) for field in kept)))
    return needed


def unchanged_since(output: str, files: Iterable[StoredFile], before: datetime) -> Iterator[StoredFile]:
    """Those of `files` that are older than `before`, by the store's clock, and whose run has ended or shown no sign of life since."""
    living = _active_since(output, before)
    for file in files:
        name = parse_video(output, file.uri)
        if _is_older(file, before) and not (name and name.run_id in living):
            yield file


def find_old_logs(output: str, before: datetime) -> Iterator[StoredFile]:
    """The logs of runs that have ended or shown no sign of life since, as far as they are older than `before`, by the store's clock."""
    living = _active_since(output, before)
    for file in storage.list_files(runs_uri(output)):
        part = parse_log_part(file.uri)
        if part and part.run_id not in living and _is_older(file, before):
            yield file


def of_run(output: str, files: Iterable[StoredFile], run_id: str) -> Iterator[StoredFile]:
    """Those of `files` that the attempts of one run left."""
    for file in files:
        name = parse_video(output, file.uri)
        if name and name.run_id == run_id:
            yield file


def has_ended(output: str, run_id: str) -> bool:
    return storage.stat(run_file_uri(output, run_id, RUN_END)) is not None


def _active_since(output: str, before: datetime) -> set[str]:
    """Runs that have not ended and whose record or heartbeat changed after `before`."""
    files = [(*parse_run_file(file.uri), file) for file in storage.list_files(runs_uri(output))]
    ended = {run_id for run_id, name, _ in files if name == RUN_END}
    return {run_id for run_id, _, file in files if not _is_older(file, before)} - ended


def _is_older(file: StoredFile, before: datetime) -> bool:
    return file.modified_at is not None and file.modified_at < before
