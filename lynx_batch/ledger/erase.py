"""Blanks what the records of runs hold about revoked people: the one exception to records that never change.

In each run the manifest comes first and `clips.parquet` last, because rows are found through the latter. So an erasure that was
interrupted can be repeated.
"""

import io
from collections.abc import Callable, Mapping, Set
from functools import partial
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from lynx_batch import storage
from lynx_batch.errors import ConsentRevoked, MissingObject, UnreadableRecord
from lynx_batch.ledger.owners import read_intact_owners
from lynx_batch.ledger.remains import delete_versions
from lynx_batch.ledger.runs import list_runs
from lynx_batch.output import (
    EVENTS,
    METADATA,
    REPORT,
    RUN_CLIPS,
    RUN_MANIFEST,
    parse_event,
    parse_log_part,
    parse_metadata_part,
    parse_run_file,
    run_file_uri,
    runs_uri,
)
from lynx_batch.parquet import FAULTS, checked, read_table
from lynx_batch.planning.revocation import Key, Kind, explain_revoked, keys_of, keys_of_photos

KEPT = frozenset({"row", "edition", "attempts", "ended_at"})
"""Columns that say nothing about a person."""

ERASED = {"outcome": "rejected", "error_type": ConsentRevoked.__name__, "error": "revoked; its data was erased"}
"""What a blanked row of the metadata says instead."""


class Erased(NamedTuple):
    """How many rows of manifests were blanked, and the URIs of files that cannot be read, so that they may still hold the person's data."""

    num_rows: int
    unreadable: tuple[str, ...]


def blank_rows(table: pa.Table, rows: Set[int], filled: Mapping[str, str] | None = None) -> pa.Table:
    """`table` with nulls in the rows whose number (column `row`) is in `rows`, except in KEPT; `filled` are cells that they get."""
    is_blank = [row in rows for row in table["row"].to_pylist()]
    positions = pa.array([None if blank else place for place, blank in enumerate(is_blank)], pa.int64())
    columns = {name: table[name] if name in KEPT else table[name].take(positions) for name in table.column_names}
    for name, cell in (filled or {}).items():
        cells = [cell if blank else old for blank, old in zip(is_blank, columns[name].to_pylist(), strict=True)]
        columns[name] = pa.array(cells, table.schema.field(name).type)
    return pa.table(columns, schema=table.schema)


def erase_events(output: str, clip_ids: Set[str]) -> None:
    """Deletes the events of these clips, whose errors may name photos."""
    for file in storage.list_files(storage.join(output, EVENTS)):
        if parse_event(file.uri.rpartition("/")[2]) in clip_ids:
            storage.delete(file.uri)


def erase_reports(output: str) -> None:
    """Deletes reports and traces, which may name and show everybody. Reports can be written again."""
    for file in storage.list_files(storage.join(output, REPORT)):
        storage.delete(file.uri)


def erase_logs(output: str) -> None:
    """Deletes the logs of all runs, whose errors may name photos."""
    for file in storage.list_files(runs_uri(output)):
        if parse_log_part(file.uri):
            storage.delete(file.uri)


def erase_rows(output: str, revoked: Set[Key], rows_of: Mapping[str, Set[int]]) -> Erased:
    """Blanks the rows `rows_of` each run, and all others that `revoked` matches, in everything that the run recorded."""
    parts: dict[str, list[str]] = {}
    folder = storage.join(output, METADATA)
    for file in storage.list_files(folder):
        if run_id := parse_metadata_part(file.uri.removeprefix(folder).strip("/")):
            parts.setdefault(run_id, []).append(file.uri)
    num_blanked, unreadable = 0, list[str]()

    def attempt(uri: str, erase: Callable[[str], int]) -> int:
        try:
            return erase(uri)
        except UnreadableRecord:  # its text may quote a cell
            unreadable.append(storage.redact(uri))
            return 0

    for run_id in sorted(list_runs(output) | parts.keys()):
        rows = rows_of.get(run_id, set())
        manifest, clips = (run_file_uri(output, run_id, name) for name in (RUN_MANIFEST, RUN_CLIPS))
        num_blanked += attempt(manifest, partial(_rewrite, rows=rows, revoked=revoked))
        for uri in parts.get(run_id, ()):
            attempt(uri, partial(_rewrite, rows=rows, revoked=revoked, filled=ERASED))
        attempt(clips, partial(_drop_owners, rows=rows, revoked=revoked))
    return Erased(num_blanked, tuple(unreadable))


def remove_erased_versions(output: str) -> int:
    """Removes the old versions of everything that an erasure rewrites or deletes. Returns their number.

    Raises:
        StoreRefused: If the store does not permit it, or is of a kind whose versions cannot be listed.
    """
    of_runs = storage.list_old_versions(runs_uri(output))
    versions = [
        each for each in of_runs if parse_log_part(each.uri) or parse_run_file(each.uri)[1] in (RUN_MANIFEST, RUN_CLIPS)
    ]
    for name in (METADATA, EVENTS, REPORT):
        versions += storage.list_old_versions(storage.join(output, name))
    return delete_versions(versions)


def matching_rows(table: pa.Table, revoked: Set[Key]) -> set[int]:
    """The numbers of the rows of a manifest, of metadata or of `clips.parquet` that `revoked` matches."""
    if not revoked:
        return set()
    empty = [None] * table.num_rows
    names = ("row", *Kind, "photo_sha256s")
    cells = [table[name].to_pylist() if name in table.column_names else empty for name in names]
    return {
        row
        for row, *values, several in zip(*cells, strict=True)
        if explain_revoked([*keys_of(*values), *keys_of_photos(several or ())], revoked)
    }


def _rewrite(uri: str, rows: Set[int], revoked: Set[Key], filled: Mapping[str, str] | None = None) -> int:
    """Blanks rows of a Parquet file. Returns how many; a file without such rows, or that does not exist, stays as it is.

    Raises:
        UnreadableRecord: If the file is damaged.
    """
    try:
        table = checked(read_table(storage.read_bytes(uri)))
        found = (matching_rows(table, revoked) | rows) & set(table["row"].to_pylist())
        blank = blank_rows(table, found, filled)
    except MissingObject:
        return 0
    except FAULTS as error:
        raise UnreadableRecord(f"{storage.redact(uri)}: not a table of a run: {error}") from error
    if not blank.equals(table):
        _write(uri, blank)
    return len(found)


def _drop_owners(uri: str, rows: Set[int], revoked: Set[Key]) -> int:
    table = read_intact_owners(uri)
    found = matching_rows(table, revoked) | (rows & set(table["row"].to_pylist()))
    if found:
        kept = pa.array([row not in found for row in table["row"].to_pylist()], pa.bool_())
        _write(uri, table.filter(kept))
    return len(found)


def _write(uri: str, table: pa.Table) -> None:
    parquet = io.BytesIO()
    pq.write_table(table, parquet)
    storage.write_bytes(uri, parquet.getvalue())
