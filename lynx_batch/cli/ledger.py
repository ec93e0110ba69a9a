"""`status` and `runs` show what an output location holds, from its objects alone. `retry` lets clips be tried again, or rendered with another seed."""

import time
from collections.abc import Sequence, Set
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from lynx_batch import storage
from lynx_batch.cli import options
from lynx_batch.cli.answers import GroupAnswer, PaceAnswer, RetryAnswer, RunsAnswer, StatusAnswer
from lynx_batch.cli.console import add_row, make_console, say, say_answer, silence
from lynx_batch.cli.run_table import UsdPerGpuHour, describe_pace, describe_runs, make_run_table
from lynx_batch.config import QualityConfig, load_run_config
from lynx_batch.errors import ConfigError
from lynx_batch.output import RUN_RECORD, parse_run_file, runs_uri
from lynx_batch.places import WRITABLE, explain_place
from lynx_batch.printable import counted

# pyarrow takes a while to load, so the ledger is imported by the commands that need it.
if TYPE_CHECKING:
    import pyarrow as pa

    from lynx_batch.ledger.editions import Editions
    from lynx_batch.ledger.redo import RedoPlan

MAX_REASONS_SHOWN = 20
WATCH_EVERY_S = 10.0
LOOK_EVERY_S = 2.0
HINT_AFTER_S = 60.0


def check_output(output: str) -> str:
    """Raises ConfigError unless a run has written to `output`: every run writes its record before its first clip."""
    if rule := explain_place(output, WRITABLE):
        raise ConfigError(f"OUT {storage.redact(output)}: {rule}")
    if not any(storage.list_files(runs_uri(output))):
        raise ConfigError(
            f"OUT {storage.redact(output)}: must be an output location, but there is no record of a run below runs/"
        )
    return output


def await_run(output: str) -> None:
    """Waits until a run, perhaps one that was just submitted, has written its record."""
    if rule := explain_place(output, WRITABLE):
        raise ConfigError(f"OUT {storage.redact(output)}: {rule}")
    if not _has_record(output):
        say(f"{storage.redact(output)}: waiting for the record of a run")
    hint_s = time.monotonic() + HINT_AFTER_S
    while not _has_record(output):
        time.sleep(LOOK_EVERY_S)
        if time.monotonic() > hint_s:
            say("there is still none: `lynx-batch jobs` says whether the job runs, `lynx-batch logs JOB` why it ended")
            hint_s = float("inf")


def _has_record(output: str) -> bool:
    return any(parse_run_file(file.uri)[1] == RUN_RECORD for file in storage.list_files(runs_uri(output)))


Output = Annotated[str, typer.Argument(metavar="OUT", help="The output location of a run file.", callback=check_output)]
Rules = Annotated[
    Path | None,
    typer.Option("--run", metavar="RUN.yaml", help="Take `quality` from this run file, not from the newest run."),
]


def status(
    output: Annotated[str, typer.Argument(metavar="OUT", help="The output location of a run file.")],
    clips: Annotated[bool, typer.Option("--clips", help="List every clip with its path.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Wait for the record of a run, and refresh until no run is active.")
    ] = False,
    by: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Count outcomes by a column of the metadata, or by tags.KEY. Repeatable."),
    ] = None,
    run_file: Rules = None,
    usd_per_gpu_hour: UsdPerGpuHour = None,
    as_json: options.AsJson = False,
) -> None:
    """Show what is committed, what was given up and why, and how the clips were judged. Needs no cluster."""
    if as_json and (clips or watch):
        raise ConfigError("--json: must not be given together with --clips or --watch")
    rules = _read_rules(run_file)
    silence(as_json)
    if watch:
        await_run(output)
    check_output(output)
    console = make_console()
    if watch:
        _watch(output, rules, usd_per_gpu_hour, by or (), console)
    else:
        answer = _read_status(output, rules, usd_per_gpu_hour, by or ())
        console.print(_show(answer), soft_wrap=True)
        say_answer(answer)
    if clips:
        console.print(_clip_table(output))


def runs(output: Output, usd_per_gpu_hour: UsdPerGpuHour = None, as_json: options.AsJson = False) -> None:
    """List the runs of an output location: when, how many rows with which outcome, GPU-hours and cost."""
    from lynx_batch.ledger.heartbeat import living_runs
    from lynx_batch.ledger.pace import read_costs
    from lynx_batch.ledger.summary import read_run_states

    silence(as_json)
    living = living_runs(output, datetime.now(UTC))
    found = describe_runs(read_run_states(output), living, read_costs(output), usd_per_gpu_hour)
    make_console().print(make_run_table(found))
    say_answer(RunsAnswer(output=storage.redact(output), runs=found))


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

    quality = _read_rules(run_file) or newest_quality(output)
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


def _read_rules(run_file: Path | None) -> QualityConfig | None:
    """Raises ConfigError if the run file has no rules."""
    if run_file is None:
        return None
    quality = load_run_config(run_file, {}).quality
    if quality is None:
        raise ConfigError(f"--run {run_file}: must have a section `quality`")
    return quality


def _watch(
    output: str, rules: QualityConfig | None, usd_per_gpu_hour: float | None, by: Sequence[str], console: Console
) -> None:
    with Live(console=console, auto_refresh=False) as live:
        while True:
            answer = _read_status(output, rules, usd_per_gpu_hour, by)
            live.update(_show(answer), refresh=True)
            if not answer.active:
                return
            time.sleep(WATCH_EVERY_S)


def _read_status(
    output: str, rules: QualityConfig | None, usd_per_gpu_hour: float | None, by: Sequence[str]
) -> StatusAnswer:
    from lynx_batch.ledger.groups import group_rows
    from lynx_batch.ledger.heartbeat import living_runs
    from lynx_batch.ledger.pace import read_costs, read_pace
    from lynx_batch.ledger.summary import summarise

    now = datetime.now(UTC)
    summary, living = summarise(output, rules), living_runs(output, now)
    quality = None
    if (judged := summary.judged) is not None:
        quality = asdict(judged) | {"pass_rate": judged.pass_rate, "limits_of": summary.limits_of}
    return StatusAnswer(
        output=storage.redact(output),
        num_committed=summary.num_committed,
        num_redo=summary.num_redo,
        redo_given_up={str(outcome): num for outcome, num in summary.redo_given_up.items()},
        runs=describe_runs(summary.runs, living, read_costs(output), usd_per_gpu_hour),
        active=[
            PaceAnswer(run=state.run.run_id, **asdict(read_pace(output, state.run, state.counts.total(), now)))
            for state in summary.runs
            if state.run.run_id in living and state.run.end is None
        ],
        reasons=dict(summary.reasons.most_common()),
        quality=quality,
        groups=[
            GroupAnswer(
                values=dict(zip(by, map(_as_json, values), strict=True)),
                counts={str(outcome): num for outcome, num in group.counts.items()},
                num_judged=group.num_judged,
                likeness=group.likeness,
            )
            for values, group in (group_rows(output, by) if by else {}).items()
        ],
    )


def _as_json(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else value


def _group_table(groups: Sequence[GroupAnswer]) -> Table:
    """A line for each group. A column for each outcome that a row has."""
    from lynx_batch.ledger.metadata import Outcome

    outcomes = [outcome for outcome in Outcome if any(outcome in group.counts for group in groups)]
    table = Table(*(Column(name, overflow="fold") for name in groups[0].values), *outcomes, "likeness")
    for group in groups:
        values = (
            "" if value is None else f"{value:.15g}" if isinstance(value, float) else str(value)
            for value in group.values.values()
        )
        counts = (str(group.counts.get(outcome, 0)) for outcome in outcomes)
        add_row(table, *values, *counts, "" if group.likeness is None else f"{group.likeness:.2f}")
    return table


def _show(status: StatusAnswer) -> RenderableType:
    lines = [f"{status.output}: {counted(status.num_committed, 'clip')} committed"]
    lines += [*_describe_redo(status), *map(describe_pace, status.active)]
    lines += [] if status.quality is None else _describe_judged(status.quality)
    reasons = [f"  {num} {reason}" for reason, num in [*status.reasons.items()][:MAX_REASONS_SHOWN]]
    reasons = ["not rendered by the newest run:", *reasons] if reasons else []
    groups = [_group_table(status.groups)] if status.groups else []
    return Group(*map(Text, lines), make_run_table(status.runs), *groups, *map(Text, reasons))


def _describe_redo(status: StatusAnswer) -> list[str]:
    """What became of the clips for which `retry --redo` asked and that have no newer edition."""
    states = {"waiting for the next `render`": status.num_redo, **status.redo_given_up}
    shown = ", ".join(f"{num} {state}" for state, num in states.items() if num)
    return [f"`retry --redo`: {shown}; the older edition of each such clip stays in force"] if shown else []


def _describe_judged(judged: dict[str, Any]) -> list[str]:
    num_judged = sum(judged[name] for name in ("num_passed", "num_accepted", "num_rejected", "num_unsafe"))
    rate = "" if judged["pass_rate"] is None else f" ({judged['pass_rate']:.0%})"
    lines = (
        []
        if not num_judged
        else [
            f"quality: {judged['num_passed']} of {counted(num_judged, 'judged clip')} passed{rate}, {judged['num_rejected']} rejected, "
            f"{judged['num_unsafe']} unsafe; {counted(judged['num_reseeds'], 'reseed')} in all runs"
        ]
    )
    if judged["rejected_by"]:
        rules = ", ".join(f"{rule} ({num})" for rule, num in judged["rejected_by"].items())
        lines.append(f"rejected by {rules}")
    if judged["num_accepted"]:
        lines.append(f"{counted(judged['num_accepted'], 'clip')} rejected by the gate, then accepted by a person")
    if judged["num_unjudged"]:
        unjudged = counted(judged["num_unjudged"], "committed clip")
        lines.append(f"{unjudged} unjudged: rendered without a quality gate; `lynx-batch judge` scores such clips")
    if judged["num_below"]:
        limits = f"the limits of run {judged['limits_of']}" if judged["limits_of"] else "these limits"
        lines.append(
            f"{counted(judged['num_below'], 'committed clip')} below {limits}: no run renders such a clip again unless "
            f"`retry --redo` asks for it"
        )
    return lines


def _clip_table(output: str) -> Table:
    from lynx_batch.ledger.editions import list_editions
    from lynx_batch.ledger.history import known_commits
    from lynx_batch.ledger.order import newest_rows

    prompt, video = Column("prompt", no_wrap=True, max_width=24), Column("video or reason", overflow="fold")
    table = Table("row", "clip", "outcome", prompt, video)
    rows, editions = newest_rows(output).to_pylist(), list_editions(output)
    missing = {row["clip_id"] for row in rows if not row["clip_uri"]} & editions.in_force.keys()
    others = known_commits(output, {clip_id: editions.in_force[clip_id] for clip_id in missing})
    uri_of = {commit.clip_id: commit.clip_uri for commit in others}
    for row in rows:
        uri = row["clip_uri"] or uri_of.get(row["clip_id"])
        end = storage.join(output, uri) if uri else row["error"]
        if uri and not editions.is_finished(row["clip_id"], row["edition"]):
            end = _explain_older(row, editions.in_force.get(row["clip_id"]), end)
        cells = row["clip_name"] or row["clip_id"], row["outcome"], row["prompt"], end
        add_row(table, str(row["row"]), *(cell or "" for cell in cells))
    return table


def _explain_older(row: dict[str, Any], in_force: int | None, video: str) -> str:
    """What to say of a row whose edition is not in force: an older one may be."""
    if in_force is None:
        return "its commit is no longer in force: the next run renders it again"
    return f"{video} (edition {in_force}, which stays in force); redo: {row['error'] or 'not rendered yet'}"
