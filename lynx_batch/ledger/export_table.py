"""The table of an export: a line for each row of a manifest, with the user's columns, what became of it, and a link to its clip."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lynx_batch.ledger.export import NamedClips
from lynx_batch.ledger.manifest_lines import ManifestLine
from lynx_batch.ledger.metadata import SCORE_COLUMNS, Outcome
from lynx_batch.storage import SignedLink

TAG_PREFIX = "tags."
RESULTS = ("outcome", "reason", "clip_id", "edition", "rendered_by_run", "committed_at", "seed_used", "num_bytes")
FILE, LINK = "file", ("link", "link_ends_at")

ALWAYS = (*RESULTS, FILE, LINK[0])
"""The columns that every table has. Others are left out if no line fills them."""

Cell = str | int | float | bool | datetime | list[str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportTable:
    """Columns in order, and for each line its cells."""

    columns: Sequence[str]
    lines: Sequence[Mapping[str, Cell]]


def make_table(
    lines: Iterable[ManifestLine],
    names: Iterable[str | None],
    naming: NamedClips,
    links: Mapping[str, SignedLink | str],
    left_out: Mapping[str, str],
    *,
    are_copied: bool = True,
) -> ExportTable:
    """The table of these lines.

    Args:
        lines: The rows.
        names: The name of each line's clip, if it has one.
        naming: Why other clips have none.
        links: The link of each name that was exported.
        left_out: Why other names were not.
        are_copied: Whether the names are those of files.
    """
    made = [_line(line, name, naming, links, left_out) for line, name in zip(lines, names, strict=True)]
    if not are_copied:
        made = [line | {FILE: None} for line in made]
    used = dict.fromkeys(column for line in made for column, cell in line.items() if cell is not None)
    own = [*RESULTS, *SCORE_COLUMNS, FILE, *LINK]
    given = [column for column in used if column not in own and not column.startswith(TAG_PREFIX)]
    if len({line["manifest"] for line in made}) < 2:
        given = [column for column in given if column != "manifest"]
    tags = sorted(column for column in used if column.startswith(TAG_PREFIX))
    results = [column for column in own if column in used or column in ALWAYS]
    return ExportTable(columns=[*given, *tags, *results], lines=made)


def _line(
    line: ManifestLine,
    name: str | None,
    naming: NamedClips,
    links: Mapping[str, SignedLink | str],
    left_out: Mapping[str, str],
) -> dict[str, Cell]:
    row = line.row
    cells: dict[str, Any] = {"manifest": line.source, "row": row["row"]}
    cells |= {column: cell for column, cell in line.given.items() if column not in ("row", "tags")}
    cells |= {f"{TAG_PREFIX}{key}": tag for key, tag in line.given.get("tags") or ()}
    cells |= {column: row[column] for column in (*RESULTS, *SCORE_COLUMNS) if column in row}
    cells["seed_used"] = row["seed"]
    if name is None or name in left_out:
        return cells | {"reason": left_out[name] if name is not None else _explain_nameless(row, naming)}
    link = links.get(name)
    if isinstance(link, SignedLink):
        return cells | dict(zip((FILE, *LINK), (name, link.url, link.ends_at), strict=True))
    return cells | dict(zip((FILE, *LINK), (name, link, None), strict=True))


def _explain_nameless(row: Mapping[str, Any], naming: NamedClips) -> str:
    """Why a row has no clip to export."""
    if row["clip_id"] in naming.withheld:
        return f"withheld: {naming.withheld[row['clip_id']]}"
    if row["outcome"] is None:
        return "no run has ended this row yet"
    if row["outcome"] == Outcome.RENDERED:
        return "its clip is not in force any more, or a newer clip has its name"
    return ": ".join(filter(None, (row["error_type"], row["error"])))
