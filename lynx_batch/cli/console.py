"""What commands print on. Much of it is anybody's words: neither markup such as "[b]" nor a terminal's control characters may act."""

import re
import sys

from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH_IN_A_FILE = 160
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


def make_console(width: int | None = None) -> Console:
    """As wide as the terminal, if no width is given; a file gets lines that a person can still read."""
    if width is None and not sys.stdout.isatty():
        width = WIDTH_IN_A_FILE
    return Console(width=width, markup=False, emoji=False, highlight=False)


def add_row(table: Table, *cells: str) -> None:
    table.add_row(*(Text(CONTROL.sub("\N{REPLACEMENT CHARACTER}", cell)) for cell in cells))
