"""Writes a run's metadata part by part during the run: each row once, and no part ever changes."""

from collections.abc import Callable

import pyarrow as pa
import structlog

from lynx_batch import storage
from lynx_batch.errors import STORE_FAULTS
from lynx_batch.interrupts import postponed
from lynx_batch.ledger.metadata import RowOutcome, to_parquet, to_table
from lynx_batch.outage import retry_while_unavailable
from lynx_batch.output import metadata_part_uri

log = structlog.get_logger()

PART_EVERY_S = 120.0
MAX_ROWS = 10_000


class MetadataParts:
    """Collects rows and writes them every few minutes; all times are seconds of one monotonic clock.

    A part that the store did not take is put again, unchanged and under the same name, so a put whose response was lost doubles no row.
    """

    def __init__(self, output: str, run_id: str, now_s: float) -> None:
        self._output, self._run_id = output, run_id
        self._rows: list[RowOutcome] = []
        self._tables: list[pa.Table] = []
        self._num_parts = 0
        self._unwritten: tuple[str, bytes] | None = None
        self._due_s = now_s + PART_EVERY_S

    def add(self, row: RowOutcome) -> None:
        self._rows.append(row)

    def add_table(self, table: pa.Table) -> None:
        """Adds rows that are final, to be written as a part of their own."""
        self._tables.append(table)

    def revise(self, revised: Callable[[RowOutcome], RowOutcome]) -> None:
        """Replaces each row that is not written or waiting to be written."""
        self._rows = [revised(row) for row in self._rows]

    def write_due(self, now_s: float) -> None:
        """Writes a part if enough time has passed or enough rows have come."""
        is_full = self._unwritten is None and (len(self._rows) >= MAX_ROWS or self._tables)
        if is_full or now_s >= self._due_s:
            self.write_now(now_s)

    def write_now(self, now_s: float) -> None:
        """Writes the rows collected so far. If the store is in trouble, logs that and leaves them for the next time."""
        self._due_s = now_s + PART_EVERY_S
        try:
            self._write()
        except STORE_FAULTS as error:
            log.warning("metadata_put_off", error=str(error))

    def close(self) -> None:
        """Writes everything that is left. Raises StoreRefused, or StoreUnavailable if the store does not answer for minutes."""
        while self._rows or self._tables or self._unwritten:
            retry_while_unavailable(self._write)

    def _write(self) -> None:
        if self._unwritten is None and (self._rows or self._tables):
            uri = metadata_part_uri(self._output, self._run_id, self._num_parts)
            with postponed():  # or rows would be in neither place
                self._unwritten = uri, to_parquet(self._next_table())
                self._num_parts += 1
        if self._unwritten is not None:
            storage.write_bytes(*self._unwritten)
            self._unwritten = None

    def _next_table(self) -> pa.Table:
        if self._tables:
            return self._tables.pop(0)
        rows, self._rows = self._rows, []
        return to_table(rows)
