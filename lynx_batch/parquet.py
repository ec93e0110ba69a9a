"""Reads tables from Parquet files that may be damaged anywhere, even where pyarrow looks only when a cell is read."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

FAULTS = (pa.ArrowException, OSError, ValueError, TypeError, LookupError, ArithmeticError, MemoryError)
"""What pyarrow raises for a file that is damaged or not Parquet."""


def read_table(content: bytes, **options: Any) -> pa.Table:
    """The table in a Parquet file's bytes. Raises one of FAULTS if it cannot be read or a column name is not text.

    Uses no threads: after an error an Arrow thread may still hold `content`, and the process aborts if that thread releases it while
    Python shuts down.
    """
    return with_names(pq.ParquetFile(pa.BufferReader(content), **options).read(use_threads=False))


def with_names(table: pa.Table) -> pa.Table:
    """`table`. Raises one of FAULTS if a column name is not text."""
    str(table.schema)  # decodes the names
    return table


def checked(table: pa.Table) -> pa.Table:
    """`table`. Raises one of FAULTS if a column name is not text or a value is not valid for its type."""
    table.validate(full=True)
    for column in table.columns:
        if pa.types.is_timestamp(column.type):
            pc.min_max(column).as_py()  # fails for years beyond Python's range
    return with_names(table)
