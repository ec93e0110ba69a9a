"""The readable name of a clip in an export: a template, filled from the columns of a row."""

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from string import Formatter

from lynx_batch.clip import as_file_name, explain_file_name, file_key
from lynx_batch.columns import column_of, tag_key
from lynx_batch.errors import ConfigError
from lynx_batch.ledger.metadata import FILTER_COLUMNS
from lynx_batch.ledger.requested import Row
from lynx_batch.spelling import nearest

NAMES = [name for name in FILTER_COLUMNS if name != "tags"]
"""The columns that a name may have, besides single tags."""

DEFAULT_NAME = "{subject_id}/{clip_name}.mp4"

STAND_INS = {"subject_id": ("subject_uri", "subject_uris"), "clip_name": ("prompt",)}
"""Where one of these columns is null, a readable name is made from the first other column that is not."""

MAX_WORDS_LENGTH = 40
CLIP_ID_SHOWN = 8
"""How much of the prompt and of the ClipId stands for a missing name."""

MAX_PART_BYTES = 255
"""Longer names of files and folders are errors on most disks. Source: NAME_MAX in Linux's `limits.h`."""

SHOWN_OF_LONG = 20

RESERVED = frozenset({"export.json", "clips.csv", "clips.xlsx", "clips.parquet"})
"""What an export writes beside the clips: its list, and a table of each kind."""

TOO_WIDE = re.compile(r"[0-9]{4}")
"""A width or precision that is too large for a file name, and perhaps for memory."""


class _Tags:
    """A row's tags for `{tags.city}` and `{tags[any key]}`."""

    def __init__(self, tags: Iterable[tuple[str, str]]) -> None:
        self._tags = dict(tags)

    def __getitem__(self, key: str | int) -> str:
        """Raises ValueError with the broken rule if the row lacks the tag. A key of digits arrives as a number."""
        if str(key) not in self._tags:
            raise ValueError(f"tags.{key} must not be null")
        return self._tags[str(key)]

    def __getattr__(self, key: str) -> str:
        return self[key]


def columns_of(template: str) -> list[str]:
    """The columns that a template names; `tags` for each tag."""
    fields = _fields_of(template)
    for name, spec in fields:
        if name not in NAMES and tag_key(name) is None:
            raise ConfigError(
                f"--name {template!r}: {name!r} must be a column of the metadata (the nearest is "
                f"{nearest(name, NAMES)!r}) or tags.KEY: {', '.join(NAMES)}"
            )
        if spec and "{" in spec:
            raise ConfigError(f"--name {template!r}: the format of {name!r} must not contain braces")
        if spec and TOO_WIDE.search(spec):
            raise ConfigError(f"--name {template!r}: the format of {name!r} must not contain a number above 999")
    return [column_of(name) for name, _ in fields]


def refuse_unknown_tags(template: str, rows: Iterable[Row]) -> None:
    """Raises ConfigError if the template names a tag that none of the rows has. A tag that some rows lack is their own problem."""
    keys = [key for name, _ in _fields_of(template) if (key := tag_key(name)) is not None]
    if not keys:
        return
    tags = [dict(row["tags"] or ()) for row in rows]
    known = sorted({key for each in tags for key in each})
    for key in keys if tags else ():
        if key not in known:
            near = f"the nearest is {nearest(key, known)!r}" if known else "none has any tag"
            raise ConfigError(f"--name {template!r}: no row has the tag {key!r}; {near}")


def _fields_of(template: str) -> list[tuple[str, str | None]]:
    """The name and the format of each field in braces."""
    try:
        return [(name, spec) for _, name, spec, _ in Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ConfigError(f"--name {template!r}: {error}") from None


def name_row(row: Row, template: str, columns: Iterable[str]) -> str:
    """The name of one row. Raises ValueError with the broken rule: a name must stay below the destination on every store."""
    if "subject_id" in columns:
        row = row | {"subject_id": _as_folders(row["subject_id"])}
    row = row | {column: _stand_in(row, column) for column in columns if _is_missing(row[column])}
    for column in columns:
        if row[column] is None:
            raise ValueError(f"{column} must not be null")
    name = template.format_map(row | ({"tags": _Tags(row["tags"])} if "tags" in columns else {}))
    if rule := explain_file_name(name) or _explain_parts(name.split("/")):
        raise ValueError(f"{name!r} {rule}")
    return name


def _as_folders(subject_id: str | None) -> str:
    """A person's name as folders below the destination. Any text may name a person, so what no folder may be is left out or replaced."""
    parts = as_file_name(subject_id or "").split("/")
    return "/".join(part for part in parts if part.strip() not in ("", ".", ".."))


def _is_missing(cell: object) -> bool:
    return cell is None or (isinstance(cell, str) and not cell.strip())


def _explain_parts(parts: Sequence[str]) -> str | None:
    """The rule that the parts of a path below the destination break; None if they break none."""
    if long := next((part for part in parts if len(part.encode()) > MAX_PART_BYTES), None):
        return f"must have at most {MAX_PART_BYTES} bytes between slashes, but {long[:SHOWN_OF_LONG]!r}... has {len(long.encode())}"
    if file_key(parts[0]) in RESERVED:
        return f"must not begin with {parts[0]!r}, which `export` itself writes"
    return None


def _stand_in(row: Row, column: str) -> str | None:
    """For the person: the photo's file name. For the clip: the beginnings of its prompt and of its ClipId. None for any other column."""
    source = next(filter(None, map(row.get, STAND_INS.get(column, ()))), None)
    if source is None:
        return None
    if column == "subject_id":
        return as_file_name(PurePosixPath(source if isinstance(source, str) else source[0]).stem) or None
    return "-".join(filter(None, (_first_words(source), (row["clip_id"] or "")[:CLIP_ID_SHOWN]))) or None


def _first_words(text: str) -> str:
    """As many whole words as fit, with hyphens between; of a long first word, its beginning."""
    joined = "-".join(re.findall(r"\w+", text.lower()))
    if len(joined) <= MAX_WORDS_LENGTH:
        return joined
    return joined[: MAX_WORDS_LENGTH + 1].rpartition("-")[0] or joined[:MAX_WORDS_LENGTH]
