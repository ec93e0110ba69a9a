"""Reads a file that a key of the run file names, or the text that it names in an environment variable."""

import os

from lynx_batch import storage
from lynx_batch.config.references import environment_name
from lynx_batch.errors import ConfigError, MissingObject
from lynx_model.errors import MissingFile


def read_named_file(key: str, uri: str, max_bytes: int) -> bytes:
    """The file at `uri`.

    Raises:
        MissingFile: If it does not exist.
        InputRefused: If it is larger than `max_bytes`.
        StoreRefused, StoreUnavailable: If it cannot be read.
    """
    try:
        return storage.read_bytes(uri, storage.SizeLimit(max_bytes, key))
    except MissingObject as error:
        raise MissingFile(f"{key}={storage.redact(uri)!r}: does not exist") from error


def read_reference(key: str, reference: str, max_bytes: int) -> bytes:
    """The content that `reference`, a path, a URI or `env:NAME`, stands for. Raises as `read_named_file` does."""
    name = environment_name(reference)
    if name is None:
        return read_named_file(key, reference, max_bytes)
    if not (content := os.environ.get(name, "")):
        raise MissingFile(f"{key}={reference!r}: the environment variable {name} must be set where clips are rendered")
    if len(content) > max_bytes:
        raise ConfigError(f"{key}={reference!r}: must have at most {max_bytes:,} characters")
    return content.encode(errors="replace")
