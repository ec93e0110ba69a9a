"""Clips as a webdataset: tar files of bounded size, in which each clip is an MP4 and a JSON object of the same name.

Shards are written one by one, and the list of the export names a shard before it is put. So an export that was interrupted knows by the
list and the size of each shard what is there already.
"""

import io
import json
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from hashlib import file_digest
from itertools import chain, count
from pathlib import Path
from typing import Any

import pyarrow as pa

from lynx_batch import storage
from lynx_batch.ledger.commits import CommitRecord
from lynx_batch.ledger.copies import NUM_PARALLEL_COPIES, read_clip
from lynx_batch.ledger.export_list import ExportList, WrittenFile, is_complete, refuse_foreign, write_list
from lynx_batch.ledger.metadata import READ_SCHEMA

NUM_AT_ONCE = 64
"""How many clips are held in memory."""

DETAILS_BYTES = 16_384
"""A generous guess at what a clip adds to a shard besides its video: its JSON object and the headers of both."""

SUFFIX = ".tar"
SHARD = "shard-{number:06}" + SUFFIX

OF_THE_FILES = frozenset({"clip_uri", "poster_uri", "preview_uri", "run", "row"})
"""Columns that say nothing about a clip that was taken out of its output location."""

MAPS = frozenset(field.name for field in READ_SCHEMA if pa.types.is_map(field.type))

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A shard to write, and its clips in order."""

    name: str
    clips: Sequence[CommitRecord]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shards:
    """What became of an export: the list of it, how many shards were written now, and why clips were left out, by ClipId."""

    listed: ExportList
    num_written: int
    left_out: Mapping[str, str] = field(default_factory=dict)

    def find_clips(self, clip_ids: Set[str]) -> dict[str, list[str]]:
        """Which of these clips are in which shard."""
        found = {name: sorted(clip_ids & file.clips.keys()) for name, file in self.listed.files.items()}
        return {name: clips for name, clips in found.items() if clips and name.endswith(SUFFIX)}


def plan_shards(
    clips: Iterable[CommitRecord], existing: Mapping[str, WrittenFile], max_bytes: int, lost: Set[str] = frozenset()
) -> list[Shard]:
    """The shards to write. Shards that exist stay as they are, unless a clip in them has a newer edition: then they get what `clips` has now.

    New clips go into new shards, in the order of their ids. A clip that is larger than `max_bytes` has a shard of its own. New shards first
    get the names in `lost`: listed shards that are not there as listed.
    """
    wanted = {commit.clip_id: commit for commit in clips}
    shards = []
    for name, file in existing.items():
        if any(clip_id in wanted and wanted[clip_id].edition != edition for clip_id, edition in file.clips.items()):
            shards.append(Shard(name=name, clips=[wanted[each] for each in file.clips if each in wanted]))
    present = {clip_id for file in existing.values() for clip_id in file.clips}
    unused = (name for name in map(_name, count()) if name not in existing and name not in lost)
    names = chain(sorted(lost), unused)
    missing = [wanted[clip_id] for clip_id in sorted(wanted.keys() - present)]
    return shards + [Shard(name=next(names), clips=some) for some in _bounded(missing, max_bytes)]


def write_shards(
    output: str,
    clips: Iterable[CommitRecord],
    row_of: Mapping[str, Row],
    destination: str,
    listed: ExportList,
    *,
    max_bytes: int,
    overwrites: bool,
    announce: Callable[[str], None] = lambda line: None,
) -> Shards:
    """Writes what is missing of the clips' shards. Each is put as a whole, so nobody ever reads half of one.

    Args:
        output: The output location of the clips.
        clips: The commits of all clips that the dataset must have.
        row_of: The metadata of each clip, which becomes its JSON object.
        destination: The folder of the shards.
        listed: What exports wrote there before.
        max_bytes: The largest size of a shard.
        overwrites: Whether other files in the way are replaced.
        announce: Gets a line for each shard that was written.

    Raises:
        ConfigError: If another file is in the way. Nothing was written then.
    """
    existing = _existing(destination, listed)
    lost = {name for name in listed.files if name.endswith(SUFFIX)} - existing.keys()
    shards = plan_shards(clips, existing, max_bytes, lost)
    for shard in shards:
        refuse_foreign(destination, shard.name, listed, overwrites=overwrites)
    left_out: dict[str, str] = {}
    num_written = 0
    for shard in shards:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, shard.name)
            written, faults = _write_tar(output, shard.clips, row_of, file)
            left_out |= faults
            if not written:
                continue
            with file.open("rb") as content:
                sha256 = file_digest(content, "sha256").hexdigest()
            described = WrittenFile(sha256=sha256, num_bytes=file.stat().st_size, clips=written)
            listed = listed.with_pending(shard.name, described)
            write_list(destination, listed)
            storage.upload(file, storage.join(destination, shard.name))
            if listed.files[shard.name].replaced:
                listed = listed.confirmed(shard.name)
                write_list(destination, listed)
        num_written += 1
        announce(f"{shard.name}: {len(written)} clips, {described.num_bytes / 1e6:.1f} MB")
    return Shards(listed=listed, num_written=num_written, left_out=left_out)


def _existing(destination: str, listed: ExportList) -> dict[str, WrittenFile]:
    """The shards of the list that are there as listed."""
    sizes = {file.uri.rpartition("/")[2]: file.num_bytes for file in storage.list_files(destination)}
    return {
        name: file
        for name, file in listed.files.items()
        if name.endswith(SUFFIX) and is_complete(destination, name, file, sizes.get(name))
    }


def _name(number: int) -> str:
    return SHARD.format(number=number)


def _bounded(clips: Iterable[CommitRecord], max_bytes: int) -> Iterator[list[CommitRecord]]:
    """The clips in groups of at most `max_bytes`; a larger clip is alone."""
    some, num_bytes = list[CommitRecord](), 0
    for clip in clips:
        own_bytes = clip.num_bytes + DETAILS_BYTES
        if some and num_bytes + own_bytes > max_bytes:
            yield some
            some, num_bytes = [], 0
        some.append(clip)
        num_bytes += own_bytes
    if some:
        yield some


def _write_tar(
    output: str, clips: Sequence[CommitRecord], row_of: Mapping[str, Row], file: Path
) -> tuple[dict[str, int], dict[str, str]]:
    """Writes a shard. Returns the edition of each clip in it, and why others are not."""
    written, faults = dict[str, int](), dict[str, str]()
    with tarfile.open(file, "w") as tar, ThreadPoolExecutor(NUM_PARALLEL_COPIES, "export") as pool:
        for start in range(0, len(clips), NUM_AT_ONCE):
            some = clips[start : start + NUM_AT_ONCE]
            for clip, content in zip(some, pool.map(partial(read_clip, output), some), strict=True):
                if isinstance(content, str):
                    faults[clip.clip_id] = content
                    continue
                told = {name: cell for name, cell in row_of[clip.clip_id].items() if cell is not None}
                _add(tar, f"{clip.clip_id}.mp4", content, clip.committed_at)
                _add(tar, f"{clip.clip_id}.json", _as_json(told), clip.committed_at)
                written[clip.clip_id] = clip.edition
    return written, faults


def _add(tar: tarfile.TarFile, name: str, content: bytes, at: datetime) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mtime = len(content), int(at.timestamp())
    tar.addfile(member, io.BytesIO(content))


def _as_json(row: Row) -> bytes:
    """A row of the metadata. Maps, which Arrow gives as pairs, become objects; times are in ISO 8601."""
    own = {name: cell for name, cell in row.items() if name not in OF_THE_FILES}
    cells = {name: dict(cell) if name in MAPS else cell for name, cell in own.items()}
    return json.dumps(cells, ensure_ascii=False, default=datetime.isoformat).encode()
