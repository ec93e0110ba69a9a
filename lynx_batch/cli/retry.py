"""`retry` lets the next run try clips again that were given up, or render committed clips with another seed."""

from collections.abc import Set
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lynx_batch.cli import options
from lynx_batch.cli.answers import RetryAnswer
from lynx_batch.cli.console import say, say_answer, silence
from lynx_batch.cli.outputs import Output, Rules, read_rules
from lynx_batch.errors import ConfigError
from lynx_batch.printable import counted

# pyarrow takes a while to load, so the ledger is imported by the commands that need it.
if TYPE_CHECKING:
    import pyarrow as pa

    from lynx_batch.ledger.editions import Editions
    from lynx_batch.ledger.redo import RedoPlan

MAX_REASONS_SHOWN = 20


def retry(
    output: Output,
    reason: Annotated[str | None, typer.Option(help="Only clips whose error contains this text.")] = None,
    where: Annotated[
        str | None, typer.Option(help="Only clips whose metadata match, such as: error_type == 'OutOfMemory'.")
    ] = None,
    clip_list: Annotated[
        str | None, typer.Option("--list", metavar="FILE", help="Only the clips rejected in this CSV of a report.")
    ] = None,
    redo: Annotated[
        bool, typer.Option("--redo", help="Render committed clips again, with another seed. Needs --where or --list.")
    ] = False,
    run_file: Rules = None,
    as_json: options.AsJson = False,
) -> None:
    """Let the next run try rejected and failed clips again, or render committed clips once more with another seed.

    With --redo, the committed clip stays in force until the new one is committed. Rows that give their seed cannot be redone unless
    `quality.reseed_given` is true in the newest run, or in the run file that --run names.
    """
    from lynx_batch.ledger.clip_list import Decision, read_clip_list
    from lynx_batch.ledger.editions import list_editions
    from lynx_batch.ledger.history import given_up_before

    silence(as_json)
    listed = None if clip_list is None else read_clip_list(clip_list, Decision.REJECT)
    editions = list_editions(output)
    given_up = given_up_before(output, editions)
    if redo:
        chosen = _choose_committed(output, editions, reason, where, listed)
        say_answer(_redo(output, chosen, editions, given_up, run_file))
    elif run_file is not None:
        raise ConfigError(f"--run {run_file}: must be given together with --redo")
    else:
        say_answer(_request_retry(output, _choose(given_up, reason, where, listed)))


def _request_retry(output: str, chosen: "pa.Table") -> RetryAnswer:
    """Leaves out what the quality gate rejected: only the rules of the next run decide about that."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from lynx_batch.ledger.history import request_retry
    from lynx_batch.planning.verdict import NOT_GOOD_ENOUGH, UNSAFE_ERRORS

    def is_type(*names: str) -> "pa.ChunkedArray":
        return pc.is_in(chosen["error_type"], pa.array(names))

    again = chosen.filter(pc.invert(is_type(NOT_GOOD_ENOUGH, *UNSAFE_ERRORS)))
    request_retry(output, again, datetime.now(UTC))
    say(f"{counted(again.num_rows, 'clip')} will be tried again by the next `lynx-batch render`")
    if num_rejected := chosen.filter(is_type(NOT_GOOD_ENOUGH)).num_rows:
        say(
            f"{counted(num_rejected, 'clip')} rejected by the quality gate: `retry` does not change that. The next `render` takes such "
            f"clips up if its `quality` has more max_reseeds, has lower limits, or is left out; `accept` commits those that you approve"
        )
    if num_unsafe := chosen.filter(is_type(*UNSAFE_ERRORS)).num_rows:
        say(f"{counted(num_unsafe, 'unsafe clip')} rejected for good")
    return RetryAnswer(num_asked=again.num_rows, num_waiting=0, num_left_to_gate=num_rejected, num_unsafe=num_unsafe)


def _only_listed(rows: "pa.Table", listed: Set[str], rule: str) -> "pa.Table":
    """The rows of these clips. `rule` says what the others are, which have no row."""
    import pyarrow as pa
    import pyarrow.compute as pc

    chosen = rows.filter(pc.is_in(rows["clip_id"], pa.array(sorted(listed), pa.string())))
    if num_others := len(listed) - chosen.num_rows:
        say(f"{counted(num_others, 'clip')} of the list left out: {rule}")
    return chosen


def _choose(given_up: "pa.Table", reason: str | None, where: str | None, listed: Set[str] | None) -> "pa.Table":
    import pyarrow.compute as pc

    from lynx_batch.intake.expression import choose_rows
    from lynx_batch.ledger.metadata import FILTER_COLUMNS

    if listed is not None:
        rule = "committed (--redo renders those again), asked for already, or unknown"
        given_up = _only_listed(given_up, listed, rule)
    if where is not None:
        given_up = choose_rows(given_up, where, FILTER_COLUMNS)
    if reason is not None:
        errors = pc.binary_join_element_wise(given_up["error_type"], given_up["error"], ": ")
        given_up = given_up.filter(pc.match_substring(errors, reason, ignore_case=True))
        if not given_up.num_rows:
            raise ConfigError(f"--reason {reason!r}: no clip was given up for a reason that contains this text")
    return given_up


def _choose_committed(
    output: str, editions: "Editions", reason: str | None, where: str | None, listed: Set[str] | None
) -> "pa.Table":
    from lynx_batch.intake.expression import choose_rows
    from lynx_batch.ledger.metadata import FILTER_COLUMNS
    from lynx_batch.ledger.redo import committed_rows

    if reason is not None:
        raise ConfigError(f"--reason {reason!r}: must not be given together with --redo, which is for committed clips")
    if where is None and listed is None:
        raise ConfigError("--redo: needs --list, or --where, such as: --where 'likeness_p10 < 0.4'")
    rows = committed_rows(output, editions)
    if listed is not None:
        rows = _only_listed(rows, listed, "not committed")
    return rows if where is None else choose_rows(rows, where, FILTER_COLUMNS)


def _redo(
    output: str, chosen: "pa.Table", editions: "Editions", given_up: "pa.Table", run_file: Path | None
) -> RetryAnswer:
    """Raises ConfigError, before anything is written, if a row gives its seed and the rules allow no other."""
    from lynx_batch.ledger.redo import RedoRequest, explain_given_seeds, plan_redo, request_redo
    from lynx_batch.ledger.runs import newest_quality

    quality = read_rules(run_file) or newest_quality(output)
    if not (quality and quality.reseed_given) and (problems := explain_given_seeds(output, chosen.to_pylist())):
        raise ConfigError(_describe_given_seeds(problems))
    error_types = dict(zip(given_up["clip_id"].to_pylist(), given_up["error_type"].to_pylist(), strict=True))
    plan = plan_redo(chosen["clip_id"].to_pylist(), editions, error_types)
    now = datetime.now(UTC)
    for clip_id, edition in plan.editions.items():
        request_redo(output, RedoRequest(clip_id=clip_id, edition=edition, asked_at=now, command="retry --redo"))
    _say_redo(plan)
    return RetryAnswer(
        num_asked=len(plan.editions), num_waiting=len(plan.waiting), num_left_to_gate=0, num_unsafe=len(plan.unsafe)
    )


def _say_redo(plan: "RedoPlan") -> None:
    asked = counted(len(plan.editions), "committed clip")
    say(f"{asked} will be rendered with another seed by the next `lynx-batch render`")
    if plan.waiting:
        waiting = counted(len(plan.waiting), "clip")
        say(f"{waiting} already waiting for an earlier --redo: nothing changed. If that has failed: `retry` alone")
    if plan.unsafe:
        say(f"{counted(len(plan.unsafe), 'clip')} not rendered again: unsafe when it was redone")


def _describe_given_seeds(problems: list[str]) -> str:
    hidden = len(problems) - MAX_REASONS_SHOWN
    more = [f"... and {hidden} more"] if hidden > 0 else []
    head = "--redo: nothing was requested, because rows give their seed (allow others by quality.reseed_given: true):"
    return "\n  ".join([head, *problems[:MAX_REASONS_SHOWN], *more])
