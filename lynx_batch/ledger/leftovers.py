"""Leftovers of killed attempts: files that no commit in force names."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime

from lynx_batch import storage
from lynx_batch.ledger.commits import read_commits
from lynx_batch.ledger.editions import list_editions
from lynx_batch.ledger.tries import files_of_tries
from lynx_batch.output import (
    CLIPS,
    RESUME,
    RUN_END,
    parse_run_file,
    parse_saved_clip,
    parse_video,
    run_file_uri,
    runs_uri,
)
from lynx_batch.storage import StoredFile

FILES_PER_CLIP = 2
"""A video and a poster. The commit of a clip with more files, such as a preview, is read."""


def find_leftovers(output: str) -> list[StoredFile]:
    """Videos, posters and previews that no commit in force and no try of an open clip names, and saved states of finished clips.

    While a run is active, some of these are about to be committed.
    """
    of_clip = defaultdict(list)
    for file in storage.list_files(storage.join(output, CLIPS)):
        if name := parse_video(output, file.uri):
            of_clip[name.clip_id].append(file)
    saved = list(storage.list_files(storage.join(output, RESUME)))
    in_force = list_editions(output).in_force
    found = [file for file in saved if (save := parse_saved_clip(file.uri)) and save.of.clip_id in in_force]
    kept = files_of_tries(output, of_clip.keys() - in_force)
    for clip_id in of_clip.keys() - in_force:
        found += [file for file in of_clip[clip_id] if not file.uri.endswith(kept[clip_id])]
    doubtful = {clip_id: n for clip_id, n in in_force.items() if len(of_clip.get(clip_id, ())) > FILES_PER_CLIP}
    for commit in read_commits(output, doubtful):
        found += [file for file in of_clip[commit.clip_id] if not file.uri.endswith(commit.files)]
    return found


def unchanged_since(output: str, files: Iterable[StoredFile], before: datetime) -> Iterator[StoredFile]:
    """Those of `files` that are older than `before`, by the store's clock, and whose run has ended or shown no sign of life since."""
    living = _active_since(output, before)
    for file in files:
        name = parse_video(output, file.uri)
        if _is_older(file, before) and not (name and name.run_id in living):
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
