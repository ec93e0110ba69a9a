"""Checks files that commands are about to write. A file that exists is replaced only by one of its own kind, so no input is lost."""

import json
from collections.abc import Callable
from pathlib import Path

from lynx_batch import storage
from lynx_batch.errors import ConfigError

PARQUET = b"PAR1"
PNG = b"\x89PNG\r\n\x1a\n"
HEAD_BYTES = 4096


def refuse_other_kind(option: str, uri: str, kind: str, is_of_kind: Callable[[str], bool]) -> None:
    """Raises ConfigError if `uri` holds anything, such as an input, but the kind of file that the command writes.

    An empty file may be replaced: there is nothing to lose.
    """
    shown = f"{option} {storage.redact(uri)}"
    path = storage.path_of(uri)
    if uri.endswith("/") or (path is not None and path.exists() and not path.is_file()):
        raise ConfigError(f"{shown}: must be a file, but is a folder or a device")
    stored = storage.stat(uri)
    if stored is not None and stored.num_bytes and not is_of_kind(uri):
        raise ConfigError(
            f"{shown}: must be new or {kind}; this file is neither, so it is not replaced: choose another name"
        )


def is_manifest(uri: str) -> bool:
    """Whether it is a Parquet file that begins and ends as one and has the columns that every manifest has."""
    from lynx_batch.intake.manifest import read_manifest
    from lynx_batch.intake.schema import has_required

    if storage.read_range(uri, 0, len(PARQUET)) != PARQUET:
        return False
    try:
        return has_required(read_manifest(uri, limit=0).column_names)
    except ConfigError:
        return False


def is_mp4(uri: str) -> bool:
    return storage.read_range(uri, 4, 8) == b"ftyp"


def is_png(uri: str) -> bool:
    return storage.read_range(uri, 0, len(PNG)) == PNG


def is_photo_sheet(uri: str) -> bool:
    from lynx_batch.intake.photo_sheet import HEAD

    head = HEAD.encode()
    return storage.read_range(uri, 0, len(head)) == head


def has_json_keys(*keys: str) -> Callable[[str], bool]:
    """Whether it is JSON, or JSON lines, whose first object has these keys."""

    def has_them(uri: str) -> bool:
        try:
            text = storage.read_bytes(uri).decode("utf-8").lstrip()
            found, _ = json.JSONDecoder().raw_decode(text)
        except ValueError:
            return False
        first = found[0] if isinstance(found, list) and found else found
        return isinstance(first, dict) and {*keys} <= first.keys()

    return has_them


def refuse_other_file(option: str, file: Path, kind: str, is_of_kind: Callable[[str], bool]) -> None:
    """As `refuse_other_kind`, for a file that is written in place, which may also be a device or a pipe."""
    if not file.exists() or file.is_file() or file.is_dir():
        refuse_other_kind(option, str(file), kind, is_of_kind)
