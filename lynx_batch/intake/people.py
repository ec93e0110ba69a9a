"""The people of a manifest: one for each photo of a folder, or for each line of a table, with what templates may say of them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from lynx_batch.columns import REAL, TEXT, WHOLE
from lynx_batch.errors import ConfigError
from lynx_batch.intake.cells import read_cell
from lynx_batch.intake.headers import normalise, refuse_unknown
from lynx_batch.intake.problems import list_faults, shorten
from lynx_batch.intake.schema import MANIFEST_SCHEMA, PHOTO_COLUMNS, missing_columns
from lynx_batch.intake.tables import SourceTable
from lynx_batch.intake.templates import PromptTemplate, languages_of, refuse_unknown_fields
from lynx_batch.spelling import nearest
from lynx_batch.storage import resolve

DECIMAL_COMMA = re.compile(r"\s*[+-]?[0-9]+,[0-9]+\s*")
POINT_OR_GROUP = re.compile(r"\s*[+-]?[0-9]{1,3}\.[0-9]{3}\s*")

ALL = "*"
"""In --keep and --ignore: all columns that are neither the manifest's nor used otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnUse:
    """What becomes of a table's own columns: `keep` makes tags of them, `ignore` leaves them out, `language` chooses the template."""

    keep: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    language: str | None = None


NO_USE = ColumnUse()


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """What rows are made from: cells of the manifest, and texts for templates by the names of their columns.

    `where` says where it stands in the input, such as "line 4". `language` is empty if none is given.
    """

    where: str
    cells: Mapping[str, Any]
    texts: Mapping[str, str]
    language: str = ""
    faults: tuple[str, ...] = ()


def people_of_photos(
    photos: Mapping[str, str | list[str]], prompts: Sequence[PromptTemplate], *, consent_ref: str | None
) -> list[Person]:
    """A person for each photo, or list of photos, by their `subject_id`, the one column that templates may name."""
    refuse_unknown_fields(prompts, {"subject_id"})
    _refuse_languages(prompts)
    return [
        Person(
            where=f"subject {subject}",
            cells={
                "subject_uri" if isinstance(named, str) else "subject_uris": named,
                "subject_id": subject,
                "consent_ref": consent_ref,
            },
            texts={"subject_id": subject},
        )
        for subject, named in photos.items()
    ]


def people_of_table(
    table: SourceTable,
    prompts: Sequence[PromptTemplate] | None,
    varied: Sequence[str],
    use: ColumnUse,
    *,
    folder: str,
    consent_ref: str | None,
) -> list[Person]:
    """A person for each line.

    Args:
        table: From `read_source`.
        prompts: None takes the table's column `prompt`.
        varied: The columns that a grid sets.
        use: What becomes of the table's own columns.
        folder: Where relative photo paths start.
        consent_ref: For lines that give none.

    Raises:
        ConfigError: If a column is missing, or unknown and used by nothing; the message also names all cells of a wrong type.
    """
    kept, unfit = _check_columns(table, prompts, varied, use)
    left_out = _left_out(table, prompts, use)
    people = []
    for row in table.rows:
        cells, faults = _read_cells(row.cells, table, use.ignore)
        texts, unreadable = _read_texts({name: cell for name, cell in row.cells.items() if name not in left_out})
        tags = {name: texts[name] for name in kept if name in texts}
        cells |= {"tags": [*(cells.get("tags") or ()), *tags.items()]} if tags else {}
        has_consent = bool((cells.get("consent_ref") or "").strip())
        cells |= {"consent_ref": consent_ref} if consent_ref and not has_consent else {}
        people.append(
            Person(
                where=f"line {row.line}",
                cells={**_locate(cells, folder), "source_line": row.line},
                texts=texts,
                language=normalise(texts.get(use.language, "")) if use.language else "",
                faults=(*dict.fromkeys([*faults, *unreadable]), *_explain_tags(cells, tags)),
            )
        )
    if unfit:
        wrong = [f"{person.where}: {fault}" for person in people for fault in person.faults]
        raise ConfigError(list_faults(table.source, [*unfit, *faults_of_used(table, prompts, use), *wrong]))
    return people


def _check_columns(
    table: SourceTable, prompts: Sequence[PromptTemplate] | None, varied: Sequence[str], use: ColumnUse
) -> tuple[list[str], list[str]]:
    """The columns to keep as tags, and the faults of the others. Raises ConfigError if an option does not fit the table."""
    taken = table.columns.keys() - {*use.ignore}
    for option, names in (
        ("--keep", use.keep),
        ("--ignore", use.ignore),
        ("--language", filter(None, (use.language,))),
    ):
        for name in names:
            if name != ALL:
                refuse_unknown(option, name, table.columns)
    refuse_unknown_fields(prompts or (), table.columns.keys())
    if use.language is None:
        _refuse_languages(prompts or ())
    if twice := [name for name in varied if name in taken]:
        raise ConfigError(
            f"{twice[0]}: must not be both a column of {table.source} and varied; --ignore {twice[0]} leaves the column out"
        )
    if prompts and "prompt" in taken:
        raise ConfigError("column 'prompt': must not be given together with --prompts; --ignore prompt leaves it out")
    unknown = [] if ALL in use.keep + use.ignore else _others(table, prompts, use)
    missing = [name for name in missing_columns(taken) if not (name == "prompt" and prompts)]
    return _kept(table, prompts, use), [
        *(f"line {table.columns[name]}: {_explain_unknown(name)}" for name in unknown),
        *(_explain_missing(name, table) for name in missing),
    ]


def faults_of_used(table: SourceTable, prompts: Sequence[PromptTemplate] | None, use: ColumnUse) -> tuple[str, ...]:
    """The lines and cells of a table that could not be read, without cells of columns that are left out."""
    return table.faults_without(_left_out(table, prompts, use))


def _fields_of(prompts: Sequence[PromptTemplate] | None) -> set[str]:
    return {part.name for each in prompts or () for template in each.texts.values() for part in template.fields}


def _others(table: SourceTable, prompts: Sequence[PromptTemplate] | None, use: ColumnUse) -> list[str]:
    """The columns that are neither the manifest's nor used by their name."""
    used = {*use.keep, *use.ignore, use.language} - {ALL} | _fields_of(prompts)
    return [name for name in table.columns if name not in MANIFEST_SCHEMA.names and name not in used]


def _kept(table: SourceTable, prompts: Sequence[PromptTemplate] | None, use: ColumnUse) -> list[str]:
    others = _others(table, prompts, use) if ALL in use.keep else []
    return [*(name for name in use.keep if name != ALL), *others]


def _left_out(table: SourceTable, prompts: Sequence[PromptTemplate] | None, use: ColumnUse) -> set[str]:
    """The ignored columns that nothing uses. `--ignore '*'` includes those without a name, such as the index that pandas writes."""
    others = {"", *_others(table, prompts, use)} if ALL in use.ignore else set()
    return ({*use.ignore} | others) - {*_kept(table, prompts, use), use.language} - _fields_of(prompts)


def _explain_unknown(name: str) -> str:
    return (
        f"column {name!r}: unknown; the nearest known one is {nearest(name, MANIFEST_SCHEMA.names)!r}; --keep {name} makes a tag "
        f"of it, --ignore {name} leaves it out"
    )


def _explain_missing(name: str, table: SourceTable) -> str:
    where = f"line {table.line_of_names}: " if table.line_of_names else ""
    return f"{where}column {name!r}: required, but missing"


def _refuse_languages(prompts: Sequence[PromptTemplate]) -> None:
    if languages := languages_of(prompts):
        raise ConfigError(
            f"prompts in {', '.join(sorted(languages))}: --language must name the column of --from that says which one a person gets"
        )


def _read_cells(
    cells: Mapping[str, Any], table: SourceTable, ignored: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    """The manifest's cells among those of a line, in the types of their columns, and the faults of the others."""
    row: dict[str, Any] = {}
    faults = []
    for name, cell in cells.items():
        if name not in MANIFEST_SCHEMA.names or name in ignored:
            continue
        kind = MANIFEST_SCHEMA.field(name).type
        try:
            row[name] = read_cell(_with_point(cell, kind) if table.has_decimal_commas else cell, kind)
        except ValueError as rule:
            faults.append(f"{name}={shorten(cell)}: {rule}")
    return row, faults


def _with_point(cell: str, kind: pa.DataType) -> str:
    """A cell of a table whose numbers may have decimal commas. Raises ValueError if its point may group thousands."""
    if kind == WHOLE and POINT_OR_GROUP.fullmatch(cell):
        raise ValueError(
            "must be a whole number without a point, which may group thousands where commas do not separate cells"
        )
    return cell.replace(",", ".") if kind == REAL and DECIMAL_COMMA.fullmatch(cell) else cell


def _read_texts(cells: Mapping[str, object]) -> tuple[dict[str, str], list[str]]:
    """The cells that are text as templates and tags have it, and the faults of the others, such as half an emoji."""
    texts, faults = {}, []
    for name, cell in cells.items():
        text = _as_text(cell)
        try:
            read_cell(text, TEXT)
            texts[name] = text
        except ValueError as rule:
            faults.append(f"{name}={shorten(cell)}: {rule}")
    return texts, faults


def _as_text(cell: object) -> str:
    """A cell of JSON may be a number."""
    return str(cell).lower() if isinstance(cell, bool) else str(cell).strip()


def _explain_tags(cells: Mapping[str, Any], tags: Mapping[str, str]) -> list[str]:
    names = [name for name, _ in cells.get("tags") or ()]
    return [f"tags={name!r}: must not also be a column that --keep names" for name in tags if names.count(name) > 1]


def _locate(row: dict[str, Any], folder: str) -> dict[str, Any]:
    def locate(named: object) -> object:
        if isinstance(named, list):
            return [locate(uri) for uri in named]
        return resolve(named, folder) if isinstance(named, str) and named.strip() else named

    return row | {name: locate(row[name]) for name in PHOTO_COLUMNS if name in row}
