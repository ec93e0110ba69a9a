"""Copies committed clips to a folder of the user's, and touches nothing else there that the user did not give up."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pyarrow.compute as pc

from lynx_batch import storage
from lynx_batch.errors import ConfigError, LynxError
from lynx_batch.ledger.commits import CommitRecord
from lynx_batch.ledger.metadata import read_metadata

NUM_PARALLEL_COPIES = 16
MAX_OBSTACLES_SHOWN = 20
FOREIGN, BLOCKED = "foreign", "blocked"
"""In place of a hash: the file at this name is not a clip of ours; no file can be written at this name."""

Contents = Mapping[int, Set[str]]
"""Hashes of files, by the number of bytes."""


def copy_clips(
    output: str, clips: Mapping[str, CommitRecord], destination: str, *, overwrites: bool = False
) -> dict[str, str]:
    """Copies every clip to its name below `destination`, many at once. Returns why some were left out, by name.

    Each copy has exactly the committed bytes. It replaces a file only if that still holds a clip of this output, left by an earlier
    export: any other file is the user's own, unless the user says that it `overwrites` those, too.

    Raises:
        ConfigError: If such a file, or a folder, is in the way. Nothing was copied then.
    """
    refuse_file(destination)
    own = _known_contents(output, clips.values())
    with ThreadPoolExecutor(NUM_PARALLEL_COPIES, thread_name_prefix="export") as pool:
        found = dict(zip(clips, pool.map(partial(_hash_existing, destination, own), clips), strict=True))
        in_the_way = {BLOCKED} if overwrites else {BLOCKED, FOREIGN}
        if obstacles := [name for name, sha256 in found.items() if sha256 in in_the_way]:
            raise ConfigError(_describe(obstacles, output, destination))
        missing = {name: clip for name, clip in clips.items() if found[name] != clip.sha256}
        faults = pool.map(partial(_copy, output), missing.values(), [storage.join(destination, n) for n in missing])
        return {name: fault for name, fault in zip(missing, faults, strict=True) if fault}


def refuse_file(destination: str) -> None:
    """Raises ConfigError if a file is where the folder must be."""
    path = storage.path_of(destination)
    is_file = storage.stat(destination) is not None if path is None else os.path.lexists(path) and not path.is_dir()
    if is_file:
        raise ConfigError(f"DEST {storage.redact(destination)}: must be a folder, but is a file")


def _known_contents(output: str, commits: Iterable[CommitRecord]) -> Contents:
    """The contents of `commits`, and of every other clip that the metadata of an output knows."""
    contents: dict[int, set[str]] = defaultdict(set)
    videos = read_metadata(output, ["num_bytes", "sha256"], pc.field("sha256").is_valid())
    for num_bytes, sha256 in zip(videos["num_bytes"].to_pylist(), videos["sha256"].to_pylist(), strict=True):
        contents[num_bytes].add(sha256)
    for commit in commits:
        contents[commit.num_bytes].add(commit.sha256)
    return contents


def _hash_existing(destination: str, own: Contents, name: str) -> str | None:
    """The hash of the clip at a name, FOREIGN if there is another file, BLOCKED if there can be none, None if nothing is there."""
    uri = storage.join(destination, name)
    file = storage.stat(uri)
    if file is None:
        return BLOCKED if is_blocked(uri, name) else None
    if file.num_bytes not in own:
        return FOREIGN
    sha256 = _hash(storage.read_bytes(uri))
    return sha256 if sha256 in own[file.num_bytes] else FOREIGN


def is_blocked(uri: str, name: str) -> bool:
    """Whether a local name is taken by a folder or a dangling link, or needs a folder where there is a file."""
    path = storage.path_of(uri)
    if path is None:
        return False
    folders = path.parents[: name.count("/")]
    return os.path.lexists(path) or any(os.path.lexists(folder) and not folder.is_dir() for folder in folders)


def _describe(obstacles: list[str], output: str, destination: str) -> str:
    rule = f"must be free, or a clip of {storage.redact(output)}"
    hidden = len(obstacles) - MAX_OBSTACLES_SHOWN
    lines = [
        f"DEST {storage.redact(destination)}: nothing was exported, because it holds files that `export` did not write:"
    ]
    lines += [f"  {name}: {rule}" for name in obstacles[:MAX_OBSTACLES_SHOWN]]
    lines += [f"  ... and {hidden} more"] if hidden > 0 else []
    return "\n".join([*lines, "Move them away, choose another DEST or --name, or replace files with --overwrite."])


def _copy(output: str, commit: CommitRecord, target: str) -> str | None:
    """Copies one clip. Returns the reason if it cannot."""
    content = read_clip(output, commit)
    if isinstance(content, str):
        return content
    storage.write_bytes(target, content)
    return None


def read_clip(output: str, commit: CommitRecord) -> bytes | str:
    """The committed video, or the reason why it cannot be had."""
    source = storage.join(output, commit.clip_uri)
    try:
        content = storage.read_bytes(source)
    except LynxError as error:
        return str(error)
    if _hash(content) != commit.sha256:
        return f"{storage.redact(source)}: sha256 must be {commit.sha256}, as in its commit"
    return content


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
