"""`status` and `retry`: what an output location holds, from its objects alone, and taking up again what was given up."""

import secrets
import sys
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from lynx_batch import storage

MAX_REASONS_SHOWN = 20
WIDTH_IN_A_FILE = 160

Output = Annotated[str, typer.Argument(metavar="OUT", help="The output location of a run file.")]


def status(
    output: Output, clips: Annotated[bool, typer.Option("--clips", help="List every clip with its path.")] = False
) -> None:
    """Tell what is committed, what was given up and why; needs no cluster."""
    from lynx_batch.ledger.summary import summarise

    console, summary = Console(width=None if sys.stdout.isatty() else WIDTH_IN_A_FILE), summarise(output)
    console.print(f"{storage.redact(output)}: {summary.num_committed} clips committed", highlight=False, soft_wrap=True)
    table = Table("run", "rows", "state", "outcomes")
    for run in summary.runs:
        outcomes = ", ".join(f"{num} {outcome}" for outcome, num in sorted(run.counts.items()))
        table.add_row(run.run_id, str(run.num_rows), "finished" if run.is_finished else "unfinished", outcomes)
    console.print(table)
    for reason, num in summary.reasons.most_common(MAX_REASONS_SHOWN):
        console.print(f"{num} {reason}", highlight=False, markup=False, soft_wrap=True)
    if clips:
        console.print(_clip_table(output))


def retry(output: Output) -> None:
    """Let the next run take up again what was rejected or failed."""
    from lynx_batch.ledger.events import AttemptEvent, EventKind, write_event
    from lynx_batch.ledger.history import given_up_before

    given_up = given_up_before(output)
    for event in given_up.values():
        wish = AttemptEvent(
            run_id=event.run_id,
            clip_id=event.clip_id,
            attempt=f"retry-{secrets.token_hex(4)}",
            row=event.row,
            kind=EventKind.RETRY_REQUESTED,
            at=datetime.now(UTC),
        )
        write_event(output, wish)
    typer.echo(f"{len(given_up)} clips will be tried again by the next `lynx-batch render`")


def _clip_table(output: str) -> Table:
    from lynx_batch.ledger.metadata import latest_per_clip, read_metadata

    table = Table("clip", "outcome", Column("prompt", no_wrap=True, max_width=24), Column("video", overflow="fold"))
    for row in latest_per_clip(read_metadata(output)).to_pylist():
        video = storage.join(output, row["clip_uri"]) if row["clip_uri"] else row["error"]
        table.add_row(row["clip_name"] or row["clip_id"], row["outcome"], row["prompt"], video)
    return table
