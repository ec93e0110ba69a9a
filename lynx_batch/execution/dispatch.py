"""The part of a run that needs the cluster: it plans the open clips and has them rendered there."""

import time
from collections.abc import Callable

import structlog

from lynx_batch import storage
from lynx_batch.config import ClusterConfig, RunConfig
from lynx_batch.errors import HeadLost, LimitReached
from lynx_batch.execution.cluster import Slots, connected, find_head, has_several_machines
from lynx_batch.execution.driver import Driver
from lynx_batch.execution.outcomes import RunRecorder
from lynx_batch.execution.progress import Progress
from lynx_batch.execution.recorder import Recorders
from lynx_batch.execution.run_metrics import RunMetrics, describe_addresses
from lynx_batch.ledger.heartbeat import living_runs
from lynx_batch.ledger.history import deaths_before
from lynx_batch.ledger.timings import read_timings
from lynx_batch.planning.budget import Budget
from lynx_batch.planning.cost import CostModel
from lynx_batch.planning.layout import Node
from lynx_batch.planning.plan import best
from lynx_batch.planning.schedule import RetryPolicy, Schedule
from lynx_batch.preparation.budget import check_prices, price_nodes
from lynx_batch.preparation.forecast import cost_model, forecast_options, forecast_tries
from lynx_batch.preparation.model import CheckedModel
from lynx_batch.preparation.node_types import node_types_of, nodes_of_run
from lynx_batch.preparation.package import refuse_private_paths
from lynx_batch.printable import counted
from lynx_batch.rendering.tasks import WorkerSettings

log = structlog.get_logger()

Watch = Callable[[Progress], None]


def dispatch(
    config: RunConfig,
    settings: WorkerSettings,
    model: CheckedModel,
    recorder: RunRecorder,
    announce: Callable[[str], None],
    watch: Watch,
    budget: Budget,
) -> None:
    """Renders the open clips on the cluster, each on the group that the plan gives it.

    Raises:
        LimitReached: As `Driver.run`; at once if the budget is spent already.
    """
    if reason := budget.why_refused((), None, time.monotonic(), time.time()):
        log.warning("limit_reached", reason=reason, num_left=len(recorder.open_clips))
        raise LimitReached(f"{reason}; {counted(len(recorder.open_clips), 'clip')} left")
    metrics = RunMetrics(settings.run_id)

    def watch_and_export(progress: Progress) -> None:
        metrics.watch(progress)
        watch(progress)

    rivals = living_runs(config.output, storage.clock(config.output)).keys() - {settings.run_id}
    schedule = Schedule(RetryPolicy(**config.retry.model_dump()), order_salt=settings.run_id if rivals else "")
    cost = cost_model(model, read_timings(config.output, model.identity))
    budget.predict_with(cost)
    driver = Driver(
        schedule=schedule,
        settings=settings,
        cluster=config.cluster,
        cost=cost,
        editions=recorder.editions,
        first_numbers=recorder.first_numbers,
        recorder=Recorders(recorder, metrics),
        watch=watch_and_export,
        budget=budget,
    )

    def render_once() -> None:
        with connected(config.cluster) as slots:
            check_prices(config, _priced_nodes(config.cluster, slots))
            announce(f"metrics for Prometheus: {describe_addresses() or 'none'}")
            if schedule.is_finished:
                _plan(config, model, recorder, schedule, slots, cost)
            driver.run(slots, find_head(is_local=config.cluster.is_local))

    try:
        render_once()
    except HeadLost as loss:
        if not config.cluster.is_local:
            raise
        log.warning("local_ray_lost", error=str(loss))
        render_once()


def _plan(
    config: RunConfig,
    model: CheckedModel,
    recorder: RunRecorder,
    schedule: Schedule,
    slots: Slots,
    cost: CostModel,
) -> None:
    """Plans the open clips on the nodes that the cluster has now, and on those that may come."""
    if config.cluster.node_types or has_several_machines():
        refuse_private_paths(
            config, dict.fromkeys(portrait.uri for clip in recorder.open_clips for portrait in clip.portraits)
        )
    nodes = _priced_nodes(config.cluster, slots)
    tries = forecast_tries(config, model)
    chosen = best(forecast_options(recorder.open_clips, nodes, cost, config.cluster, tries))
    log.info("planned", groups=chosen.forecast.groups, predicted_s=round(chosen.forecast.makespan_s))
    deaths = deaths_before(config.output, {clip.clip_id for clip in recorder.open_clips}, recorder.editions)
    schedule.plan(chosen.clips, chosen.sizes, deaths)


def _priced_nodes(cluster: ClusterConfig, slots: Slots) -> tuple[Node, ...]:
    return price_nodes(nodes_of_run(node_types_of(cluster), slots.nodes.values()), cluster)
