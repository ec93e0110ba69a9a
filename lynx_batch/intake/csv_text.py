"""Reads CSV as spreadsheets write it: separated by `;`, tab or comma, perhaps with a first line `sep=;`."""

import csv
import io
import re
from collections.abc import Iterator

from lynx_batch.errors import ConfigError

SEPARATORS = {";": "semicolons", "\t": "tabs", ",": "commas"}
"""What is detected, and its name for people."""

SEPARATOR_LINE = re.compile(r'"?sep=(?P<separator>[^\r\n])"?[;,\t]*(\r\n|\r|\n|$)', re.IGNORECASE)
SAMPLE_LENGTH = 100_000
SAMPLE_ROWS = 50


def find_separator(text: str) -> tuple[str, str]:
    """The separator of a CSV text, and the text below a line `sep=` if there is one."""
    if stated := SEPARATOR_LINE.match(text):
        return stated["separator"], text[stated.end() :]
    return max(SEPARATORS, key=lambda separator: _plausibility(text, separator)), text


def read_lines(text: str, separator: str, source: str, *, first_line: int = 1) -> Iterator[tuple[int, list[str]]]:
    """The cells of each line, and its number in the file. A line of the table that has line breaks in its cells counts from its start.

    Raises:
        ConfigError: If it is not CSV.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    number = first_line
    try:
        for cells in reader:
            yield number, cells
            number = first_line + reader.line_num
    except csv.Error as error:
        raise ConfigError(f"{source}: line {first_line + reader.line_num - 1}: must be CSV ({error})") from error


def _plausibility(text: str, separator: str) -> tuple[bool, float, int]:
    """How well a separator explains the first rows: it divides them, most of them into as many cells as the names, and those are many."""
    reader = csv.reader(io.StringIO(text[:SAMPLE_LENGTH], newline=""), delimiter=separator)
    rows: list[list[str]] = []
    try:
        for cells in reader:
            rows += [cells] if any(cells) else []
            if len(rows) > SAMPLE_ROWS:
                break
    except csv.Error:
        return False, 0, 0
    if not rows:
        return False, 0, 0
    names, *others = rows
    alike = sum(len(cells) == len(names) for cells in others)
    return len(names) > 1, alike / len(others) if others else 1, len(names)
