"""Photos by URI, as `inputs` of the run file lets them be read: the only way in which any command or worker reads one."""

import os

from lynx_batch import storage, web
from lynx_batch.config import InputsConfig
from lynx_batch.errors import InputRefused
from lynx_batch.photo_places import WEB, explain_photo


def read_photo_file(uri: str, inputs: InputsConfig) -> bytes:
    """The photo's file, whole and not decoded. Every read is bounded in size and time.

    Args:
        uri: An absolute path or URI.
        inputs: What lets it be read.

    Raises:
        InputRefused: If it lies where it may not, is no regular file or is too large.
        MissingObject, StoreRefused: If there is none, or the store will not give it.
        StoreUnavailable, PhotoUnreachable: If all tries have failed; the latter from the web.
    """
    _check_place(uri, inputs)
    if _is_web(uri):
        return web.fetch(uri, inputs).content
    limit = storage.SizeLimit(inputs.max_photo_bytes, "inputs.max_photo_bytes")
    return storage.read_whole(uri, limit, max_tries=inputs.max_tries, longest_s=inputs.longest_s)


def find_version(uri: str, inputs: InputsConfig) -> str:
    """What changes with the photo's content: its size and its version; empty if its store tells none. Raises as reading does."""
    _check_place(uri, inputs)
    if _is_web(uri):
        answer = web.fetch(uri, inputs, is_head_enough=True)
        return f"{answer.num_bytes}\n{answer.version}" if answer.version else ""
    stored = storage.stat(uri, max_tries=inputs.max_tries, longest_s=inputs.longest_s)
    return f"{stored.num_bytes}\n{stored.version}" if stored and stored.version else ""


def _check_place(uri: str, inputs: InputsConfig) -> None:
    """A link of the file system may lead elsewhere than it lies."""
    path = storage.path_of(uri)
    rule = explain_photo(uri, inputs.allow)
    if rule is None and path is not None:
        rule = explain_photo(os.path.realpath(path), [_real(entry) for entry in inputs.allow])
    if rule is not None:
        raise InputRefused(f"{storage.redact(uri)}: {rule}")


def _real(entry: str) -> str:
    path = storage.path_of(entry)
    return entry if path is None else os.path.realpath(path)


def _is_web(uri: str) -> bool:
    return uri.partition("://")[0] in WEB
