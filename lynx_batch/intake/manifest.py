"""Reads and writes a manifest: a Parquet file, or a folder of them whose sub-folders may be named `column=value`."""

import hashlib
import io
import os
from collections.abc import Iterator
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lynx_batch.errors import ConfigError, MissingObject
from lynx_batch.intake.cells import read_cell
from lynx_batch.intake.expression import choose_rows
from lynx_batch.intake.schema import MANIFEST_SCHEMA, ROW, conform
from lynx_batch.parquet import FAULTS, read_table
from lynx_batch.storage import list_files, read_bytes, redact, stat, write_bytes

HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


def read_manifest(uri: str, where: str | None = None, limit: int | None = None) -> pa.Table:
    """The manifest's rows: a column `row`, then the columns that it has, in the types of the schema.

    `row` is the 0-based position in the whole manifest (the parts of a folder in the order of their names), whatever
    `where` and `limit` leave out. At most the first `limit` of the rows that match `where` are returned.

    Raises:
        ConfigError: If it is not a manifest of this version, or `where` is invalid or matches nothing; the message names every
            fault of the columns.
        MissingObject: If there is nothing at `uri`.
    """
    if not uri.strip():
        raise ConfigError(f"manifest {uri!r}: must not be empty")
    parts = [conform(table, source) for source, table in _read_parts(uri)]
    table = pa.concat_tables(parts, promote_options="default")
    table = table.select([name for name in MANIFEST_SCHEMA.names if name in table.column_names])
    table = table.add_column(0, ROW, pa.array(np.arange(table.num_rows)))
    if where is not None:
        table = choose_rows(table, where)
    return table.slice(0, limit)


def hash_manifest(uri: str) -> str:
    """The sha256 of the manifest's file, or of the concatenated files of a folder in the order of their names."""
    digest = hashlib.sha256()
    for part in _list_parts(uri):
        digest.update(read_bytes(part))
    return digest.hexdigest()


def write_manifest(table: pa.Table, uri: str) -> None:
    """Writes a table with the manifest's schema to `uri`, and replaces what was there."""
    buffer = io.BytesIO()
    pq.write_table(conform(table, "manifest").replace_schema_metadata(MANIFEST_SCHEMA.metadata), buffer)
    write_bytes(uri, buffer.getvalue())


def folder_of(uri: str) -> str:
    """The absolute folder at which relative `subject_uri`s of the manifest at `uri` start."""
    if "://" not in uri:
        uri = os.path.abspath(uri)
    is_file = stat(uri) is not None
    address = uri.partition("?")[0] if "://" in uri else uri
    return address.rpartition("/")[0] if is_file else address.rstrip("/")


def _read_parts(uri: str) -> Iterator[tuple[str, pa.Table]]:
    """For each Parquet file: its name for messages, and its table with the columns that its folders' names add."""
    for file in _list_parts(uri):
        source = f"manifest {redact(file)}"
        yield source, _with_folder_columns(_read_parquet(file, source), _path_below(uri, file), source)


def _list_parts(uri: str) -> list[str]:
    """The manifest's files. Names that begin with `_` or `.` are skipped: the program that wrote the folder keeps notes there."""
    if stat(uri) is not None:
        return [uri]
    files = [file.uri for file in list_files(uri)]
    if not files:
        raise MissingObject(f"manifest {redact(uri)}: does not exist")
    parts = sorted(file for file in files if not _is_hidden(_path_below(uri, file)))
    if not parts:
        raise ConfigError(f"manifest {redact(uri)}: must hold a Parquet file")
    return parts


def _path_below(uri: str, file: str) -> str:
    return file.removeprefix(uri).strip("/")


def _is_hidden(path: str) -> bool:
    return any(name.startswith(("_", ".")) for name in path.split("/"))


def _read_parquet(uri: str, source: str) -> pa.Table:
    content = read_bytes(uri)
    try:
        # Spark writes times as INT96; in Arrow's default unit, nanoseconds, they would overflow after the year 2262
        return read_table(content, coerce_int96_timestamp_unit="us")
    except FAULTS as error:
        raise ConfigError(f"{source}: must be a Parquet file ({error})") from error


def _with_folder_columns(table: pa.Table, path: str, source: str) -> pa.Table:
    for name, text in (folder.split("=", 1) for folder in path.split("/")[:-1] if "=" in folder):
        if name in table.column_names:
            raise ConfigError(f"{source}: column {name!r} must not be both in the file and in a folder's name")
        table = table.append_column(name, _folder_column(name, text, table.num_rows, source))
    return table


def _folder_column(name: str, text: str, num_rows: int, source: str) -> pa.Array:
    if name not in MANIFEST_SCHEMA.names:
        return pa.nulls(num_rows)  # `conform` reports the unknown name
    kind = MANIFEST_SCHEMA.field(name).type
    try:
        value = None if text == HIVE_NULL else read_cell(unquote(text), kind)
    except ValueError as rule:
        raise ConfigError(f"{source}: folder {name}={text!r}: {rule}") from None
    return pa.array([value] * num_rows, kind)
