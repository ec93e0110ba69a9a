"""Builds a manifest: people, times prompts, times the combinations of a grid."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import structlog

from lynx_batch.errors import ConfigError
from lynx_batch.intake.check import explain_cells
from lynx_batch.intake.grid import Axis, Choice, columns_of, combine
from lynx_batch.intake.people import NO_USE, ColumnUse, Person, faults_of_used, people_of_photos, people_of_table
from lynx_batch.intake.photo_folder import find_people, find_photos
from lynx_batch.intake.problems import join_equal_faults, list_faults, shorten
from lynx_batch.intake.schema import MANIFEST_SCHEMA, PHOTO_COLUMNS
from lynx_batch.intake.tables import SourceTable
from lynx_batch.intake.templates import PromptTemplate, Template, fill, languages_of
from lynx_batch.redaction import redact
from lynx_batch.storage import explained
from lynx_batch.store_errors import Operation

log = structlog.get_logger()

MAX_BUILT_ROWS = 2_000_000


def build_from_folder(
    photos: str,
    prompts: Sequence[PromptTemplate],
    axes: Sequence[Axis] = (),
    *,
    consent_ref: str | None = None,
    is_recursive: bool = False,
    has_person_folders: bool = False,
) -> pa.Table:
    """A row for each combination of a photo in the folder, a prompt, and the grid's values. Without seeds, they are derived later.

    `subject_id` is the name of the photo's file. `clip_name` looks like `eileen-collins-p01-s42`. With `has_person_folders`, each
    sub-folder takes the place of a photo: all photos in it show the person after whom it is named.

    Raises:
        ConfigError: If there is no photo, or a template breaks a rule.
    """
    found = find_people(photos) if has_person_folders else find_photos(photos, is_recursive=is_recursive)
    return _build("prompts", people_of_photos(found, prompts, consent_ref=consent_ref), prompts, axes)


def build_from_table(
    table: SourceTable,
    prompts: Sequence[PromptTemplate] | None = None,
    axes: Sequence[Axis] = (),
    *,
    use: ColumnUse = NO_USE,
    photos: str | None = None,
    consent_ref: str | None = None,
) -> pa.Table:
    """The lines of a table, times prompts if there are some, times the grid's values.

    `prompts` None takes the table's column `prompt`. Relative photo paths start at the folder `photos`; None is the table's.

    Raises:
        ConfigError: If a column or cell breaks a rule, or a value does not fit a template; the message names line, column, value and
            rule of every fault.
    """
    folder = table.folder if photos is None else photos
    people = people_of_table(table, prompts, columns_of(axes), use, folder=folder, consent_ref=consent_ref)
    return _build(table.source, people, prompts, axes, faults_of_used(table, prompts, use))


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


def _build(
    source: str,
    people: Sequence[Person],
    prompts: Sequence[PromptTemplate] | None,
    axes: Sequence[Axis],
    faults: Sequence[str] = (),
) -> pa.Table:
    choices = [*combine(axes)]
    num_rows = len(people) * len(prompts or (None,)) * len(choices)
    if num_rows > MAX_BUILT_ROWS:
        raise ConfigError(f"{source}: must make at most {MAX_BUILT_ROWS:,} rows, not {num_rows:,}")
    found, empty = [*faults], Counter[str]()
    broken = list[tuple[str, str]]()
    prompted = []
    for person in people:
        own, rules, unfilled = _prompt(person, prompts)
        found += [f"{person.where}: {fault}" for fault in person.faults]
        broken += [(person.where, rule) for rule in dict.fromkeys(rules) if not person.faults]
        empty.update(unfilled)
        prompted += own
    if found := [*found, *join_equal_faults(broken)]:
        raise ConfigError(list_faults(source, found))
    if not people:
        raise ConfigError(f"{source}: must have a row below the names of its columns")
    if others := _other_languages(people, prompts or ()):
        log.warning("language_without_prompts", rows_by_language=dict(others), help="they get the column `prompt`")
    if empty:
        log.warning(
            "empty_values", lines_by_column=dict(empty), help="{{column|text}} gives a default, {{column!}} refuses"
        )
    is_named = prompts is not None or bool(axes)
    rows = [_row(cells, choice, is_named=is_named) for cells, choice in product(prompted, choices)]
    return pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA)


def _prompt(
    person: Person, prompts: Sequence[PromptTemplate] | None
) -> tuple[list[dict[str, Any]], list[str], set[str]]:
    """The person's cells with each prompt, the rules that they break, and the columns of fields that stayed empty."""
    if prompts is None:
        return [dict(person.cells)], _explain(person.cells), set()
    rows, faults, empty = [], _explain({**person.cells, "prompt": "any"}), set[str]()
    for each in prompts:
        template = each.choose(person.language)
        if template is None:
            faults.append(_explain_language(each, person.language))
            continue
        filled = fill(template, person.texts)
        faults += filled.faults
        faults += [] if filled.prompt or filled.faults else [f"prompt {each.name}: must not be empty"]
        empty |= {*filled.empty}
        suffix = "" if len(prompts) == 1 and person.cells.get("clip_name") else f"-{each.name}"
        rows.append({**person.cells, **_prompt_cells(template, filled.prompt, f"{_name_of(person.cells)}{suffix}")})
    return rows, faults, empty


def _other_languages(people: Sequence[Person], prompts: Sequence[PromptTemplate]) -> Counter[str]:
    """How many people have each language that no prompt has a text for, where any prompt has some."""
    known = languages_of(prompts)
    return Counter(person.language for person in people if known and person.language and person.language not in known)


def _prompt_cells(template: Template, prompt: str, clip_name: str) -> dict[str, Any]:
    own = {"prompt": prompt, "clip_name": clip_name}
    return own | ({"prompt_template": template.text} if template.fields else {})


def _explain_language(template: PromptTemplate, language: str) -> str:
    known = ", ".join(template.texts)
    return f"prompt {template.name}: language={shorten(language)}: must be one of {known}; a column `prompt` serves all others"


def _explain(cells: Mapping[str, Any]) -> list[str]:
    """The rules that the cells of a row break on their own."""
    present = {name: cell for name, cell in cells.items() if cell is not None}
    return [
        f"{column}={shorten(value)}: {rule}" if value is not None else f"{column}: {rule}"
        for column, value, rule in explain_cells(present)
    ]


def _row(cells: Mapping[str, Any], choice: Choice, *, is_named: bool) -> dict[str, Any]:
    name = {"clip_name": f"{cells.get('clip_name') or _name_of(cells)}{choice.name}"} if is_named else {}
    return {**cells, **choice.cells, **name}


def _name_of(cells: Mapping[str, Any]) -> str:
    """The name of a person's clips: their own, the last part of the subject's, or the photo's without what signs its link."""
    if own := cells.get("clip_name"):
        return str(own)
    first_photo = cells.get("subject_uri") or next(iter(cells.get("subject_uris") or ()), "")
    subject, photo = cells.get("subject_id"), PurePosixPath(redact(str(first_photo)))
    name = PurePosixPath(redact(str(subject))).name if subject else photo.stem
    return "".join(letter if letter.isprintable() and letter != "\\" else "_" for letter in name)
