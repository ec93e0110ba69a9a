"""Tables for people, as CSV, Excel or Parquet files. A spreadsheet must not take what somebody wrote for a formula."""

import codecs
import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

from lynx_batch.errors import ConfigError
from lynx_batch.printable import printable

LINK = "link"
"""The column of web addresses that a click opens."""

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
MAX_XLSX_LINES = 1_048_576 - 1
MAX_XLSX_TEXT = 32_767
MAX_XLSX_LINKS = 65_530
MAX_XLSX_LINK_LENGTH = 2_079
XLSX_ROUNDS_FROM = 10**15
"""Limits of Excel: lines below the header, characters in a cell, links in a sheet, their length, and numbers it keeps exactly. Source: Microsoft's "Excel
specifications and limits", and for the length XlsxWriter's documentation."""

Line = Mapping[str, Any]


class TableKind(StrEnum):
    """The file formats of a table."""

    CSV = "csv"
    XLSX = "xlsx"
    PARQUET = "parquet"


def check_num_lines(kind: TableKind, num_lines: int) -> None:
    """Raises ConfigError if a file of this kind cannot have so many lines."""
    if kind is TableKind.XLSX and num_lines > MAX_XLSX_LINES:
        raise ConfigError(f"--table xlsx: must have at most {MAX_XLSX_LINES:,} lines, but has {num_lines:,}: use csv")


def write_table(kind: TableKind, columns: Sequence[str], lines: Sequence[Line]) -> bytes:
    """The table as a file of this kind. A line may lack columns."""
    if kind is TableKind.CSV:
        return codecs.BOM_UTF8 + write_csv(columns, lines)  # without it, Excel takes the text for another encoding
    return (_write_xlsx if kind is TableKind.XLSX else _write_parquet)(columns, lines)


def write_csv(columns: Sequence[str], lines: Iterable[Line]) -> bytes:
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow([_as_text(column) for column in columns])
    table.writerows([_as_text(line.get(column)) for column in columns] for line in lines)
    return text.getvalue().encode()


def _write_xlsx(columns: Sequence[str], lines: Sequence[Line]) -> bytes:
    from openpyxl import Workbook

    book = Workbook(write_only=True)
    sheet = book.create_sheet()
    sheet.freeze_panes = "A2"
    sheet.append([_as_xlsx(column) for column in columns])
    for number, line in enumerate(lines):
        cells = {column: _as_xlsx(line.get(column)) for column in columns}
        if number < MAX_XLSX_LINKS:
            cells |= {LINK: _linked(sheet, cells[LINK])} if LINK in cells else {}
        sheet.append([*cells.values()])
    content = io.BytesIO()
    book.save(content)
    return content.getvalue()


def _linked(sheet: Any, value: object) -> object:
    """The cell for a web address, which a click opens."""
    from openpyxl.cell import WriteOnlyCell

    address = str(value)
    if not address.startswith(("http://", "https://")) or len(address) > MAX_XLSX_LINK_LENGTH:
        return value
    cell = WriteOnlyCell(sheet, address)
    cell.hyperlink = address
    return cell


def _write_parquet(columns: Sequence[str], lines: Sequence[Line]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = io.BytesIO()
    pq.write_table(pa.table({column: [line.get(column) for line in lines] for column in columns}), content)
    return content.getvalue()


def _as_xlsx(value: object) -> object:
    """A number stays a number, unless Excel would round it; all else is text without the control characters that Excel refuses."""
    if value is None or isinstance(value, float) or (isinstance(value, int) and abs(value) < XLSX_ROUNDS_FROM):
        return value
    return printable(_as_text(value))[:MAX_XLSX_TEXT]


def _as_text(value: object) -> str:
    """A cell: times in ISO 8601, lists with semicolons between, and a map as `name=value` pairs. A text that begins like a formula gets an apostrophe before it."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, list):
        value = "; ".join(part if isinstance(part, str) else "=".join(part) for part in value)
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else str(value)
