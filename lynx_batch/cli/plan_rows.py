"""What `plan --rows` says of each row, as a table on the terminal or as a file."""

import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields

from rich.table import Column, Table

from lynx_batch import storage
from lynx_batch.cli.console import add_row, make_console, say
from lynx_batch.cli.progress import duration
from lynx_batch.cli.tables import write_csv
from lynx_batch.cli.targets import PARQUET, refuse_other_kind
from lynx_batch.errors import ConfigError
from lynx_batch.planning.budget import amount
from lynx_batch.planning.row_costs import RowCost

MAX_ROWS_SHOWN = 50
NAMES = tuple(field.name for field in fields(RowCost))


def show_rows(rows: Sequence[RowCost]) -> None:
    table = Table("row", "clip", "state", "group", "time", "USD", Column("reason", overflow="fold"))
    for row in rows[:MAX_ROWS_SHOWN]:
        add_row(
            table,
            str(row.row),
            row.clip_name or row.clip_id or "",
            row.state,
            _shown(row.group_size, str),
            _shown(row.seconds, duration),
            _shown(row.usd, amount),
            row.reason,
        )
    make_console().print(table)
    if (num_hidden := len(rows) - MAX_ROWS_SHOWN) > 0:
        say(f"... and {num_hidden:,} more rows: --out FILE writes all of them")


def refuse_other_rows(option: str, uri: str) -> None:
    """Raises ConfigError if this is no name of a file for rows, or something else is there."""
    if not uri.endswith((".csv", ".parquet")):
        raise ConfigError(f"{option} {storage.redact(uri)}: must end in .csv or .parquet")
    head = PARQUET if uri.endswith(".parquet") else ",".join(NAMES).encode()
    refuse_other_kind(option, uri, "such a list of rows", lambda found: storage.read_range(found, 0, len(head)) == head)


def write_rows(rows: Sequence[RowCost], uri: str) -> None:
    is_parquet = uri.endswith(".parquet")
    storage.write_bytes(uri, _as_parquet(rows) if is_parquet else write_csv(NAMES, [asdict(row) for row in rows]))


def _as_parquet(rows: Sequence[RowCost]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    text, whole, real = pa.string(), pa.int64(), pa.float64()
    kinds = {"row": whole, "group_size": whole, "num_tries": real, "seconds": real, "usd": real}
    schema = pa.schema([(name, kinds.get(name, text)) for name in NAMES])
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows], schema), file)
    return file.getvalue()


def _shown(value: float | None, describe: Callable[[float], str]) -> str:
    return "" if value is None else describe(value)
