"""Logging: events with fields, as text on a terminal and as one JSON object per line elsewhere.

Besides its own fields, an event has those of its process (`describe_process`) and those of the attempt at work (`bound`).
"""

import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor

from lynx_batch.printable import printable, printable_all

bound = structlog.contextvars.bound_contextvars
"""A context in which every event of this thread has the given fields."""

_process_fields: dict[str, object] = {}
_sinks: list[Callable[[str], None]] = []


def describe_process(**fields: object) -> None:
    """From now on every event of this process has these fields, in all of its threads."""
    _process_fields.update(fields)


def copy_to(sink: Callable[[str], None]) -> None:
    """From now on `sink` also gets each event of this process, as a line of JSON. It runs in the thread of the event, so it must be quick."""
    _sinks.append(sink)


def stop_copying_to(sink: Callable[[str], None]) -> None:
    if sink in _sinks:
        _sinks.remove(sink)


def configure_logging() -> None:
    """Sends this process's events to stderr. Called by entry points: a command, or a worker at its start."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            _add_process_fields,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,  # without local variables, which may hold embeddings and signed URLs
            _make_printable,
            _renderer(is_terminal=sys.stderr.isatty()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_: _Logger(sys.stderr),
        cache_logger_on_first_use=False,
    )
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_Brief())


def drop_output(stream: TextIO, error: OSError) -> None:
    """Redirects `stream` (stdout or stderr) to /dev/null, because writing to it raised `error`.

    A reader that went away wanted no more. Of any other error, a full disk for example, stderr gets a line.
    """
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
    if stream is sys.stdout and not isinstance(error, BrokenPipeError):
        with suppress(OSError):
            print(f"warning: the output cannot be written, the rest of it is lost: {error}", file=sys.stderr)


class _Logger(structlog.PrintLogger):
    """Survives a closed pipe and a full disk."""

    def msg(self, message: str) -> None:
        try:
            super().msg(message)
        except OSError as error:
            drop_output(self._file, error)

    log = debug = info = warn = warning = msg
    fatal = failure = err = error = critical = exception = msg


class _Brief(logging.Formatter):
    """Warnings of libraries, without tracebacks: those reappear in errors of ours."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(record.getMessage())


def _make_printable(logger: object, method: str, event: EventDict) -> EventDict:
    return {name: printable_all(value) for name, value in event.items()}


def _add_process_fields(logger: object, method: str, event: EventDict) -> EventDict:
    return {**_process_fields, **event}


def _renderer(*, is_terminal: bool) -> Processor:
    """What stderr gets. Sinks get JSON in any case."""
    as_json = structlog.processors.JSONRenderer(ensure_ascii=False)
    as_text = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)

    def render(logger: object, method: str, event: EventDict) -> str:
        line = str(as_json(logger, method, {**event}))
        for sink in [*_sinks]:
            sink(line)
        return as_text(logger, method, event) if is_terminal else line

    return render
