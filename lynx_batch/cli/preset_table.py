"""`plan --compare-presets`: what a run would take with each preset, and what each loses."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.table import Table

from lynx_batch.cli.console import WIDTH_IN_A_FILE, make_console
from lynx_batch.cli.progress import duration
from lynx_batch.planning.budget import amount

# They load pyarrow, which takes a while, so they are imported by the command.
if TYPE_CHECKING:
    from lynx_batch.planning.layout import Node
    from lynx_batch.preparation.presets import PresetForecast

COLUMNS = ("preset", "steps", "GPU-s a clip", "time", "GPU-hours", "USD", "clips per GPU-hour", "x exact", "loss")


def presets_as_json(forecasts: "Sequence[PresetForecast]") -> list[dict[str, object]]:
    """One object for each preset. What a preset that cannot be used would take is null."""
    return [_as_json(forecast, _times_exact(forecast, forecasts[0])) for forecast in forecasts]


def show_presets(forecasts: "Sequence[PresetForecast]", nodes: "tuple[Node, ...]") -> None:
    console = make_console(WIDTH_IN_A_FILE)
    table = Table(*COLUMNS)
    for forecast in forecasts:
        table.add_row(*_cells(forecast, _times_exact(forecast, forecasts[0])))
    console.print(table)
    estimated = sorted({node.gpu.name for node in nodes if node.gpu.is_estimate})
    of_these = f" (estimated for {', '.join(estimated)})" if estimated else ""
    console.print(
        f"predicted from shipped figures{of_these} of compiled forwards; clips rendered at this output do not correct them, as they do in "
        f"`plan --preset NAME`. Every row counts, committed or not. Time, GPU-hours and USD include loading, idle GPUs and all expected tries; the "
        f"other columns count one try of a clip alone.",
        soft_wrap=True,
    )


def _times_exact(forecast: "PresetForecast", exact: "PresetForecast") -> float | None:
    if forecast.costs is None or exact.costs is None:
        return None
    return exact.costs.gpu_s / forecast.costs.gpu_s


def _as_json(forecast: "PresetForecast", times_exact: float | None) -> dict[str, object]:
    costs = forecast.costs
    return {
        "preset": forecast.preset,
        "costs": None if costs is None else {**asdict(costs), "clips_per_gpu_hour": costs.clips_per_gpu_hour},
        "times_exact": times_exact,
        "loss": forecast.loss.text,
        "is_loss_measured": forecast.loss.is_measured,
        "reason": forecast.reason or None,
    }


def _cells(forecast: "PresetForecast", times_exact: float | None) -> list[str]:
    costs = forecast.costs
    if costs is None:
        return [forecast.preset, *[""] * (len(COLUMNS) - 2), f"cannot be used: {forecast.reason}"]
    return [
        forecast.preset,
        ", ".join(map(str, costs.num_steps)),
        f"{costs.gpu_s:,.1f}",
        duration(costs.makespan_s),
        f"{costs.gpu_hours:,.1f}",
        "" if costs.usd is None else amount(costs.usd),
        f"{costs.clips_per_gpu_hour:,.1f}",
        "" if times_exact is None else f"{times_exact:.2f}",
        forecast.loss.text,
    ]
