"""`status` shows what an output location holds, from its objects alone. `retry` lets failed clips be tried again."""

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from lynx_batch import storage
from lynx_batch.cli.console import add_row, make_console, say
from lynx_batch.errors import ConfigError
from lynx_batch.output import runs_uri
from lynx_batch.places import WRITABLE, explain_place

# pyarrow takes a while to load, so the ledger is imported by the commands that need it.
if TYPE_CHECKING:
    import pyarrow as pa

    from lynx_batch.ledger.runs import Run

MAX_REASONS_SHOWN = 20
WATCH_EVERY_S = 10.0


def _check_output(output: str) -> str:
    """Raises ConfigError unless a run has written to `output`: every run writes its record before its first clip."""
    if rule := explain_place(output, WRITABLE):
        raise ConfigError(f"OUT {storage.redact(output)}: {rule}")
    if not any(storage.list_files(runs_uri(output))):
        raise ConfigError(
            f"OUT {storage.redact(output)}: must be an output location, but there is no record of a run below runs/"
        )
    return output


Output = Annotated[
    str, typer.Argument(metavar="OUT", help="The output location of a run file.", callback=_check_output)
]


def status(
    output: Output,
    clips: Annotated[bool, typer.Option("--clips", help="List every clip with its path.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until no run is active.")] = False,
) -> None:
    """Show what is committed, and what was given up and why. Needs no cluster."""
    console = make_console()
    if watch:
        _watch(output, console)
    else:
        console.print(_status(output), soft_wrap=True)
    if clips:
        console.print(_clip_table(output))


def retry(
    output: Output,
    reason: Annotated[str | None, typer.Option(help="Only clips whose error contains this text.")] = None,
    where: Annotated[
        str | None, typer.Option(help="Only clips whose metadata match, such as: error_type == 'OutOfMemory'.")
    ] = None,
    clip_list: Annotated[
        str | None, typer.Option("--list", metavar="FILE", help="Only the clips rejected in this CSV of a report.")
    ] = None,
) -> None:
    """Let the next run try rejected and failed clips again."""
    from lynx_batch.ledger.editions import list_editions
    from lynx_batch.ledger.history import ask_again, given_up_before

    given_up = given_up_before(output, list_editions(output))
    chosen = _choose(given_up if clip_list is None else _listed(given_up, clip_list), reason, where)
    ask_again(output, chosen, datetime.now(UTC))
    say(f"{chosen.num_rows} clips will be tried again by the next `lynx-batch render`")


def _listed(given_up: "pa.Table", clip_list: str) -> "pa.Table":
    """The rows of the clips that a list rejects. Says how many clips of the list have no such row."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from lynx_batch.ledger.clip_list import Decision, read_clip_list

    listed = read_clip_list(clip_list, Decision.REJECT)
    chosen = given_up.filter(pc.is_in(given_up["clip_id"], pa.array(sorted(listed), pa.string())))
    if num_others := len(listed) - chosen.num_rows:
        say(
            f"{num_others} clips of the list are not waiting for a retry: they are committed, asked for already, or unknown"
        )
    return chosen


def _choose(given_up: "pa.Table", reason: str | None, where: str | None) -> "pa.Table":
    import pyarrow.compute as pc

    from lynx_batch.intake.expression import choose_rows
    from lynx_batch.ledger.metadata import FILTER_COLUMNS

    if where is not None:
        given_up = choose_rows(given_up, where, FILTER_COLUMNS)
    if reason is not None:
        errors = pc.binary_join_element_wise(given_up["error_type"], given_up["error"], ": ")
        given_up = given_up.filter(pc.match_substring(errors, reason, ignore_case=True))
        if not given_up.num_rows:
            raise ConfigError(f"--reason {reason!r}: no clip was given up for a reason that contains this text")
    return given_up


def _watch(output: str, console: Console) -> None:
    from lynx_batch.ledger.heartbeat import living_runs

    with Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(_status(output), refresh=True)
            if not living_runs(output, datetime.now(UTC)):
                return
            time.sleep(WATCH_EVERY_S)


def _status(output: str) -> RenderableType:
    from lynx_batch.ledger.heartbeat import living_runs
    from lynx_batch.ledger.summary import summarise

    summary, living = summarise(output), living_runs(output, datetime.now(UTC))
    table = Table("run", "rows", "state", "outcomes")
    for state in summary.runs:
        outcomes = ", ".join(f"{num} {outcome}" for outcome, num in sorted(state.counts.items()))
        is_living = state.run.run_id in living
        add_row(table, state.run.run_id, str(state.run.record.num_rows), _state(state.run, is_living), outcomes)
    reasons = [Text(f"{num} {reason}") for reason, num in summary.reasons.most_common(MAX_REASONS_SHOWN)]
    return Group(Text(f"{storage.redact(output)}: {summary.num_committed} clips committed"), table, *reasons)


def _state(run: "Run", is_living: bool) -> str:
    if run.end is not None:
        state = f"stopped: {run.end.stopped_by}" if run.end.stopped_by else "finished"
    else:
        state = "running" if is_living else "unfinished"
    return state if run.record.is_store_safe else f"{state} (unsafe commits)"


def _clip_table(output: str) -> Table:
    from lynx_batch.ledger.editions import list_editions
    from lynx_batch.ledger.order import newest_rows

    prompt, video = Column("prompt", no_wrap=True, max_width=24), Column("video or reason", overflow="fold")
    table = Table("row", "clip", "outcome", prompt, video)
    editions = list_editions(output)
    for row in newest_rows(output).to_pylist():
        end = storage.join(output, row["clip_uri"]) if row["clip_uri"] else row["error"]
        if row["clip_uri"] and not editions.is_finished(row["clip_id"], row["edition"]):
            end = "its commit is no longer in force: the next run renders it again"
        cells = row["clip_name"] or row["clip_id"], row["outcome"], row["prompt"], end
        add_row(table, str(row["row"]), *(cell or "" for cell in cells))
    return table
