"""Reads a table of people: a `.csv`, `.tsv`, `.xlsx` or `.jsonl` file as it comes from other programs, with its own line numbers."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, repeat
from pathlib import PurePosixPath

from lynx_batch.errors import ConfigError
from lynx_batch.intake.csv_text import SEPARATORS, find_separator, read_lines
from lynx_batch.intake.headers import rename
from lynx_batch.intake.problems import shorten
from lynx_batch.intake.tags import read_json
from lynx_batch.intake.text_files import TEXT_LIMIT, read_text, split_lines
from lynx_batch.intake.titles import refuse_title
from lynx_batch.intake.workbook import MAX_COLUMNS, BadCell, read_sheet
from lynx_batch.printable import counted
from lynx_batch.storage import read_bytes, redact

Line = tuple[int, Sequence[str | BadCell]]
"""The number of a line, from 1, and its cells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRow:
    """A line of a table: its number in the file, and those of its cells that are not empty, by their columns."""

    line: int
    cells: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFault:
    """A rule that a line breaks, by its cell in a column; the column's name may be empty, and is None if the line as a whole breaks it."""

    line: int
    rule: str
    column: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTable:
    """The rows of a file below its line of names.

    `source` names the file in messages, `folder` is the one that holds it. `columns` has the line in which each normalised name stands
    first, and `line_of_names` that of all names; 0 if each line has its own. `broken` are cells and lines that could not be read, and `notes`
    say what was detected or left out. Where commas do not separate cells, numbers may have them.
    """

    source: str
    folder: str
    columns: Mapping[str, int]
    line_of_names: int
    rows: tuple[SourceRow, ...]
    broken: tuple[SourceFault, ...] = ()
    notes: tuple[str, ...] = ()
    has_decimal_commas: bool = False

    @property
    def faults(self) -> tuple[str, ...]:
        return self.faults_without(())

    def faults_without(self, left_out: Collection[str]) -> tuple[str, ...]:
        """All faults but those of cells in columns that are left out."""
        return tuple(f"line {each.line}: {each.rule}" for each in self.broken if each.column not in left_out)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How a table is read: which sheet of a workbook, which encoding of a text (None is detected), and new names of columns.

    `sheet_option` is the option by which the user names the sheet.
    """

    sheet: str | None = None
    sheet_option: str = "--sheet"
    encoding: str | None = None
    renamed: Mapping[str, str] = field(default_factory=dict)


NO_OPTIONS = ReadOptions()

OTHER_PROGRAMS = {
    **dict.fromkeys((".xls", ".xlsb"), "open it in Excel, and save it as .xlsx"),
    **dict.fromkeys((".ods", ".fods"), "open it in LibreOffice, and save it as .xlsx"),
    ".numbers": "open it in Numbers, and export it to Excel (.xlsx)",
    ".gsheet": "open it in Google Sheets, and download it as .xlsx",
}
"""How a table of another program becomes one that can be read."""


def read_source(uri: str, options: ReadOptions = NO_OPTIONS) -> SourceTable:
    """The table in a file. Its first line that is not blank has the names of the columns.

    Raises:
        ConfigError: If it is not a table, or `options` do not fit it.
    """
    address = uri.partition("?")[0] if "://" in uri else uri
    suffix = PurePosixPath(address).suffix.lower()
    if suffix not in READERS:
        advice = f": {OTHER_PROGRAMS[suffix]}" if suffix in OTHER_PROGRAMS else ""
        raise ConfigError(f"{redact(uri)}: must be a {', '.join(READERS)} file{advice}")
    if suffix not in WORKBOOKS:
        refuse_sheet(uri, options)
    return READERS[suffix](uri, address.rpartition("/")[0] or ".", options)


def refuse_sheet(uri: str, options: ReadOptions) -> None:
    """Raises ConfigError if a sheet is named of a file that has none."""
    if options.sheet is not None:
        raise ConfigError(f"{options.sheet_option} {options.sheet!r}: {redact(uri)} has no sheets")


def is_table(uri: str) -> bool:
    """Whether the name of a file says that it is a table, and not a list of lines."""
    return PurePosixPath(uri.partition("?")[0] if "://" in uri else uri).suffix.lower() in READERS


def _read_csv(uri: str, folder: str, options: ReadOptions) -> SourceTable:
    text, source = read_text(uri, options.encoding), redact(uri)
    separator, body = find_separator(text.content)
    lines = read_lines(body, separator, source, first_line=1 if body is text.content else 2)
    named = SEPARATORS.get(separator, repr(separator))
    note = f"read as {text.encoding}, separated by {named}"
    table = _arrange(lines, source, folder, options, notes=[note], are_complete=True)
    return replace(table, has_decimal_commas=separator != ",")


def _read_workbook(uri: str, folder: str, options: ReadOptions) -> SourceTable:
    source = redact(uri)
    sheet, lines = read_sheet(read_bytes(uri, TEXT_LIMIT), options.sheet, source, options.sheet_option)
    return _arrange(lines, f"{source}, sheet {sheet!r}", folder, options, notes=[], are_complete=False)


def _arrange(
    lines: Iterable[Line], source: str, folder: str, options: ReadOptions, *, notes: list[str], are_complete: bool
) -> SourceTable:
    """Gives the cells of each line their columns, and leaves out blank lines. Lines that `are_complete` have a cell for each column."""
    filled, num_blank = list[Line](), 0
    for line in lines:
        if _is_filled(line[1]):
            filled.append(line)
        else:
            num_blank += 1
    if num_blank:
        notes = [*notes, f"{counted(num_blank, 'blank line')} skipped"]
    refuse_title(filled, source, options.renamed)
    (first, names), rows = filled[0] if filled else (1, []), filled[1:]
    columns = rename(_read_names(names, f"{source}: line {first}"), options.renamed)
    width = len(columns) if are_complete else MAX_COLUMNS
    while columns and not columns[-1]:
        columns.pop()
    _refuse_repeated(columns, f"{source}: line {first}")
    found, broken = [], list[SourceFault]()
    for number, cells in rows:
        row, faults = _pair(columns, cells[:width], number, first)
        expected = len(columns) if len(cells) < width else width
        if are_complete and (len(cells) < len(columns) or _is_filled(cells[width:])):
            rule = f"must have {expected} cells, as line {first} has; it has {len(cells)}"
            faults = [SourceFault(line=number, rule=rule)]
        found.append(SourceRow(line=number, cells=row))
        broken += faults
    return SourceTable(
        source=source,
        folder=folder,
        columns=dict.fromkeys(filter(None, columns), first),
        line_of_names=first,
        rows=tuple(found),
        broken=tuple(broken),
        notes=tuple(notes),
    )


def _read_names(cells: Sequence[str | BadCell], where: str) -> list[str]:
    bad = [cell for cell in cells if isinstance(cell, BadCell)]
    if bad:
        raise ConfigError(f"{where}: name of a column: {bad[0].rule}")
    return [cell for cell in cells if not isinstance(cell, BadCell)]


def _is_filled(cells: Iterable[str | BadCell]) -> bool:
    return any(isinstance(cell, BadCell) or cell.strip() for cell in cells)


def _pair(
    columns: Sequence[str], cells: Sequence[str | BadCell], line: int, first: int
) -> tuple[dict[str, object], list[SourceFault]]:
    """The cells of a line by their columns, and the faults of the others. Cells beyond the last column belong to one without a name."""
    row: dict[str, object] = {}
    faults = []
    for name, cell in zip(chain(columns, repeat("")), cells, strict=False):
        if isinstance(cell, BadCell):
            rule = f"{name or 'a column without a name'}: {cell.rule}"
            faults.append(SourceFault(line=line, rule=rule, column=name))
        elif cell.strip() and name:
            row[name] = cell
        elif cell.strip():
            rule = f"{shorten(cell)}: its column must have a name in line {first}"
            faults.append(SourceFault(line=line, rule=rule, column=name))
    return row, faults


def _read_jsonl(uri: str, folder: str, options: ReadOptions) -> SourceTable:
    rows, broken, source = [], [], redact(uri)
    first_lines: dict[str, int] = {}
    for number, line in _json_lines(read_text(uri, options.encoding).content):
        try:
            cells = _read_object(line)
        except ValueError as rule:
            broken.append(SourceFault(line=number, rule=str(rule)))
            continue
        first_lines = dict.fromkeys(cells, number) | first_lines
        rows.append((number, cells))
    columns = dict(zip(first_lines, rename(first_lines, options.renamed), strict=True))
    _refuse_repeated([*columns.values()], source)
    return SourceTable(
        source=source,
        folder=folder,
        columns={columns[name]: line for name, line in first_lines.items()},
        line_of_names=0,
        rows=tuple(
            SourceRow(line=number, cells={columns[name]: cell for name, cell in cells.items() if cell is not None})
            for number, cells in rows
        ),
        broken=tuple(broken),
    )


def _json_lines(text: str) -> Iterator[tuple[int, str]]:
    return ((number, line) for number, line in enumerate(split_lines(text), start=1) if line.strip())


def _read_object(line: str) -> dict[str, object]:
    """Raises ValueError with the rule if the line is not a JSON object."""
    try:
        cells = read_json(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"must be a JSON object ({error})") from None
    if not isinstance(cells, dict):
        raise ValueError(f"must be a JSON object, not {shorten(cells)}")  # noqa: TRY004
    return cells


def _refuse_repeated(columns: Sequence[str], where: str) -> None:
    if repeated := sorted({name for name in columns if name and columns.count(name) > 1}):
        raise ConfigError("\n  ".join([f"{where}:", *(f"column {name!r}: must appear once" for name in repeated)]))


WORKBOOKS = (".xlsx", ".xlsm")
READERS: Mapping[str, Callable[[str, str, ReadOptions], SourceTable]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    **dict.fromkeys(WORKBOOKS, _read_workbook),
    ".jsonl": _read_jsonl,
}
