"""Tables from Parquet files, which may be damaged anywhere, also where pyarrow does not look until a cell is asked for."""

import pyarrow as pa
import pyarrow.compute as pc

FAULTS = (pa.ArrowException, OSError, ValueError, TypeError, LookupError, ArithmeticError, MemoryError)
"""What pyarrow raises at a file that is damaged or none of its own."""


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
