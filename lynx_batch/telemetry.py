"""Logs: an event name with fields, readable on a terminal and one JSON object a line anywhere else."""

import logging
import sys

import structlog


def configure_logging() -> None:
    """Sends this process' events to stderr. For entry points: a command, or a worker when it starts."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *_renderers(is_terminal=sys.stderr.isatty()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )


def _renderers(*, is_terminal: bool) -> list[structlog.typing.Processor]:
    """Tracebacks come without local variables: those may hold embeddings and signed URLs."""
    if is_terminal:
        return [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]
