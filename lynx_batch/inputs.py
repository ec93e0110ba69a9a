"""Reads photos by URI, within the limits that `inputs` in the run file sets. Every command and worker reads photos through here."""

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
    """The bytes of the photo's file: complete, not decoded. Every read is limited in size and time.

    Args:
        uri: An absolute path or URI.
        inputs: The places that are allowed, and the limits.

    Raises:
        InputRefused: If `inputs` does not allow the place, it is not a regular file or too large, or any unforeseen error occurs.
        MissingObject, StoreRefused: If it does not exist, or the store refuses to give it.
        StoreUnavailable, PhotoUnreachable: If all tries failed; the latter for a web server.
    """
    with _blaming_photo(uri):
        _check_place(uri, inputs)
        if _is_web(uri):
            return web.fetch(uri, inputs).content
        limit = storage.SizeLimit(inputs.max_photo_bytes, "inputs.max_photo_bytes")
        return storage.read_whole(uri, limit, max_tries=inputs.max_tries, longest_s=inputs.longest_s)


def find_version(uri: str, inputs: InputsConfig) -> str:
    """Size and version as text, which changes whenever the photo's content does. Empty if its store has no versions.

    Raises as `read_photo_file` does.
    """
    with _blaming_photo(uri):
        _check_place(uri, inputs)
        if _is_web(uri):
            answer = web.fetch(uri, inputs, is_head_only=True)
            return f"{answer.num_bytes}\n{answer.version}" if answer.version else ""
        stored = storage.stat(uri, max_tries=inputs.max_tries, longest_s=inputs.longest_s)
        return f"{stored.num_bytes}\n{stored.version}" if stored and stored.version else ""


@contextmanager
def _blaming_photo(uri: str) -> Iterator[None]:
    """Turns an unforeseen error into a rejection of this photo, so that it does not end a run of thousands."""
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
    """Omits the error's message, which may contain a signed URL."""
    log.error("unforeseen_photo_error", error_type=error_type, traceback=where)


def _check_place(uri: str, inputs: InputsConfig) -> None:
    """Checks the path as written and with its symbolic links followed."""
    path = storage.path_of(uri)
    rule = explain_photo(uri, inputs.allow)
    if rule is None and path is not None:
        with storage.explained(Operation.READ, uri):
            real = os.path.realpath(path)
        rule = explain_photo(real, [_resolved(entry) for entry in inputs.allow])
    if rule is not None:
        raise InputRefused(f"{storage.redact(uri)}: {rule}")


def _resolved(entry: str) -> str:
    """`entry` with its symbolic links followed, if this user may follow them."""
    path = storage.path_of(entry)
    if path is not None:
        with suppress(OSError):
            return os.path.realpath(path)
    return entry


def _is_web(uri: str) -> bool:
    return uri.partition("://")[0] in WEB
