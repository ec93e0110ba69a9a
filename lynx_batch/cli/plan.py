"""`plan`: predicts what a run would take on a cluster, without a cluster."""

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from lynx_batch import api
from lynx_batch.cli import options
from lynx_batch.cli.console import make_console, say
from lynx_batch.cli.plan_rows import refuse_other_rows, show_rows, write_rows
from lynx_batch.cli.preset_table import presets_as_json, show_presets
from lynx_batch.cli.progress import duration
from lynx_batch.cli.render import load
from lynx_batch.config.preset import PRESETS
from lynx_batch.errors import ConfigError
from lynx_batch.planning.budget import amount
from lynx_batch.preparation.node_types import nodes_to_plan_on
from lynx_batch.preparation.selection import Selection
from lynx_batch.printable import counted

# pyarrow takes a while to load, so what reads manifests and metadata is imported by the command.
if TYPE_CHECKING:
    from collections.abc import Mapping

    from lynx_batch.planning.expectation import PassCount
    from lynx_batch.planning.layout import Node
    from lynx_batch.planning.plan import Option
    from lynx_batch.preparation.forecast import RunForecast
    from lynx_batch.preparation.presets import Load

WIDTH = 100


def plan(
    run_file: options.RunFile,
    gpus: Annotated[
        list[str] | None,
        typer.Option(
            help="Such as 64xH100 or 64xH100@2.5 (USD per GPU-hour), in nodes of 8. May be repeated. Default: what may come by "
            "cluster.node_types, or else 8xH200."
        ),
    ] = None,
    deadline: Annotated[str | None, typer.Option(help="Such as 90m, 8h or 2d.")] = None,
    manifest: options.Manifest = None,
    output: options.Output = None,
    preset: options.Preset = None,
    overrides: options.Overrides = None,
    limit: options.Limit = None,
    where: options.Where = None,
    allow_invalid: options.AllowInvalid = False,
    allow_duplicates: options.AllowDuplicates = False,
    allow_missing_consent: options.AllowMissingConsent = False,
    require_approval: Annotated[
        bool | None, typer.Option("--require-approval", help="Warn of what `render --require-approval` would refuse.")
    ] = None,
    rows: Annotated[
        bool, typer.Option("--rows", help="Also say of each row where it stands and what it costs.")
    ] = False,
    out: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write what --rows says to a .csv or .parquet file.")
    ] = None,
    compare_presets: Annotated[
        bool, typer.Option("--compare-presets", help="Show what all rows would take with each preset, and its loss.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
) -> None:
    """Show what is already committed, and simulate the rest on a cluster. Needs neither Ray nor a GPU.

    Warns if the run requires an approval that is missing: `render` and `submit` would refuse it. The exit code stays 0, because a plan
    is needed before anything can be approved.
    """
    if compare_presets:
        _refuse_beside_comparison({"--preset": preset, "--deadline": deadline, "--rows": rows, "--out": out})
    if out is not None:
        refuse_other_rows("--out", out)
    deadline_s = options.parse_duration("--deadline", deadline) if deadline else None
    settings = {"manifest": manifest, "output": output, "preset": preset, "approval.required": require_approval}
    selection = Selection(
        where=where,
        limit=limit,
        allow_invalid=allow_invalid,
        allow_duplicates=allow_duplicates,
        allow_missing_consent=allow_missing_consent,
    )
    if compare_presets:
        _compare_presets(lambda name: load(run_file, settings | {"preset": name}, overrides), selection, gpus, as_json)
        return
    config = load(run_file, settings, overrides)
    nodes = nodes_to_plan_on(config.cluster, gpus)
    forecast = api.plan(config, gpus, selection)
    found = forecast.rows() if rows or out else []
    if as_json:
        listed = {"rows": [asdict(row) for row in found]} if rows else {}
        say(json.dumps(_as_json(forecast, deadline_s) | listed, indent=1))
    else:
        _show(forecast, nodes, deadline_s)
        if rows:
            show_rows(found)
    if out is not None:
        write_rows(found, out)
        if not as_json:
            say(f"{out}: {len(found):,} rows")


def _refuse_beside_comparison(others: "Mapping[str, object]") -> None:
    for option, value in others.items():
        if value:
            raise ConfigError(
                f"{option}: must not be given with --compare-presets, which shows one table of all presets"
            )


def _compare_presets(load_preset: "Load", selection: Selection, gpus: list[str] | None, as_json: bool) -> None:
    from lynx_batch.preparation.presets import forecast_presets

    nodes = nodes_to_plan_on(load_preset(PRESETS[0]).cluster, gpus)
    forecasts = forecast_presets(load_preset, selection, nodes, datetime.now(UTC))
    if as_json:
        say(json.dumps({"presets": presets_as_json(forecasts)}, indent=1))
    else:
        show_presets(forecasts, nodes)


def _as_json(forecast: "RunForecast", deadline_s: float | None) -> dict[str, object]:
    chosen = forecast.chosen
    report: dict[str, object] = {
        "num_rows": forecast.num_rows,
        "num_committed": forecast.num_committed,
        "num_given_up": forecast.num_given_up,
        "num_rejected": len(forecast.rejections),
        "num_unreachable": forecast.num_unreachable,
        "num_to_render": forecast.num_to_render,
        "num_timings": forecast.num_timings,
        "tries_per_clip": forecast.num_tries,
        "judged": _judged(forecast),
        "num_unfit": forecast.num_unfit,
        "ideal_s": forecast.ideal_s,
        "deadline_s": deadline_s,
        "limits": _limits(forecast),
        "unapproved": forecast.unapproved,
        "options": [
            {"smallest_group": option.sizes[0], "largest_group": option.sizes[-1], **asdict(option.forecast)}
            for option in forecast.options
        ],
    }
    if chosen is not None:
        report["chosen_group"] = chosen.sizes[0]
        report["meets_deadline"] = deadline_s is None or chosen.forecast.makespan_s <= deadline_s
    return report


def _limits(forecast: "RunForecast") -> dict[str, object] | None:
    if forecast.limits is None:
        return None
    return {**asdict(forecast.limits), "spent": asdict(forecast.spent), "exceeded": forecast.exceeded}


def _show(forecast: "RunForecast", nodes: "tuple[Node, ...]", deadline_s: float | None) -> None:
    from lynx_batch.preparation.prepare import ALL_PROBLEMS, describe_rejections

    console = make_console(WIDTH)
    console.print(
        f"{counted(forecast.num_rows, 'row')}: {forecast.num_to_render} to render, {forecast.num_committed} committed, "
        f"{forecast.num_given_up} given up before, {len(forecast.rejections)} rejected"
    )
    if forecast.rejections:
        console.print(describe_rejections(forecast.rejections, ALL_PROBLEMS), soft_wrap=True)
    if forecast.num_unreachable:
        reason = f"their photos cannot be read: {forecast.outage}"
        console.print(f"{counted(forecast.num_unreachable, 'row')} cannot start because {reason}", soft_wrap=True)
    if forecast.unapproved is not None:
        console.print(f"warning: {forecast.unapproved}", soft_wrap=True)
    chosen = forecast.chosen
    if chosen is None:
        return
    console.print(_table(forecast))
    to_come = [node for node in nodes if node.may_come]
    excess = chosen.forecast.makespan_s / forecast.ideal_s - 1
    console.print(
        f"chosen: groups of {_describe_sizes(chosen)}: {_merit(has_to_come=bool(to_come))}; "
        f"{excess:.1%} longer than if every GPU were busy to the end in groups of one"
    )
    if to_come:
        console.print(_describe_coming(to_come), soft_wrap=True)
    console.print(_basis(forecast, nodes))
    if forecast.judged is not None:
        console.print(f"tries: {forecast.num_tries:.2f} per clip expected, {_explain_tries(forecast.judged)}")
    if forecast.num_unfit:
        console.print(
            f"memory: by the estimate, no group has room for {counted(forecast.num_unfit, 'clip')}; "
            f"`lynx-batch doctor RUN.yaml` on such a node says what would help at the run's default size"
        )
    if deadline_s is not None:
        console.print(_compare(chosen, deadline_s, nodes))
    if forecast.limits is not None:
        console.print("\n".join(forecast.exceeded or [_describe_fit(forecast, chosen)]), soft_wrap=True)


def _merit(*, has_to_come: bool) -> str:
    return f"the shortest run{'' if has_to_come else ', and so the cheapest on these GPUs'}"


def _describe_coming(nodes: "Iterable[Node]") -> str:
    from lynx_batch.planning.simulate import START_S

    most = Counter(f"{node.num_gpus}x{node.gpu.name}{' (spot)' if node.is_spot else ''}" for node in nodes)
    paid = f"each is paid from {duration(START_S)} before it is there until its last group ends"
    return f"nodes: at most {', '.join(f'{number} of {kind}' for kind, number in most.items())}; {paid}"


def _table(forecast: "RunForecast") -> Table:
    table = Table("groups of", "groups formed", "time", "GPU-hours", "USD", "busy", "x ideal")
    for option in forecast.options:
        report = option.forecast
        table.add_row(
            f"{_describe_sizes(option)}{' (chosen)' if option is forecast.chosen else ''}",
            " + ".join(f"{num} of {size}" for size, num in sorted(report.groups.items())),
            duration(report.makespan_s),
            f"{report.gpu_hours:,.1f}",
            "" if report.usd is None else amount(report.usd),
            f"{report.busy_share:.0%}",
            f"{report.makespan_s / forecast.ideal_s:.3f}",
        )
    return table


def _describe_sizes(option: "Option") -> str:
    """The sizes that groups may have: clips that gain by it get wide ones."""
    smallest, largest = option.sizes[0], option.sizes[-1]
    return str(smallest) if smallest == largest else f"{smallest} to {largest}"


def _describe_fit(forecast: "RunForecast", chosen: "Option") -> str:
    assert forecast.limits is not None
    spent, held = forecast.spent, chosen.forecast
    taken = (
        f"{amount(spent.gpu_hours)} GPU-hours are spent, and the groups of the run take {amount(held.held_gpu_hours)}"
    )
    if forecast.limits.max_usd is not None and held.held_usd is not None:
        taken += f", which cost {amount(held.held_usd)} USD"
    return f"stays within the limits {forecast.limits.name!r}: {taken}"


def _basis(forecast: "RunForecast", nodes: "tuple[Node, ...]") -> str:
    estimated = sorted({node.gpu.name for node in nodes if node.gpu.is_estimate})
    if forecast.num_timings:
        return f"figures: shipped, corrected by {counted(forecast.num_timings, 'clip')} rendered at this output"
    return f"figures: shipped{', estimated for ' + ', '.join(estimated) if estimated else ''}; no clip was rendered at this output yet"


def _judged(forecast: "RunForecast") -> dict[str, object] | None:
    judged = forecast.judged
    if judged is None:
        return None
    return {**asdict(judged), "pass_share": judged.share, "is_assumed": not judged.is_enough}


def _explain_tries(judged: "PassCount") -> str:
    from lynx_batch.planning.expectation import MIN_TRIES

    if judged.is_enough:
        return f"as {judged.num_passed} of {judged.num_tries} that were judged here pass these rules"
    return f"{judged.share:.0%} are assumed to pass, with only {judged.num_tries} judged here ({MIN_TRIES} are needed)"


def _compare(chosen: "Option", deadline_s: float, nodes: "tuple[Node, ...]") -> str:
    from lynx_batch.planning.cost import LOAD_S
    from lynx_batch.planning.simulate import START_S

    before_s = LOAD_S + (START_S if all(node.may_come for node in nodes) else 0.0)
    makespan_s = chosen.forecast.makespan_s
    if makespan_s <= deadline_s:
        return f"meets the deadline with {duration(deadline_s - makespan_s)} to spare"
    missed = f"misses the deadline by {duration(makespan_s - deadline_s)}"
    least_s = before_s + max(planned.seconds for planned in chosen.clips)
    if deadline_s < least_s:
        waiting = "waiting for a node, " if before_s > LOAD_S else ""
        return f"{missed}: {waiting}loading and the longest clip alone take {duration(least_s)}"
    num_gpus = sum(node.num_gpus for node in nodes)
    needed = math.ceil(num_gpus * (makespan_s - before_s) / (deadline_s - before_s))
    return f"{missed}: about {needed} such GPUs would meet it"
