"""Builds a manifest from photos and prompts, or from a text file with rows."""

import csv
import io
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path, PurePosixPath

import pyarrow as pa
import structlog

from lynx_batch.errors import ConfigError
from lynx_batch.intake.cells import read_cell
from lynx_batch.intake.problems import shorten
from lynx_batch.intake.schema import MANIFEST_SCHEMA, MAX_PHOTOS, PHOTO_COLUMNS, explain_columns
from lynx_batch.intake.tags import read_json
from lynx_batch.storage import SizeLimit, explained, join, list_files, path_of, read_bytes, redact, resolve
from lynx_batch.store_errors import Operation

log = structlog.get_logger()

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".mpo", ".png", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".gif")
SYSTEM_FILES = ("Thumbs.db", "desktop.ini", "Icon\r")
MAX_FAULTS_SHOWN = 50
TEXT_LIMIT = SizeLimit(256 * 2**20, "the most that is read of a text file")

Line = tuple[int, dict[str, object] | str]
"""Number of a line, from 1, and its cells, or what is wrong with the line as a whole."""


def build_from_folder(
    photos: str,
    prompts: Sequence[str],
    seeds: Sequence[int] | None,
    consent_ref: str | None = None,
    *,
    has_person_folders: bool = False,
) -> pa.Table:
    """A row for each combination of a photo directly in the folder, a prompt and a seed. Without seeds, they are derived later.

    `subject_id` is the name of the photo's file. `clip_name` looks like `eileen-collins-p01-s42`. With `has_person_folders`, each
    sub-folder takes the place of a photo: all photos in it show the person after whom it is named.

    Raises:
        ConfigError: If there is no photo or no prompt, or a prompt or seed is repeated.
    """
    if not prompts:
        raise ConfigError("prompts: there must be at least one")
    _refuse_repeated("prompt", prompts)
    _refuse_repeated("seed", seeds or ())
    people: Mapping[str, str | list[str]]
    people = list_people(photos) if has_person_folders else _name_photos(_list_photos(photos))
    rows = [
        {
            "subject_uris" if has_person_folders else "subject_uri": named,
            "prompt": prompt,
            "clip_name": f"{subject}-p{number:02}" + ("" if seed is None else f"-s{seed}"),
            "subject_id": subject,
            "seed": seed,
            "consent_ref": consent_ref,
        }
        for (subject, named), (number, prompt), seed in product(
            people.items(), enumerate(prompts, start=1), seeds or (None,)
        )
    ]
    return pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA)


def build_from_table_file(uri: str) -> pa.Table:
    """The rows of a `.csv` file (with a line of column names) or a `.jsonl` file. Relative photo paths start at its folder.

    An empty CSV cell is null.

    Raises:
        ConfigError: If a column or cell does not fit the schema; the message names line, column, value and rule of every fault.
    """
    readers = {".csv": _read_csv, ".jsonl": _read_jsonl}
    address = uri.partition("?")[0] if "://" in uri else uri
    reader = readers.get(PurePosixPath(address).suffix.lower())
    source, folder = redact(uri), address.rpartition("/")[0] or "."
    if reader is None:
        raise ConfigError(f"{source}: must be a .csv or .jsonl file")
    rows, faults = [], []
    for number, cells in reader(read_text(uri), source):
        row, found = ({}, [cells]) if isinstance(cells, str) else _read_row(cells)
        faults += [f"line {number}: {fault}" for fault in found]
        rows.append(_locate(row, folder))
    if faults:
        raise ConfigError(list_faults(source, faults))
    return pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA)


def place_photos(table: pa.Table, manifest: str) -> pa.Table:
    """`table` with the photo paths that it needs as a manifest at `manifest`.

    In a local manifest, local photos are relative to its folder, so both can be moved together.
    """
    with explained(Operation.WRITE, manifest):
        folder = None if "://" in manifest else os.path.realpath(os.path.dirname(manifest) or ".")

    def place(named: str | list[str] | None) -> str | list[str] | None:
        if isinstance(named, list):
            return [str(place(uri)) for uri in named]
        if named is None or "://" in named or not named.strip():
            return named
        return os.path.abspath(named) if folder is None else os.path.relpath(os.path.abspath(named), folder)

    for name in {*PHOTO_COLUMNS} & {*table.column_names}:
        placed = pa.array(map(place, table[name].to_pylist()), MANIFEST_SCHEMA.field(name).type)
        table = table.set_column(table.column_names.index(name), name, placed)
    return table


def list_people(folder: str) -> dict[str, list[str]]:
    """The photos directly in each sub-folder, by the sub-folder's name. A warning names every other file.

    Raises:
        ConfigError: If there is no sub-folder, or one has no photo or too many.
    """
    paths = [file.uri.removeprefix(folder).strip("/") for file in list_files(folder)]
    alone = [path for path in paths if "/" not in path]
    if alone:
        log.warning(
            "left_out", num_files=len(alone), files=alone[:MAX_FAULTS_SHOWN], reason="not in the folder of a person"
        )
    names = sorted({path.partition("/")[0] for path in paths if "/" in path and not path.startswith(".")})
    if not names:
        raise ConfigError(f"photos {redact(folder)}: must be a folder with a folder of photos for each person")
    people = {name: _list_photos(join(folder, name)) for name in names}
    for name, photos in people.items():
        if len(photos) > MAX_PHOTOS:
            raise ConfigError(
                f"photos {redact(join(folder, name))}: must be at most {MAX_PHOTOS} photos of a person, not {len(photos)}"
            )
    return people


def read_prompts(uri: str) -> list[str]:
    """One prompt per line. Empty lines are ignored."""
    lines = (line.strip() for line in read_text(uri).split("\n"))
    return [line for line in lines if line]


def read_text(uri: str) -> str:
    """Raises ConfigError if the file is not UTF-8, and InputRefused if it is too large."""
    try:
        return read_bytes(uri, TEXT_LIMIT).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{redact(uri)}: must be UTF-8 ({error.reason} at byte {error.start})") from error


def _list_photos(folder: str) -> list[str]:
    """The photos directly in a folder. A warning names every other file below it, and why it is left out."""
    names = {file.uri.removeprefix(folder).strip("/"): file.uri for file in list_files(folder)}
    left_out = {name: why for name in sorted(names) if (why := _explain_left_out(name))} | _explain_no_files(folder)
    if left_out:
        explained_files = [f"{name}: {why}" for name, why in left_out.items()]
        log.warning("left_out", num_files=len(left_out), files=explained_files[:MAX_FAULTS_SHOWN])
    photos = sorted(uri for name, uri in names.items() if name not in left_out)
    if not photos:
        raise ConfigError(f"photos {redact(folder)}: must be a folder with a photo ({', '.join(PHOTO_SUFFIXES)})")
    return photos


def _explain_no_files(folder: str) -> dict[str, str]:
    """Name and reason for each entry of a local folder that is neither a file nor a folder that can be searched."""
    path = path_of(folder)
    entries = sorted(path.iterdir()) if path is not None and path.is_dir() else []
    return {entry.name: why for entry in entries if (why := _explain_no_file(entry))}


def _explain_no_file(entry: Path) -> str | None:
    if not entry.exists():
        return "a link to nothing"
    if entry.is_dir():
        return "a linked folder, which is not searched" if entry.is_symlink() else None
    return None if entry.is_file() else "neither a file nor a folder"


def _explain_left_out(name: str) -> str | None:
    """Why a file is not used as a photo; None if it is used. `name` is its path below the folder."""
    path = PurePosixPath(name)
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    if any(part.startswith(".") for part in path.parts) or path.name in SYSTEM_FILES:
        return "a hidden file or a file of the operating system"
    if len(path.parts) > 1:
        return "in a sub-folder, which is not searched"
    if path.suffix.lower() in (".heic", ".heif"):
        return "HEIC is not read: convert it to JPEG"
    return None if path.suffix.lower() in PHOTO_SUFFIXES else "not a photo"


def _name_photos(uris: list[str]) -> dict[str, str]:
    """Maps the subject of each photo to its URI. The subject is the file's stem, or its full name if two files share the stem."""
    files = [PurePosixPath(uri) for uri in uris]
    taken = Counter([file.stem for file in files] + [file.name for file in files])
    return {file.stem if taken[file.stem] == 1 else file.name: uri for file, uri in zip(files, uris, strict=True)}


def _refuse_repeated(what: str, values: Sequence[object]) -> None:
    repeated = [value for value, count in Counter(values).items() if count > 1]
    if repeated:
        raise ConfigError(f"{what} {shorten(repeated[0])}: must appear only once")


def _read_csv(text: str, source: str) -> Iterator[Line]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        faults = explain_columns(names)
        if faults:
            raise ConfigError(list_faults(source, [f"line 1: {fault}" for fault in faults]))
        last = reader.line_num
        for cells in reader:
            if cells:
                yield last + 1, _pair(names, cells)
            last = reader.line_num
    except csv.Error as error:
        raise ConfigError(f"{source}: line {reader.line_num}: must be CSV ({error})") from error


def _pair(names: list[str], cells: list[str]) -> dict[str, object] | str:
    if len(cells) != len(names):
        return f"must have {len(names)} cells, as line 1 has; it has {len(cells)}"
    return {name: cell for name, cell in zip(names, cells, strict=True) if cell.strip()}


def _read_jsonl(text: str, source: str) -> Iterator[Line]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, _read_object(line)


def _read_object(line: str) -> dict[str, object] | str:
    try:
        cells = read_json(line)
    except (ValueError, RecursionError) as error:
        return f"must be a JSON object ({error})"
    if not isinstance(cells, dict):
        return f"must be a JSON object, not {shorten(cells)}"
    return "; ".join(explain_columns(cells)) or cells


def _read_row(cells: dict[str, object]) -> tuple[dict[str, object], list[str]]:
    row, faults = {}, []
    for name, cell in cells.items():
        try:
            row[name] = read_cell(cell, MANIFEST_SCHEMA.field(name).type)
        except ValueError as rule:
            faults.append(f"{name}={shorten(cell)}: {rule}")
    return row, faults


def _locate(row: dict[str, object], folder: str) -> dict[str, object]:
    def locate(named: object) -> object:
        if isinstance(named, list):
            return [locate(uri) for uri in named]
        return resolve(named, folder) if isinstance(named, str) and named.strip() else named

    return row | {name: locate(row[name]) for name in PHOTO_COLUMNS if name in row}


def list_faults(source: str, faults: list[str]) -> str:
    shown = faults[:MAX_FAULTS_SHOWN]
    more = [f"... and {len(faults) - len(shown)} more"] if len(faults) > len(shown) else []
    return "\n  ".join([f"{source}: {len(faults)} fault(s)", *shown, *more])
