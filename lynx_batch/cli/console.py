"""The one way to the terminal. Much of what commands print was written by strangers and must not control the terminal.

Markup such as "[b]" is printed as it is, and control characters are replaced (see `printable`). If the reader of the output goes
away, as `head` does, or the disk is full, the command continues and the rest of its output is dropped.
"""

import sys
import traceback
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any

import typer
from pydantic import BaseModel
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from lynx_batch.printable import printable
from lynx_batch.telemetry import drop_output

WIDTH_IN_A_FILE = 160


class SafeConsole(Console):
    """Replaces control characters in all text that it renders. Its own styles and cursor moves stay."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)

    def print(self, *objects: Any, **options: Any) -> None:
        try:
            super().print(*objects, **options)
        except OSError as error:
            drop_output(sys.stdout, error)

    def on_broken_pipe(self) -> None:
        """Rich's own handler would end the command."""
        drop_output(sys.stdout, BrokenPipeError())


class _State:
    """`is_silent`: the answer of this command is JSON, so that no text but errors is printed."""

    is_silent = False


def silence(is_silent: bool) -> None:
    """Prints no text from now on except errors and the answer, or prints it again."""
    _State.is_silent = is_silent


def say_answer(answer: BaseModel) -> None:
    """Prints the answer of a command that was called with --json; without --json, nothing: its text has said it."""
    if _State.is_silent:
        _echo(answer.model_dump_json(indent=1), is_error=False)


def make_console(width: int | None = None) -> Console:
    """A console as wide as the terminal, unless `width` says otherwise. Files get lines of a readable length."""
    if width is None and not sys.stdout.isatty():
        width = WIDTH_IN_A_FILE
    return SafeConsole(width=width, quiet=_State.is_silent, markup=False, emoji=False, highlight=False)


def say(text: str, *, is_error: bool = False, ends_line: bool = True) -> None:
    """Prints `text` unchanged, without wrapping its lines."""
    if is_error or not _State.is_silent:
        _echo(text, is_error=is_error, ends_line=ends_line)


def _echo(text: str, *, is_error: bool, ends_line: bool = True) -> None:
    try:
        typer.echo(printable(text), err=is_error, nl=ends_line)
    except OSError as error:
        drop_output(sys.stderr if is_error else sys.stdout, error)


def say_some(lines: Sequence[str], limit: int) -> None:
    """The first lines, indented, and how many more there are."""
    for line in lines[:limit]:
        say(f"  {line}")
    if (num_hidden := len(lines) - limit) > 0:
        say(f"  ... and {num_hidden} more")


def say_error(error: object) -> None:
    say(f"error: {error}", is_error=True)


def end_without_output(error: OSError) -> None:
    """Says that the terminal's place, such as a file on a full disk, took no more, and drops what is left for it.

    For output that does not come from here, such as help; only the command can end then.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            drop_output(stream, BrokenPipeError())
    say_error(f"the output cannot be written: {error}")


def add_row(table: Table, *cells: str) -> None:
    """Adds a row whose cells take one line each. Makes them printable before the table measures them."""
    table.add_row(*(Text(printable(cell.replace("\t", " "))) for cell in cells))


def show_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Like Python's `sys.excepthook`, but printable: the error's text may come from a stranger."""
    say("".join(traceback.format_exception(kind, error, trace)), is_error=True, ends_line=False)
