"""Rendered clips under names that people can read: made from the metadata alone, so that they can be made again."""

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from string import Formatter
from typing import Any

import pyarrow.compute as pc

from lynx_batch import storage
from lynx_batch.errors import ConfigError
from lynx_batch.ledger.metadata import FILTER_COLUMNS, Outcome, read_metadata

NUM_PARALLEL_COPIES = 32
MAX_PROBLEMS_SHOWN = 20


def name_clips(output: str, template: str) -> dict[str, str]:
    """Which clip every name stands for: {name below the destination: URI of the clip}; the newest run's rows decide, so that a
    clip whose name a newer one has is left out.

    Args:
        output: The output location.
        template: Such as `{subject_id}/{clip_name}.mp4`, with columns of the metadata in braces.

    Raises:
        ConfigError: If the template names no column, or rows have no name of their own; every row and rule is told.
    """
    columns = _columns_of(template)
    wanted = [*dict.fromkeys(["run", "row", "clip_id", "clip_uri", *columns])]
    rows = read_metadata(output, wanted, pc.field("outcome") == Outcome.RENDERED).to_pylist()
    newest: dict[str, str] = {}
    for row in rows:
        newest[row["clip_id"]] = max(row["run"], newest.get(row["clip_id"], ""))
    clip_of: dict[str, dict[str, Any]] = {}
    problems = []
    by_row = sorted(rows, key=lambda row: row["row"])
    for row in sorted(by_row, key=lambda row: row["run"], reverse=True):
        if row["run"] == newest[row["clip_id"]]:
            problems += [
                f"row {row['row']} of run {row['run']}: {rule}" for rule in _place(row, template, columns, clip_of)
            ]
    problems += _explain_folders(clip_of)
    if problems:
        hidden = len(problems) - MAX_PROBLEMS_SHOWN
        more = [f"... and {hidden} more"] if hidden > 0 else []
        raise ConfigError(
            "\n  ".join([f"--name {template!r}: nothing was exported:", *problems[:MAX_PROBLEMS_SHOWN], *more])
        )
    return {name: storage.join(output, row["clip_uri"]) for name, row in clip_of.items()}


def copy_clips(clips: Mapping[str, str], destination: str) -> None:
    """Puts every clip at its name below `destination`, many at once; what lies there already is replaced."""
    with ThreadPoolExecutor(NUM_PARALLEL_COPIES, thread_name_prefix="export") as pool:
        for _ in pool.map(lambda name: storage.copy(clips[name], storage.join(destination, name)), clips):
            pass


def _columns_of(template: str) -> list[str]:
    """The columns that a template names."""
    try:
        fields = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ConfigError(f"--name {template!r}: {error}") from None
    for name in fields:
        if name not in FILTER_COLUMNS:
            raise ConfigError(
                f"--name {template!r}: {name!r} must be a column of the metadata: {', '.join(FILTER_COLUMNS)}"
            )
    return fields


def _place(
    row: dict[str, Any], template: str, columns: Iterable[str], clip_of: dict[str, dict[str, Any]]
) -> Iterator[str]:
    """Gives a row its name in `clip_of`; or tells the rules that it breaks."""
    nulls = [column for column in columns if row[column] is None]
    if nulls:
        yield from (f"{column} must not be null" for column in nulls)
        return
    try:
        name = template.format_map(row)
    except ValueError as error:
        yield str(error)
        return
    if rule := _explain_name(name):
        yield f"{name!r} {rule}"
    elif (first := clip_of.setdefault(name, row))["clip_id"] != row["clip_id"] and first["run"] == row["run"]:
        yield f"{name!r} must not be the name of row {clip_of[name]['row']}, too"


def _explain_name(name: str) -> str | None:
    """The rule that a name breaks, if any: it must stay below the destination on every store."""
    if not name.isprintable() or "\\" in name:
        return "must not hold control characters or backslashes"
    if any(part in ("", ".", "..") for part in name.split("/")):
        return "must be a relative path without empty parts, '.' and '..'"
    return None


def _explain_folders(names: Iterable[str]) -> Iterator[str]:
    files = set(names)
    for name in sorted(files):
        for folder in PurePosixPath(name).parents:
            if str(folder) in files:
                yield f"{str(folder)!r} must not be a clip and the folder of {name!r}"
