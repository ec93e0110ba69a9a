"""Tables from Parquet files, which may be damaged anywhere, also where pyarrow does not look until a cell is asked for."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

FAULTS = (pa.ArrowException, OSError, ValueError, TypeError, LookupError, ArithmeticError, MemoryError)
"""What pyarrow raises at a file that is damaged or none of its own."""


def read_table(content: bytes, **options: Any) -> pa.Table:
    """The table in the bytes of a Parquet file, with names that are text. Raises one of FAULTS if it cannot be read.

    Without threads: after an error one of Arrow's may still hold `content`, and the process aborts if that lets go of it while
    Python ends.
    """
    return with_names(pq.ParquetFile(pa.BufferReader(content), **options).read(use_threads=False))


def with_names(table: pa.Table) -> pa.Table:
    """`table`, whose names are text. Raises one of FAULTS if one is not."""
    str(table.schema)  # decodes them
    return table


def checked(table: pa.Table) -> pa.Table:
    """`table`, each name and value of which is what its type says. Raises one of FAULTS if one is not."""
    table.validate(full=True)
    for column in table.columns:
        if pa.types.is_timestamp(column.type):
            pc.min_max(column).as_py()  # a year that Python cannot count to
    return with_names(table)
