"""What attempts that were killed have left at an output: files that no commit in force names."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime

from lynx_batch import storage
from lynx_batch.ledger.commits import read_commits
from lynx_batch.ledger.editions import list_editions
from lynx_batch.ledger.runs import END
from lynx_batch.storage import StoredFile

FILES_PER_CLIP = 2

OF_ATTEMPT = re.compile(r".*/clips/[0-9a-f]{2}/(?P<clip>[0-9a-f]+)/(?P<run>[^/]+)-[0-9a-f]+\.(mp4|jpg)")
SAVED_STEPS = re.compile(r".*/resume/(?P<clip>[0-9a-f]+)-\d+\.safetensors")


def find_leftovers(output: str) -> list[StoredFile]:
    """Videos and posters that no commit in force names, and saved steps of clips that are finished.

    While a run goes on, some of these are about to be committed.
    """
    of_clip = defaultdict(list)
    for file in storage.list_files(storage.join(output, "clips")):
        if match := OF_ATTEMPT.fullmatch(file.uri):
            of_clip[match["clip"]].append(file)
    saved = list(storage.list_files(storage.join(output, "resume")))
    in_force = list_editions(output).in_force
    found = [file for file in saved if (match := SAVED_STEPS.fullmatch(file.uri)) and match["clip"] in in_force]
    for clip_id in of_clip.keys() - in_force:
        found += of_clip[clip_id]
    doubtful = {clip_id: n for clip_id, n in in_force.items() if len(of_clip.get(clip_id, ())) > FILES_PER_CLIP}
    for commit in read_commits(output, doubtful):
        named = (commit.clip_uri, commit.poster_uri)
        found += [file for file in of_clip[commit.clip_id] if not file.uri.endswith(named)]
    return found


def unchanged_since(output: str, files: Iterable[StoredFile], before: datetime) -> Iterator[StoredFile]:
    """Those of `files` that are older than `before`, by the store's clock, and of no run that may still be alive: it has ended, or
    has shown no sign of life since.
    """
    living = _living_since(output, before)
    for file in files:
        match = OF_ATTEMPT.fullmatch(file.uri)
        if _is_older(file, before) and not (match and match["run"] in living):
            yield file


def of_run(files: Iterable[StoredFile], run_id: str) -> Iterator[StoredFile]:
    """Those of `files` that attempts of a run have left."""
    for file in files:
        match = OF_ATTEMPT.fullmatch(file.uri)
        if match and match["run"] == run_id:
            yield file


def has_ended(output: str, run_id: str) -> bool:
    return storage.stat(storage.join(output, "runs", run_id, END)) is not None


def _living_since(output: str, before: datetime) -> set[str]:
    """Runs without an end whose record or heartbeat changed since."""
    files = [(file.uri.split("/")[-2], file) for file in storage.list_files(storage.join(output, "runs"))]
    ended = {run_id for run_id, file in files if file.uri.endswith(f"/{END}")}
    return {run_id for run_id, file in files if not _is_older(file, before)} - ended


def _is_older(file: StoredFile, before: datetime) -> bool:
    return file.modified_at is not None and file.modified_at < before
