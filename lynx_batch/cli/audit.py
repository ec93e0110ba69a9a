"""`audit`: a CSV table of the clips that were made of each person."""

import csv
import io
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from lynx_batch.cli.console import say
from lynx_batch.cli.ledger import Output
from lynx_batch.cli.targets import refuse_other_kind
from lynx_batch.printable import counted
from lynx_batch.storage import read_range, write_bytes

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def audit(
    output: Output,
    file: Annotated[Path, typer.Option("--csv", metavar="FILE", help="The CSV file to write.")],
) -> None:
    """Write what was made of whom, on which consent, with which model and marks, as a CSV file."""
    from lynx_batch.ledger.audit import AUDIT_COLUMNS, read_audit

    head = ",".join(AUDIT_COLUMNS).encode()
    refuse_other_kind("--csv", str(file), "an audit", lambda uri: read_range(uri, 0, len(head)) == head)
    lines = read_audit(output)
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(AUDIT_COLUMNS)
    table.writerows([_as_text(line[name]) for name in AUDIT_COLUMNS] for line in lines)
    write_bytes(str(file), text.getvalue().encode())
    say(f"{file}: {counted(len(lines), 'line')}")


def _as_text(value: object) -> str:
    """A cell: times in ISO 8601, and a map as `name=value` pairs. A spreadsheet must not take a name for a formula."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, list):
        value = "; ".join(f"{name}={part}" for name, part in value)
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else str(value)
