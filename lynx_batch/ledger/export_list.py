"""`export.json` in the folder of an export: what was written there, and which clips are in it."""

import hashlib
from collections.abc import Mapping
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from lynx_batch import storage
from lynx_batch.errors import ConfigError, MissingObject, UnreadableRecord
from lynx_batch.ledger.commits import CommitRecord
from lynx_batch.ledger.copies import is_blocked
from lynx_batch.ledger.records import parse

LIST_NAME = "export.json"
SCHEMA_VERSION = 1
MAX_REPLACED = 3


class WrittenFile(BaseModel):
    """A file that an export wrote, and the edition of each clip in it.

    A file is listed before it is put, so an interrupted export may leave what was there: `replaced` are hashes of that. They are
    forgotten once a later list says that the new file is there.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    sha256: str
    num_bytes: int
    clips: dict[str, int] = {}
    replaced: tuple[str, ...] = ()

    def after(self, earlier: "WrittenFile | None") -> "WrittenFile":
        """The same file, which takes the place of an `earlier` one."""
        if earlier is None or earlier.sha256 == self.sha256:
            return self
        return self.model_copy(update={"replaced": (earlier.sha256, *earlier.replaced)[:MAX_REPLACED]})


class ExportList(BaseModel):
    """The files that exports of one output wrote to a folder, by name. Files that were removed since stay in the list."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = SCHEMA_VERSION
    output: str
    exported_at: datetime
    files: dict[str, WrittenFile] = {}

    def with_files(self, files: Mapping[str, WrittenFile]) -> "ExportList":
        return self.model_copy(update={"files": {**self.files, **files}})

    def with_pending(self, name: str, file: WrittenFile) -> "ExportList":
        """The list before the file `name` is put."""
        return self.with_files({name: file.after(self.files.get(name))})

    def confirmed(self, name: str) -> "ExportList":
        """The list once the file `name` has been put."""
        return self.with_files({name: self.files[name].model_copy(update={"replaced": ()})})


def open_list(output: str, destination: str, now: datetime, *, overwrites: bool) -> ExportList:
    """The list at the destination; an empty one if there is none yet.

    Raises:
        ConfigError: If the file of that name is another one, or is of another output, and may not be overwritten.
    """
    path, uri = storage.path_of(output), storage.join(destination, LIST_NAME)
    shown = storage.redact(output) if path is None else str(path.resolve())
    new = ExportList(output=shown, exported_at=now)
    try:
        found = parse(ExportList, uri, storage.read_bytes(uri))
    except MissingObject:
        return new
    except UnreadableRecord:
        found = None
    if found is not None and found.output == shown:
        return found.model_copy(update={"exported_at": now})
    if overwrites:
        return new
    what = "is not the list of an export" if found is None else f"is the list of an export of {found.output}"
    raise ConfigError(
        f"DEST {storage.redact(destination)}: {LIST_NAME} {what}; choose another DEST, or replace it with --overwrite"
    )


def write_list(destination: str, listed: ExportList) -> None:
    storage.write_bytes(storage.join(destination, LIST_NAME), listed.model_dump_json(indent=1).encode())


def refuse_foreign(destination: str, name: str, listed: ExportList, *, overwrites: bool) -> None:
    """Raises ConfigError if `name` is taken by anything but the file that the list has, as the export wrote it."""
    uri = storage.join(destination, name)
    stored = storage.stat(uri)
    if stored is None and not is_blocked(uri, name):
        return
    known = listed.files.get(name)
    is_own = known is not None and stored is not None and _is_as_written(uri, known)
    if not is_own and (stored is None or not overwrites):
        raise ConfigError(
            f"DEST {storage.redact(destination)}: {name}: must be free, or as an earlier export wrote it; "
            f"move it away, or replace a file with --overwrite"
        )


def _is_as_written(uri: str, known: WrittenFile) -> bool:
    return describe_file(storage.read_bytes(uri)).sha256 in (known.sha256, *known.replaced)


def is_complete(destination: str, name: str, known: WrittenFile, num_bytes: int | None) -> bool:
    """Whether a file of `num_bytes` is the one that is listed, and not its predecessor. Reads it only if it may be that."""
    if num_bytes != known.num_bytes or not known.replaced:
        return num_bytes == known.num_bytes
    return describe_file(storage.read_bytes(storage.join(destination, name))).sha256 == known.sha256


def describe_file(content: bytes) -> WrittenFile:
    """A file without clips, such as a table."""
    return WrittenFile(sha256=hashlib.sha256(content).hexdigest(), num_bytes=len(content))


def list_of_clips(clips: Mapping[str, CommitRecord]) -> dict[str, WrittenFile]:
    """Files that are copies of these clips, by name."""
    return {
        name: WrittenFile(sha256=clip.sha256, num_bytes=clip.num_bytes, clips={clip.clip_id: clip.edition})
        for name, clip in clips.items()
    }
