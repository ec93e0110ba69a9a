"""A table whose first line is a title, with the names of its columns below it."""

from collections.abc import Collection, Iterable, Mapping, Sequence

from lynx_batch.errors import ConfigError
from lynx_batch.intake.csv_text import SEPARATORS
from lynx_batch.intake.headers import name_column
from lynx_batch.intake.problems import shorten
from lynx_batch.intake.schema import MANIFEST_SCHEMA
from lynx_batch.intake.workbook import BadCell

MAX_LINES = 10
"""As many lines above the names as this are looked for."""

LEAST_NAMES = 2
"""A line has the names of columns if it has at least so many that are known: a single one may be a value."""


def refuse_title(lines: Sequence[tuple[int, Sequence[str | BadCell]]], source: str, renamed: Mapping[str, str]) -> None:
    """Raises ConfigError if the first line has no known name of a column, but one of the next lines looks like their names.

    `lines` are those that are not blank, `renamed` the columns that the user renames.
    """
    known = {*MANIFEST_SCHEMA.names, *renamed}
    names = [(number, _names_in(cells)) for number, cells in lines[:MAX_LINES]]
    if not names or known & {*names[0][1]}:
        return
    for number, found in names[1:]:
        if len(known & {*found}) >= LEAST_NAMES:
            first, cells = lines[0]
            title = next((cell for cell in cells if isinstance(cell, str) and cell.strip()), "")
            raise ConfigError(
                f"{source}: line {first}: {shorten(title)}: must be the names of the columns, which line {number} seems to have: "
                f"remove what is above line {number}"
            )


def _names_in(cells: Iterable[str | BadCell]) -> Collection[str]:
    """The normalised cells. Below a title of one cell, the separator is not detected, so a line may be a single cell."""
    texts = [cell for cell in cells if isinstance(cell, str)]
    for separator in SEPARATORS:
        if len(texts) == 1 and separator in texts[0]:
            texts = texts[0].split(separator)
    return {name_column(text) for text in texts}
