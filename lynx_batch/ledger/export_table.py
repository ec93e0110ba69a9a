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
WHERE_IT_IS = ("file", "link", "link_ends_at")

Cell = str | int | float | bool | datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportTable:
    """Columns in order, and for each line its cells. Columns that no line fills are left out."""

    columns: Sequence[str]
    lines: Sequence[Mapping[str, Cell]]


def make_table(
    lines: Iterable[ManifestLine],
    names: Iterable[str | None],
    naming: NamedClips,
    links: Mapping[str, SignedLink | str],
) -> ExportTable:
    """The table of these lines.

    Args:
        lines: The rows.
        names: The name of each line's clip, if it is exported.
        naming: Why other clips are not.
        links: The link of each name.
    """
    made = [_line(line, name, naming, links) for line, name in zip(lines, names, strict=True)]
    used = dict.fromkeys(column for line in made for column, cell in line.items() if cell is not None)
    tags = sorted(column for column in used if column.startswith(TAG_PREFIX))
    fixed = {*RESULTS, *SCORE_COLUMNS, *WHERE_IT_IS, *tags}
    is_one_manifest = len({line["manifest"] for line in made}) < 2
    given = [column for column in used if column not in fixed and not (is_one_manifest and column == "manifest")]
    results = [column for column in (*RESULTS, *SCORE_COLUMNS, *WHERE_IT_IS) if column in used]
    return ExportTable(columns=[*given, *tags, *results], lines=made)


def _line(
    line: ManifestLine, name: str | None, naming: NamedClips, links: Mapping[str, SignedLink | str]
) -> dict[str, Cell]:
    row = line.row
    cells: dict[str, Any] = {"manifest": line.source, "row": row["row"]}
    cells |= {column: cell for column, cell in line.given.items() if column not in ("row", "tags")}
    cells |= {f"{TAG_PREFIX}{key}": tag for key, tag in line.given.get("tags") or ()}
    cells |= {column: row[column] for column in (*RESULTS, *SCORE_COLUMNS) if column in row}
    cells |= {"seed_used": row["seed"], "reason": _reason(row, name, naming), "file": name}
    link = links.get(name or "")
    if isinstance(link, SignedLink):
        return cells | {"link": link.url, "link_ends_at": link.ends_at}
    return cells | {"link": link}


def _reason(row: Mapping[str, Any], name: str | None, naming: NamedClips) -> str | None:
    """Why the line has no clip; None if it has one."""
    if name is not None:
        return None
    if row["clip_id"] in naming.withheld:
        return f"withheld: {naming.withheld[row['clip_id']]}"
    if row["outcome"] is None:
        return "no run has ended this row yet"
    if row["outcome"] == Outcome.RENDERED:
        return "its clip is not in force any more, or a newer clip has its name"
    return ": ".join(filter(None, (row["error_type"], row["error"]))) or None
