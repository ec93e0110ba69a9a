"""`audit`: a CSV table of the clips that were made of each person."""

from codecs import BOM_UTF8
from pathlib import Path
from typing import Annotated

import typer

from lynx_batch.cli.console import say
from lynx_batch.cli.outputs import Output
from lynx_batch.cli.tables import TableKind, write_table
from lynx_batch.cli.targets import refuse_other_kind
from lynx_batch.printable import counted
from lynx_batch.storage import read_range, write_bytes


def audit(
    output: Output,
    file: Annotated[Path, typer.Option("--csv", metavar="FILE", help="The CSV file to write.")],
) -> None:
    """Write what was made of whom, on which consent, with which model and marks, as a CSV file."""
    from lynx_batch.ledger.audit import AUDIT_COLUMNS, read_audit

    refuse_other_kind("--csv", str(file), "an audit", _is_audit)
    lines = read_audit(output)
    write_bytes(str(file), write_table(TableKind.CSV, AUDIT_COLUMNS, lines))
    say(f"{file}: {counted(len(lines), 'line')}")


def _is_audit(uri: str) -> bool:
    """Whether a file begins as an audit does; an early version wrote it without the mark that Excel needs."""
    from lynx_batch.ledger.audit import AUDIT_COLUMNS

    head = ",".join(AUDIT_COLUMNS).encode()
    return read_range(uri, 0, len(BOM_UTF8) + len(head)).removeprefix(BOM_UTF8).startswith(head)
