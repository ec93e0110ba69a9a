"""The runs of an output location as `status` and `runs` show them."""

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from lynx_batch.cli.answers import PaceAnswer, RunAnswer
from lynx_batch.cli.console import add_row
from lynx_batch.cli.progress import duration
from lynx_batch.planning.budget import amount
from lynx_batch.printable import counted

if TYPE_CHECKING:
    from lynx_batch.ledger.pace import Cost
    from lynx_batch.ledger.runs import Run
    from lynx_batch.ledger.summary import RunState

UsdPerGpuHour = Annotated[
    float | None, typer.Option(min=0, help="The price of a GPU-hour in USD. Default: the run file's, if it names one.")
]


def describe_runs(
    states: "Iterable[RunState]",
    living: Collection[str],
    costs: "Mapping[str, Cost]",
    usd_per_gpu_hour: float | None,
) -> list[RunAnswer]:
    """`usd_per_gpu_hour` overrules the runs' own prices."""
    from lynx_batch.ledger.pace import NO_COST

    return [
        _describe_run(
            state, costs.get(state.run.run_id, NO_COST).at(usd_per_gpu_hour), is_living=state.run.run_id in living
        )
        for state in states
    ]


def _describe_run(state: "RunState", cost: "Cost", *, is_living: bool) -> RunAnswer:
    run = state.run
    return RunAnswer(
        run=run.run_id,
        started_at=run.record.started_at,
        ended_at=run.end.ended_at if run.end else None,
        state=_describe_state(run, is_living=is_living),
        num_rows=run.record.num_rows,
        outcomes={str(outcome): num for outcome, num in state.counts.items()},
        gpu_hours=cost.gpu_hours,
        usd=cost.usd,
    )


def make_run_table(runs: Iterable[RunAnswer]) -> Table:
    table = Table("run", "started", "took", "rows", "state", "outcomes", "GPU-hours", "USD")
    for run in runs:
        add_row(
            table,
            run.run,
            f"{run.started_at:%Y-%m-%d %H:%M}",
            duration((run.ended_at - run.started_at).total_seconds()) if run.ended_at else "",
            str(run.num_rows),
            run.state,
            ", ".join(f"{num} {outcome}" for outcome, num in sorted(run.outcomes.items())),
            amount(run.gpu_hours),
            "" if run.usd is None else amount(run.usd),
        )
    return table


def describe_pace(pace: PaceAnswer) -> str:
    attempts, left = counted(pace.num_attempts, "attempt"), counted(pace.num_left, "row")
    parts = [f"{pace.clips_per_hour:,.0f} clips an hour", attempts, f"{left} left"]
    if pace.left_s is not None:
        parts.append(f"about {duration(pace.left_s)}")
    return f"run {pace.run}: {', '.join(parts)}"


def _describe_state(run: "Run", *, is_living: bool) -> str:
    if run.end is not None:
        state = f"stopped: {run.end.stopped_by}" if run.end.stopped_by else "finished"
    else:
        state = "running" if is_living else "unfinished"
    return state if run.record.is_store_safe else f"{state} (unsafe commits)"
