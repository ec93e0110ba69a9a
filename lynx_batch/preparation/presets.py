"""What the rows of a run would take with each preset, on the same nodes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from statistics import fmean

import pyarrow as pa

from lynx_batch.clip import ClipSpec
from lynx_batch.config import RunConfig
from lynx_batch.config.preset import PRESETS, Loss, PresetName, stated_loss
from lynx_batch.errors import Permanent
from lynx_batch.intake.manifest import read_manifest
from lynx_batch.ledger.tombstones import read_revoked
from lynx_batch.planning.layout import Node
from lynx_batch.planning.plan import best
from lynx_batch.preparation.budget import price_nodes
from lynx_batch.preparation.forecast import check_gpus, cost_model, forecast_options, forecast_tries
from lynx_batch.preparation.model import CheckedModel, check_model
from lynx_batch.preparation.prepare import check_requests, find_naming, name_clips, origin_of, prepare_rows
from lynx_batch.preparation.selection import Selection

HOUR_S = 3600.0

Load = Callable[[PresetName], RunConfig]
"""Gives the run file with a preset. Raises ConfigError if that is impossible."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PresetCosts:
    """What all clips take, by the shipped figures.

    Attributes:
        num_steps: The different numbers of steps that clips have, rising.
        gpu_s: Mean of the GPU-seconds for which one try of a clip keeps its group busy.
        makespan_s: How long the whole run takes, with loading and all expected tries.
        gpu_hours: What it takes, idle GPUs included.
        usd: Their price; None if it is unknown.
    """

    num_clips: int
    num_steps: tuple[int, ...]
    gpu_s: float
    makespan_s: float
    gpu_hours: float
    usd: float | None

    @property
    def clips_per_gpu_hour(self) -> float:
        return HOUR_S / self.gpu_s


@dataclass(frozen=True, slots=True, kw_only=True)
class PresetForecast:
    """`loss` is the one at the numbers of steps of the run's clips. `costs` is None if the run cannot use the preset; `reason` says why."""

    preset: PresetName
    loss: Loss
    costs: PresetCosts | None = None
    reason: str = ""


def forecast_presets(load: Load, selection: Selection, nodes: tuple[Node, ...], now: datetime) -> list[PresetForecast]:
    """One forecast for each preset, in their order. Writes nothing.

    Every row that `exact` can render counts, committed or not, because a clip of another preset is another clip.

    Raises:
        Permanent: If the run is impossible with `exact`.
    """
    compared = _Compared.of(load(PRESETS[0]), selection, nodes, now)
    forecasts = [_forecast(name, load, compared) for name in PRESETS]
    exact = forecasts[0].costs
    return [_at_its_steps(forecast, exact) for forecast in forecasts]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Compared:
    """What is the same for all presets: the rows that can be rendered, and the hashes of their photos."""

    manifest: pa.Table
    selection: Selection
    nodes: tuple[Node, ...]
    now: datetime
    rows: frozenset[int]
    photos: dict[str, str]

    @classmethod
    def of(cls, exact: RunConfig, selection: Selection, nodes: tuple[Node, ...], now: datetime) -> "_Compared":
        manifest = read_manifest(exact.manifest, selection.where, selection.limit)
        tombstones = read_revoked(exact.output)
        clips = prepare_rows(exact, manifest, origin_of(exact), selection, now, tombstones=tombstones).clips
        return cls(
            manifest=manifest,
            selection=selection,
            nodes=price_nodes(nodes, exact.cluster),
            now=now,
            rows=frozenset(clip.request.row for clip in clips),
            photos={portrait.uri: portrait.sha256 for clip in clips for portrait in clip.portraits},
        )


def _forecast(name: PresetName, load: Load, compared: _Compared) -> PresetForecast:
    try:
        config = load(name)
        model = check_model(config)
        costs = _costs(config, model, _clips(config, model, compared), compared.nodes)
    except Permanent as error:
        return PresetForecast(preset=name, loss=stated_loss(name), reason=" ".join(str(error).split()))
    return PresetForecast(preset=name, loss=stated_loss(name), costs=costs, reason="" if costs else "no row to render")


def _at_its_steps(forecast: PresetForecast, exact: PresetCosts | None) -> PresetForecast:
    if forecast.costs is None or exact is None:
        return forecast
    return replace(forecast, loss=forecast.loss.at(forecast.costs.num_steps, exact.num_steps))


def _clips(config: RunConfig, model: CheckedModel, compared: _Compared) -> list[ClipSpec]:
    checked = check_requests(config, compared.manifest, origin_of(config), compared.selection, compared.now)
    requests = [request for request in checked.requests if request.row in compared.rows]
    clips = name_clips(requests, find_naming(model, checked.readings), compared.photos)
    return list({clip.clip_id: clip for clip in clips}.values())


def _costs(
    config: RunConfig, model: CheckedModel, clips: Sequence[ClipSpec], nodes: tuple[Node, ...]
) -> PresetCosts | None:
    """None if there is no clip. Raises ConfigError if a GPU cannot do what the preset asks for."""
    if not clips:
        return None
    check_gpus(model.engine.options, nodes)
    tries = forecast_tries(config, model)
    chosen = best(forecast_options(clips, nodes, cost_model(model, timings=()), config.cluster, tries))
    return PresetCosts(
        num_clips=len(clips),
        num_steps=tuple(sorted({clip.params.num_inference_steps for clip in clips})),
        gpu_s=fmean(planned.group_size * planned.seconds for planned in chosen.clips),
        makespan_s=chosen.forecast.makespan_s,
        gpu_hours=chosen.forecast.gpu_hours,
        usd=chosen.forecast.usd,
    )
