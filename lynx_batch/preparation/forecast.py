"""What `plan` and `render` share: the cost model of a run, and the options to render its clips on some nodes."""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from statistics import fmean
from typing import Any

from lynx_batch.clip import ClipSpec, Rejection
from lynx_batch.config import ClusterConfig, RunConfig
from lynx_batch.errors import ConfigError
from lynx_batch.ledger.history import given_up_before
from lynx_batch.ledger.judged_tries import read_sample
from lynx_batch.ledger.numbering import editions_for
from lynx_batch.ledger.spending import SpentRecords
from lynx_batch.ledger.timings import Timing, read_timings
from lynx_batch.ledger.tombstones import read_revoked
from lynx_batch.ledger.tries import still_rejected
from lynx_batch.planning.budget import Amount, Limits, exceeded_limits
from lynx_batch.planning.cost import CostModel, Engine, Observation, gpu_type, works_of
from lynx_batch.planning.expectation import PassCount, TryForecast
from lynx_batch.planning.layout import Node, possible_sizes
from lynx_batch.planning.plan import Option, best, ideal_s, num_unfit, options, typical_node
from lynx_batch.planning.row_costs import RowCost, RowState, cost_rows, refused_rows
from lynx_batch.planning.verdict import NOT_GOOD_ENOUGH
from lynx_batch.preparation.approval import explain_missing_approval, settings_of
from lynx_batch.preparation.budget import check_prices, limits_of, price_nodes, prices_of, total_spent
from lynx_batch.preparation.model import CheckedModel
from lynx_batch.preparation.prepare import prepare
from lynx_batch.preparation.selection import Selection
from lynx_model.spec import AttentionChoice, EngineOptions

HOPPER_KERNELS: tuple[AttentionChoice, ...] = ("fa3", "fa3_fp8", "fa4")
"""Attention kernels that no older GPU runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunForecast:
    """What a run would find, and how long it would take.

    `clips` are those that rows ask for; of them `committed` are finished, and `given_up` says why earlier runs gave others up. Photos of
    `unreachable` rows are on hosts that are down, as `outage` says.
    `num_timings` earlier clips corrected the shipped figures. By the estimate, no group has enough memory for `num_unfit` clips.
    If there is nothing to render, `options` is empty and `chosen` is None.
    With a quality gate, each of the clips is expected to take `num_tries` on average, because of the tries in `judged`; without one,
    `judged` is None.
    `node` is the one for whose GPUs the clips' times were predicted.
    `limits` are those of the run file, `spent` is what counts against them so far, and `exceeded` says which of them the run would pass.
    `unapproved` says what is missing if the run requires an approval that it does not have; `render` would refuse it then.
    """

    num_rows: int
    clips: list[ClipSpec]
    committed: Set[str]
    given_up: Mapping[str, str]
    rejections: list[Rejection]
    unreachable: list[Rejection]
    outage: str
    num_to_render: int
    num_timings: int
    num_tries: float
    judged: PassCount | None
    num_unfit: int
    ideal_s: float
    options: list[Option]
    chosen: Option | None
    node: Node
    limits: Limits | None
    spent: Amount
    exceeded: list[str]
    unapproved: str | None = None

    @property
    def num_committed(self) -> int:
        return len(self.committed)

    @property
    def num_given_up(self) -> int:
        return len(self.given_up)

    @property
    def num_unreachable(self) -> int:
        return len(self.unreachable)

    def rows(self) -> list[RowCost]:
        """Where each row stands, and what it costs, in the order of the manifest."""
        planned = self.chosen.clips if self.chosen else []
        found = [
            *cost_rows(self.clips, planned, committed=self.committed, given_up=self.given_up, node=self.node),
            *refused_rows(self.rejections, RowState.REJECTED),
            *refused_rows(self.unreachable, RowState.UNREACHABLE),
        ]
        return sorted(found, key=lambda row: row.row)


def _is_open_again(config: RunConfig, clip: ClipSpec, row: Mapping[str, Any]) -> bool:
    """Whether a gate rejected the clip, and the present rules allow more."""
    if row["error_type"] != NOT_GOOD_ENOUGH:
        return False
    why, _ = still_rejected(config.output, clip, row["edition"], config.quality)
    return why is None


def forecast_run(config: RunConfig, selection: Selection, nodes: tuple[Node, ...], now: datetime) -> RunForecast:
    """Predicts what `render` would do on a cluster of `nodes`, with the same code. Writes nothing."""
    nodes = price_nodes(nodes, config.cluster)
    check_prices(config, nodes)
    prepared = prepare(config, selection, now, tombstones=read_revoked(config.output))
    check_gpus(prepared.model.engine.options, nodes)
    wanted = {clip.clip_id: clip for clip in prepared.clips}
    editions = editions_for(config.output, wanted.values(), config.quality)
    committed = wanted.keys() & editions.finished
    given_up = {
        row["clip_id"]: f"{row['error_type']}: {row['error']}"
        for row in given_up_before(config.output, editions).to_pylist()
        if row["clip_id"] in wanted and not _is_open_again(config, wanted[row["clip_id"]], row)
    }
    settled = committed | given_up.keys()
    clips = [clip for clip_id, clip in wanted.items() if clip_id not in settled]
    timings = read_timings(config.output, prepared.model.identity)
    cost = cost_model(prepared.model, timings)
    tries = forecast_tries(config, prepared.model)
    found = forecast_options(clips, nodes, cost, config.cluster, tries) if clips else []
    chosen = best(found) if found else None
    if chosen and any(node.may_come for node in nodes):  # wide groups take more nodes, so narrow ones may cost less
        found += forecast_each_size(clips, nodes, cost, config.cluster, tries)
    limits, spent = limits_of(config, now), Amount()
    if limits is not None:
        spent = total_spent(SpentRecords(config.output).read(limits.name), prices_of(config.cluster))
    return RunForecast(
        num_rows=prepared.manifest.num_rows,
        clips=prepared.clips,
        committed=committed,
        given_up=given_up,
        rejections=prepared.rejections,
        unreachable=prepared.unreachable,
        outage=prepared.outage,
        num_to_render=len(clips),
        num_timings=len(timings),
        num_tries=fmean(planned.num_tries for planned in chosen.clips) if chosen else 1.0,
        judged=tries.counted if tries else None,
        num_unfit=num_unfit(chosen.clips, cost, nodes) if chosen else 0,
        ideal_s=ideal_s(found[0].clips, cost, nodes) if found else 0.0,
        options=found,
        chosen=chosen,
        node=typical_node(nodes),
        limits=limits,
        spent=spent,
        exceeded=exceeded_limits(limits, spent, chosen.forecast, now.timestamp()) if limits and chosen else [],
        unapproved=explain_missing_approval(
            config, settings_of(config, prepared.model), (clip.request for clip in prepared.clips)
        ),
    )


def check_gpus(engine: EngineOptions, nodes: Iterable[Node]) -> None:
    """Raises ConfigError if the engine needs what a GPU of the nodes lacks. A GPU of unknown type is taken for a Hopper GPU."""
    fp8, hopper = ("GPUs that multiply fp8", (8, 9)), ("Hopper GPUs", (9, 0))
    needs = (
        (engine.precision == "fp8", "engine.precision=fp8", fp8, "engine.precision=bfloat16"),
        (engine.fp8_attention is not None, "engine.fp8_attention", hopper, "engine.fp8_attention=false"),
        (engine.attention in HOPPER_KERNELS, f"engine.attention={engine.attention}", hopper, "engine.attention=auto"),
    )
    gpus = sorted({node.gpu for node in nodes}, key=lambda gpu: gpu.name)
    for is_asked, given, (need, capability), instead in needs:
        lacking = [gpu.name for gpu in gpus if gpu.capability < capability]
        if is_asked and lacking:
            raise ConfigError(f"{given}: needs {need}, unlike {lacking[0]}; there, use `--set {instead}`")


def cost_model(model: CheckedModel, timings: Sequence[Timing]) -> CostModel:
    """Shipped figures for the run's model and engine, corrected by how long earlier runs took."""
    engine = Engine(size=model.size, options=model.engine.options, traits=model.traits)
    works = works_of((timing.params for timing in timings), engine)
    observations = [
        Observation(gpu=gpu_type(t.device), group_size=t.group_size, work=work, seconds=t.seconds)
        for t, work in zip(timings, works, strict=True)
    ]
    return CostModel(engine=engine).fitted(observations)


def forecast_tries(config: RunConfig, model: CheckedModel) -> TryForecast | None:
    """How many tries clips are expected to take, by those of the same weights and numerics that were judged at this output.

    None if the run does not judge.
    """
    if config.quality is None:
        return None
    judged = read_sample(config.output, model.identity)
    return TryForecast(config.quality, PassCount.of(judged, config.quality))


def forecast_options(
    clips: Sequence[ClipSpec],
    nodes: tuple[Node, ...],
    cost: CostModel,
    cluster: ClusterConfig,
    tries: TryForecast | None,
) -> list[Option]:
    """One forecast for each smallest group size that `cluster.gpus_per_group` allows.

    Raises:
        ConfigError: If no node has as many GPUs as it asks for.
    """
    sizes = _sizes(nodes, cluster)
    return options(clips, cost=cost, nodes=nodes, sizes=sizes, max_groups=cluster.max_groups, tries=tries)


def forecast_each_size(
    clips: Sequence[ClipSpec],
    nodes: tuple[Node, ...],
    cost: CostModel,
    cluster: ClusterConfig,
    tries: TryForecast | None,
) -> list[Option]:
    """One forecast for each group size alone, but the widest, which `forecast_options` has. No run takes one of these by itself."""
    narrower = _sizes(nodes, cluster)[:-1]
    render = partial(options, clips, cost=cost, nodes=nodes, max_groups=cluster.max_groups, tries=tries)
    return [option for size in narrower for option in render(sizes=(size,))]


def _sizes(nodes: tuple[Node, ...], cluster: ClusterConfig) -> tuple[int, ...]:
    most = max((node.num_gpus for node in nodes), default=0)
    size = cluster.gpus_per_group
    if size != "auto":
        if size > most:
            raise ConfigError(f"cluster.gpus_per_group={size}: no node has that many GPUs; the largest has {most}")
        return (size,)
    if not most:
        raise ConfigError("cluster: must have a node with a GPU or a CPU core")
    return possible_sizes(nodes)
