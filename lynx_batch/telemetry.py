"""Logging: events with fields, as text on a terminal and as one JSON object per line elsewhere."""

import logging
import os
import sys
from contextlib import suppress
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor

from lynx_batch.printable import printable, printable_all


def configure_logging() -> None:
    """Sends this process's events to stderr. Called by entry points: a command, or a worker at its start."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
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


def _renderer(*, is_terminal: bool) -> Processor:
    if is_terminal:
        return structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    return structlog.processors.JSONRenderer(ensure_ascii=False)
