"""Reads a sheet of an Excel workbook (`.xlsx`) as the texts that Excel shows. Formulas have the value that Excel saved with them."""

import datetime as dt
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import islice, repeat, zip_longest
from typing import Any

from lynx_batch.errors import ConfigError

MAX_UNPACKED_BYTES = 512 * 2**20
"""The most that a workbook may hold when unpacked. A sheet of 100,000 rows with 20 columns has about 100 MB."""

MAX_ROWS = 1_048_576
MAX_COLUMNS = 1_000

DAMAGE = (
    *(
        zipfile.BadZipFile,
        zlib.error,
        SyntaxError,  # of XML
        OSError,
        EOFError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
    ),
    *(RuntimeError, OverflowError, NotImplementedError, AssertionError, struct.error),
)
"""Errors that openpyxl and zipfile raised for randomly damaged files in tests."""

COMPOUND_FILE = b"\xd0\xcf\x11\xe0"
"""How .xls files begin, and .xlsx files that a password protects.

Source: [MS-CFB] 2.2 (the signature), [MS-XLS] 2.1.2 (Workbook), [MS-OFFCRYPTO] 2.3.4 (EncryptedPackage).
"""

STREAMS = {
    "EncryptedPackage": "protected by a password: remove the password in Excel, and save it again",
    "Workbook": "an old .xls file: open it in Excel, and save it as .xlsx",
}
"""What a compound file is that has such a stream, and what to do about it."""

FORMULA = re.compile(rb"<(?:\w+:)?f[\s/>]")
MERGED = re.compile(rb'<(?:\w+:)?mergeCell\s[^>]*ref="([^"]{1,40})"')
PIECE_BYTES = 2**20

TOO_LONG = 1e15
"""From here on, a float may stand for several numbers that a person could have typed."""

TEXT_OF_FORMULA = "str"
"""The type of a formula's saved text, which may be empty. Without a saved value, a cell has another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BadCell:
    """A cell that has no value. `rule` says what it must have."""

    rule: str


Lines = Iterator[tuple[int, list[str | BadCell]]]
"""The number of each row in the sheet, and its cells as text. An empty cell is an empty text."""


def read_sheet(content: bytes, sheet: str | None, source: str, option: str = "--sheet") -> tuple[str, Lines]:
    """The name of a sheet, and its lines. Without `sheet`, the only visible sheet that is not empty is read.

    Messages name the `option` that chooses the sheet.

    Raises:
        ConfigError: If it is not a workbook or unpacks to more than `MAX_UNPACKED_BYTES`; if it has no such sheet, or several and none is
            named; or if cells are merged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what openpyxl does not support, such as drop-down lists, is no value
            _refuse_bomb(content, source)
            book = _open(content, has_values=True)
            name = _choose_sheet(book, sheet, source, option)
            has_formulas = _scan(content, book[name], source)
            formulas = _open(content, has_values=False)[name] if has_formulas else None
            return name, iter([*_lines(book[name], formulas, source)])
    except DAMAGE as error:
        kind = _explain_compound(content) if content.startswith(COMPOUND_FILE) else f"damaged ({error})"
        raise ConfigError(f"{source}: must be an .xlsx workbook, but is {kind}") from error


def _explain_compound(content: bytes) -> str:
    """The names of its streams are in UTF-16."""
    found = (advice for stream, advice in STREAMS.items() if stream.encode("utf-16-le") in content)
    unknown = "an old .xls file or protected by a password: save it as .xlsx without a password"
    return next(found, unknown)


def _refuse_bomb(content: bytes, source: str) -> None:
    """Zipfile never unpacks more of an entry than its header says."""
    with zipfile.ZipFile(BytesIO(content)) as archive:
        num_bytes = sum(entry.file_size for entry in archive.infolist())
    if num_bytes > MAX_UNPACKED_BYTES:
        raise ConfigError(f"{source}: must unpack to at most {MAX_UNPACKED_BYTES:,} bytes, not {num_bytes:,}")


def _open(content: bytes, *, has_values: bool) -> Any:
    from openpyxl import load_workbook

    return load_workbook(BytesIO(content), read_only=True, data_only=has_values, keep_links=False)


def _choose_sheet(book: Any, wanted: str | None, source: str, option: str) -> str:
    sheets = {sheet.title: sheet for sheet in book.worksheets}
    shown = ", ".join(map(repr, sheets))
    if wanted is not None:
        if wanted not in sheets:
            raise ConfigError(f"{option} {wanted!r}: must be a sheet of {source}, which has {shown}")
        return wanted
    filled: list[str] = [
        title for title, sheet in sheets.items() if sheet.sheet_state == "visible" and _has_values(sheet)
    ]
    if len(filled) != 1:
        which = "several filled sheets" if filled else "no filled sheet"
        raise ConfigError(
            f"{source}: has {which}: say which one to read, such as {option} {next(iter(filled or sheets), '')!r} ({shown})"
        )
    return filled[0]


def _has_values(sheet: Any) -> bool:
    sheet.reset_dimensions()  # a file may claim any size
    return any(cell is not None for row in islice(sheet.iter_rows(values_only=True), MAX_ROWS) for cell in row)


def _scan(content: bytes, sheet: Any, source: str) -> bool:
    """Whether the sheet may have formulas. Raises ConfigError if it has merged cells.

    A sheet that is read row by row tells neither, so this looks at its XML.
    """
    rest, has_formulas = b"", False
    with zipfile.ZipFile(BytesIO(content)) as archive, archive.open(sheet._worksheet_path) as xml:
        while piece := xml.read(PIECE_BYTES):
            text = rest + piece
            has_formulas = has_formulas or FORMULA.search(text) is not None
            if merged := MERGED.search(text):
                raise ConfigError(
                    f"{source}: cells {merged[1].decode(errors='replace')} are merged: unmerge them and fill in each, "
                    "because only the first one has a value"
                )
            rest = text[-200:]
    return has_formulas


def _lines(sheet: Any, formulas: Any, source: str) -> Lines:
    sheet.reset_dimensions()
    made_by: Iterator[Any] = repeat(())
    if formulas is not None:
        formulas.reset_dimensions()
        made_by = formulas.iter_rows()
    for number, (row, formula_row) in enumerate(zip(sheet.iter_rows(), made_by, strict=False), start=1):
        if number > MAX_ROWS:
            raise ConfigError(f"{source}: must have at most {MAX_ROWS:,} rows")
        cells = [_read(cell, formula) for cell, formula in zip_longest(row, formula_row)]
        while cells and cells[-1] == "":
            cells.pop()
        if len(cells) > MAX_COLUMNS:
            raise ConfigError(f"{source}: line {number}: must have at most {MAX_COLUMNS:,} columns, not {len(cells):,}")
        yield number, cells


def _read(cell: Any, formula: Any) -> str | BadCell:
    value = cell.value
    if value is None:
        if getattr(formula, "data_type", "") == "f" and cell.data_type != TEXT_OF_FORMULA:
            return BadCell(rule="its formula has no saved value: open the file in Excel and save it again")
        return ""
    if cell.data_type == "e":
        return BadCell(rule=f"must be a value, not the error {value}")
    if isinstance(value, float) and abs(value) >= TOO_LONG:
        return BadCell(rule=f"{value!r}: must not have more than 15 digits: store it as text")
    return _as_shown(value, cell.number_format)


def _as_shown(value: object, number_format: str) -> str:
    match value:
        case bool():
            return "TRUE" if value else "FALSE"
        case int() | float():
            return _number_as_shown(value, number_format or "")
        case dt.datetime():
            return value.date().isoformat() if value.time() == dt.time() else value.isoformat()
        case dt.date() | dt.time():
            return value.isoformat()
    return str(value)


def _number_as_shown(number: float, number_format: str) -> str:
    """Excel calculates with 15 digits, so 0.1 + 0.2 is 0.3. A format of zeros, such as 00000, fills up postal codes.

    A whole number that is written without an exponent is exact at any length.
    """
    shown = number if isinstance(number, int) else float(f"{number:.15g}")
    if shown == round(shown):
        whole = str(round(shown))
        return whole.zfill(len(number_format)) if number_format.strip("0") == "" else whole
    return repr(shown)
