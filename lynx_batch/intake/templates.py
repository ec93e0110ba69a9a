"""Templates of prompts: `A person waves in {{city|Berlin}}.` becomes a prompt by the values of a row. Values are never read as templates.

A field is a name of a column, `{{first_name}}`; `!` means that its value is required, `|text` gives a default, and `:40` limits its
length. Without a value, a field that has neither `!` nor a default stays empty.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from lynx_batch.errors import ConfigError
from lynx_batch.intake.headers import name_column
from lynx_batch.intake.problems import join_equal_faults, list_faults, shorten
from lynx_batch.intake.tables import ReadOptions, is_table, read_source, refuse_sheet
from lynx_batch.intake.text_files import read_text, split_lines
from lynx_batch.redaction import redact
from lynx_batch.spelling import nearest

MAX_VALUE_LENGTH = 100
"""The longest value of a field without a limit of its own, in characters: enough for a name or a place."""

FIELD = re.compile(
    r"\{\{\s*(?P<name>[^{}|!:]+?)\s*(?::\s*(?P<most>[0-9]{1,4})\s*)?(?P<required>!)?\s*(?:\|(?P<default>[^{}]*))?\}\}"
)
SINGLE_BRACES = re.compile(r"\{([^{}]+)\}")
NAME, PROMPT = "name", "prompt"
"""Columns of a table of templates; each other column has the templates of one language."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A place in a template. `default` is None if there is none."""

    name: str
    most: int = MAX_VALUE_LENGTH
    is_required: bool = False
    default: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A text with fields. `parts` has its plain texts and its fields in turn, and begins and ends with a text."""

    text: str
    parts: tuple[str | Field, ...]

    @property
    def fields(self) -> list[Field]:
        return [part for part in self.parts if isinstance(part, Field)]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptTemplate:
    """A prompt for every person. `name` is how clips are named after it; `texts` has a template for each language, "" for all others."""

    name: str
    texts: Mapping[str, Template]

    def choose(self, language: str) -> Template | None:
        return self.texts.get(language) or self.texts.get("")


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """A prompt that was made from a template, the rules that its values broke, and the names of fields that stayed empty."""

    prompt: str
    faults: tuple[str, ...]
    empty: tuple[str, ...]


def parse_template(text: str) -> Template:
    """Raises ValueError with the part that is no field."""
    parts: list[str | Field] = []
    end = 0
    for match in FIELD.finditer(text):
        parts += [text[end : match.start()], _field(match)]
        end = match.end()
    parts.append(text[end:])
    for part in parts:
        if isinstance(part, str) and ("{{" in part or "}}" in part):
            raise ValueError(
                f"{shorten(part.strip())}: double braces must hold a field such as {{{{city}}}}, {{{{city|Berlin}}}}, "
                "{{city!}} or {{city:40}}"
            )
    return Template(text=text, parts=tuple(parts))


def _field(match: re.Match[str]) -> Field:
    default, is_required = match["default"], match["required"] is not None
    if default is not None and is_required:
        raise ValueError(f"{match[0]}: must not be required and have a default")
    return Field(
        name=name_column(match["name"]),
        most=int(match["most"]) if match["most"] else MAX_VALUE_LENGTH,
        is_required=is_required,
        default=None if default is None else default.strip(),
    )


def fill(template: Template, values: Mapping[str, str]) -> Filled:
    """The prompt of one row. Line breaks and runs of spaces in values become single spaces."""
    texts, faults, empty = [], [], []
    for part in template.parts:
        if isinstance(part, str):
            texts.append(part)
            continue
        value = " ".join(values.get(part.name, "").split()) or part.default or ""
        texts.append(value)
        if len(value) > part.most:
            faults.append(
                f"{part.name}={shorten(value)}: must have at most {part.most} characters, not {len(value)}; a template may allow "
                f"more: {{{{{part.name}:{len(value)}}}}}"
            )
        elif not value and part.is_required:
            faults.append(f"{part.name}: must not be empty, because a template requires it")
        elif not value and part.default is None:
            empty.append(part.name)
    prompt = "".join(texts) if not empty else " ".join("".join(texts).split())
    return Filled(prompt=prompt.strip(), faults=tuple(faults), empty=tuple(empty))


def read_templates(uri: str, encoding: str | None = None, sheet: str | None = None) -> list[PromptTemplate]:
    """The templates in a file: one a line, or a table with a column `prompt`, or one for each language, and perhaps `name`.

    Raises:
        ConfigError: If there is none, one is repeated, or one is malformed; the message names every fault and its line.
    """
    options = ReadOptions(encoding=encoding, sheet=sheet, sheet_option="--prompts-sheet")
    found = _read_table(uri, options) if is_table(uri) else _read_lines(uri, options)
    if not found:
        raise ConfigError(f"{redact(uri)}: prompts: there must be at least one")
    return found


def make_templates(prompts: Sequence[str]) -> list[PromptTemplate]:
    """Templates that are named by their number. Raises ConfigError if one is malformed or repeated."""
    return _name(enumerate(prompts, start=1), "prompts")


def refuse_unknown_fields(templates: Iterable[PromptTemplate], columns: Set[str]) -> None:
    """Raises ConfigError if a template names a column that the people's table does not have, or has it in single braces."""
    named = [(f"prompt {template.name}", each) for template in templates for each in template.texts.values()]
    found = [(where, rule) for where, each in named for rule in _explain_fields(each, columns)]
    if found:
        raise ConfigError(list_faults("prompts", join_equal_faults(dict.fromkeys(found))))


def _explain_fields(template: Template, columns: Set[str]) -> Iterator[str]:
    for name in dict.fromkeys(field.name for field in template.fields):
        if name not in columns:
            yield f"{{{{{name}}}}}: must be a column; {_nearest(name, columns)}"
    plain = "\0".join(part for part in template.parts if isinstance(part, str))
    for name in SINGLE_BRACES.findall(plain):
        if name_column(name) in columns:
            yield f"{{{name}}}: must have double braces, as in {{{{{name}}}}}"


def _nearest(name: str, columns: Set[str]) -> str:
    return f"the nearest is {nearest(name, sorted(columns))!r}" if columns else "there are none"


def _read_lines(uri: str, options: ReadOptions) -> list[PromptTemplate]:
    refuse_sheet(uri, options)
    lines = enumerate(map(str.strip, split_lines(read_text(uri, options.encoding).content)), start=1)
    return _name(((number, line) for number, line in lines if line), redact(uri))


def _name(lines: Iterable[tuple[int, str]], source: str) -> list[PromptTemplate]:
    """A template for each line, named p01, p02 and so on."""
    found: dict[str, PromptTemplate] = {}
    faults = []
    for number, text in lines:
        if text in found:
            faults.append(f"line {number}: prompt {shorten(text)}: must appear only once")
            continue
        try:
            found[text] = PromptTemplate(name=f"p{len(found) + 1:02}", texts={"": parse_template(text)})
        except ValueError as rule:
            faults.append(f"line {number}: {rule}")
    if faults:
        raise ConfigError(list_faults(source, faults))
    return [*found.values()]


def _read_table(uri: str, options: ReadOptions) -> list[PromptTemplate]:
    table = read_source(uri, options)
    faults = [*table.faults]
    found: dict[str, PromptTemplate] = {}
    for number, row in enumerate(table.rows, start=1):
        name = str(row.cells.get(NAME, f"p{number:02}")).strip()
        texts, rules = _parse_languages({column: cell for column, cell in row.cells.items() if column != NAME})
        if name in found:
            rules.append(f"name={shorten(name)}: must appear only once")
        if not texts and not rules:
            rules.append("must have a prompt")
        faults += [f"line {row.line}: {rule}" for rule in rules]
        found[name] = PromptTemplate(name=name, texts=texts)
    if faults:
        raise ConfigError(list_faults(table.source, faults))
    return [*found.values()]


def _parse_languages(cells: Mapping[str, object]) -> tuple[dict[str, Template], list[str]]:
    texts, faults = {}, []
    for column, cell in cells.items():
        try:
            texts["" if column == PROMPT else column] = parse_template(str(cell).strip())
        except ValueError as rule:
            faults.append(f"{column}: {rule}")
    return texts, faults


def languages_of(templates: Iterable[PromptTemplate]) -> set[str]:
    """The languages that templates have a text of their own for."""
    return {language for template in templates for language in template.texts if language}
