"""Photos by URI, as `inputs` of the run file lets them be read: the only way in which any command or worker reads one."""

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache

import structlog

from lynx_batch import storage, web
from lynx_batch.config import InputsConfig
from lynx_batch.errors import InputRefused, LynxError
from lynx_batch.photo_places import WEB, explain_photo
from lynx_batch.redaction import scrub
from lynx_batch.store_errors import Operation

log = structlog.get_logger()


def read_photo_file(uri: str, inputs: InputsConfig) -> bytes:
    """The photo's file, whole and not decoded. Every read is bounded in size and time.

    Args:
        uri: An absolute path or URI.
        inputs: What lets it be read.

    Raises:
        InputRefused: If it lies where it may not, is no regular file or is too large; or for any error that nobody foresaw.
        MissingObject, StoreRefused: If there is none, or the store will not give it.
        StoreUnavailable, PhotoUnreachable: If all tries have failed; the latter from the web.
    """
    with _only_this_photo(uri):
        _check_place(uri, inputs)
        if _is_web(uri):
            return web.fetch(uri, inputs).content
        limit = storage.SizeLimit(inputs.max_photo_bytes, "inputs.max_photo_bytes")
        return storage.read_whole(uri, limit, max_tries=inputs.max_tries, longest_s=inputs.longest_s)


def find_version(uri: str, inputs: InputsConfig) -> str:
    """What changes with the photo's content: its size and its version; empty if its store tells none. Raises as reading does."""
    with _only_this_photo(uri):
        _check_place(uri, inputs)
        if _is_web(uri):
            answer = web.fetch(uri, inputs, is_head_enough=True)
            return f"{answer.num_bytes}\n{answer.version}" if answer.version else ""
        stored = storage.stat(uri, max_tries=inputs.max_tries, longest_s=inputs.longest_s)
        return f"{stored.num_bytes}\n{stored.version}" if stored and stored.version else ""


@contextmanager
def _only_this_photo(uri: str) -> Iterator[None]:
    """An error that nobody foresaw becomes this photo's, so that it ends no run of thousands."""
    try:
        yield
    except Exception as error:
        if isinstance(error, LynxError):
            raise
        kind = type(error).__name__
        _log_once(kind, "".join(traceback.format_tb(error.__traceback__)))
        raise InputRefused(f"{storage.redact(uri)}: cannot be read: {kind}: {scrub(str(error), uri)}") from None


@cache
def _log_once(error_type: str, where: str) -> None:
    """Without the error's text, which may hold a signed URL."""
    log.error("photo_reading_broke", error_type=error_type, traceback=where)


def _check_place(uri: str, inputs: InputsConfig) -> None:
    """A link of the file system may lead elsewhere than it lies."""
    path = storage.path_of(uri)
    rule = explain_photo(uri, inputs.allow)
    if rule is None and path is not None:
        with storage.explained(Operation.READ, uri):
            real = os.path.realpath(path)
        rule = explain_photo(real, [_real(entry) for entry in inputs.allow])
    if rule is not None:
        raise InputRefused(f"{storage.redact(uri)}: {rule}")


def _real(entry: str) -> str:
    """`entry` with its links followed, as far as this user may follow them."""
    path = storage.path_of(entry)
    if path is not None:
        with suppress(OSError):
            return os.path.realpath(path)
    return entry


def _is_web(uri: str) -> bool:
    return uri.partition("://")[0] in WEB
