"""`status` and `runs` show what an output location holds, from its objects alone."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from lynx_batch import storage
from lynx_batch.cli import options
from lynx_batch.cli.answers import GroupAnswer, PaceAnswer, RunsAnswer, StatusAnswer
from lynx_batch.cli.console import add_row, make_console, say_answer, silence
from lynx_batch.cli.outputs import Output, Rules, await_run, check_output, read_rules
from lynx_batch.cli.run_table import UsdPerGpuHour, describe_pace, describe_runs, make_run_table
from lynx_batch.config import QualityConfig
from lynx_batch.errors import ConfigError
from lynx_batch.printable import counted

MAX_REASONS_SHOWN = 20
WATCH_EVERY_S = 10.0


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
    rules = read_rules(run_file)
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
