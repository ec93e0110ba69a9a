"""One run, from run file to metadata: every row of its manifest ends in exactly one outcome."""

import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import structlog

from lynx_batch import storage
from lynx_batch.config import ClusterConfig, RunConfig
from lynx_batch.config.references import mask_address
from lynx_batch.errors import HeadLost, LimitReached, StoreRefused, StoreUnready, TooManyFaults, UnsafeStore
from lynx_batch.execution.cluster import Slots, connected, find_head, has_several_machines
from lynx_batch.execution.driver import Driver
from lynx_batch.execution.outcomes import RunRecorder
from lynx_batch.execution.progress import Progress
from lynx_batch.execution.recorder import Recorders
from lynx_batch.execution.run_metrics import RunMetrics, describe_addresses
from lynx_batch.execution.spending import SpendingLog
from lynx_batch.interrupts import held
from lynx_batch.ledger.heartbeat import beating, living_runs
from lynx_batch.ledger.history import deaths_before
from lynx_batch.ledger.logs import uploading
from lynx_batch.ledger.metadata import Outcome
from lynx_batch.ledger.owners import owners_of, write_owners
from lynx_batch.ledger.remains import withdraw_revoked
from lynx_batch.ledger.runs import RunRecord, claim_run_id, new_run_id, write_run_record
from lynx_batch.ledger.spending import SpentRecords
from lynx_batch.ledger.timings import read_timings
from lynx_batch.ledger.tombstones import read_revoked
from lynx_batch.notices.notice import Event, Notice
from lynx_batch.notices.notifier import Notifier, open_targets
from lynx_batch.output import FOLDERS, LOG_OF_DRIVER, TRIES, report_index_uri
from lynx_batch.planning.approval import Setting
from lynx_batch.planning.budget import NOTHING, Budget
from lynx_batch.planning.cost import CostModel
from lynx_batch.planning.layout import Node
from lynx_batch.planning.plan import best
from lynx_batch.planning.schedule import RetryPolicy, Schedule
from lynx_batch.preparation.approval import check_approved, settings_of
from lynx_batch.preparation.budget import (
    check_prices,
    limits_of,
    price_nodes,
    prices_of,
    require_prices,
    total_spent,
)
from lynx_batch.preparation.consent import is_consent_required
from lynx_batch.preparation.forecast import cost_model, forecast_options, forecast_tries
from lynx_batch.preparation.model import CheckedModel
from lynx_batch.preparation.node_types import node_types_of, nodes_of_run, require_autoscaler
from lynx_batch.preparation.origin import Origin
from lynx_batch.preparation.package import refuse_private_paths
from lynx_batch.preparation.prepare import PreparedRun, describe_rejections, origin_of, prepare
from lynx_batch.preparation.selection import Selection
from lynx_batch.printable import counted
from lynx_batch.probe import probe_create_only, probe_rights
from lynx_batch.rendering.software import software_versions
from lynx_batch.rendering.tasks import WorkerSettings
from lynx_batch.telemetry import describe_process
from lynx_model.spec import ParallelPlan

log = structlog.get_logger()

Watch = Callable[[Progress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """How a run ended: rows by outcome, and what stopped it early (empty if nothing did).

    `num_still_in_force` is as in `RunRecorder`, `clips_gone` as in `RunEnd`, `busy_shares` as in `Trace.busy_shares`. `is_refused`: the
    store refused a right, so running again helps only once that is granted. `is_limited`: a limit of the run file stopped it.
    """

    run_id: str
    counts: Counter[Outcome]
    num_rendered_elsewhere: int
    num_still_in_force: int
    busy_shares: dict[str, float]
    stopped_by: str
    clips_gone: tuple[str, ...]
    is_refused: bool
    is_limited: bool

    @property
    def is_complete(self) -> bool:
        return self.counts.total() == self.counts[Outcome.RENDERED]


def render(
    config: RunConfig,
    selection: Selection,
    *,
    is_unsafe_allowed: bool,
    announce: Callable[[str], None],
    watch: Watch,
    run_id: str | None = None,
    origin: Origin | None = None,
) -> RunSummary:
    """Renders every row of the manifest that is not committed yet. `origin` is where the manifest of a submitted job came from.

    Raises:
        Permanent: If the run file, manifest, model, store or cluster is unusable; raised before any clip is rendered.
        StoreUnavailable: If the store cannot be reached at the start, or for minutes at the end.
    """
    now = datetime.now(UTC)
    origin = origin or origin_of(config)
    require_prices(config)
    require_autoscaler(config.cluster)
    targets = open_targets(config.notify)
    prepared = prepare(config, selection, now, origin, tombstones=read_revoked(config.output))
    settings = settings_of(config, prepared.model)
    approvals = check_approved(config, settings, (clip.request for clip in prepared.clips))
    is_store_safe = _probe(config.output, is_judged=config.quality is not None, is_unsafe_allowed=is_unsafe_allowed)
    run_id = new_run_id(now) if run_id is None else claim_run_id(config.output, run_id)
    record = _write_record(
        config,
        run_id,
        selection,
        origin,
        prepared,
        now,
        is_store_safe=is_store_safe,
        settings=settings,
        approvals=approvals,
    )
    owners = owners_of(run_id, prepared.clips)
    write_owners(config.output, run_id, owners)
    _announce_rivals(config.output, announce)
    recorder = RunRecorder(config.output, run_id, prepared, config.quality)
    budget, spending = _open_budget(config, run_id, now)
    notifier = Notifier(targets, partial(_describe_state, config.output, run_id, record, recorder, budget))

    def watch_all(progress: Progress) -> None:
        recorder.write_due()
        spending.update()
        notifier.progress(recorder.counts.total() / record.num_rows)
        watch(progress)

    def render_open() -> None:
        recorder.settle_past()
        announce(_describe(run_id, config.output, prepared, recorder))
        notifier.start(recorder.counts.total() / max(1, record.num_rows))
        if recorder.open_clips:
            settings = _worker_settings(config, run_id, prepared.model, record)
            _drive(config, settings, prepared.model, recorder, announce, watch_all, budget)

    def close(stopped_by: str, refusal: StoreRefused | None) -> str:
        reason = stopped_by or "its records could not be written"
        try:
            if refusal is None:
                spending.close()
            withdraw_revoked(config.output, owners)
            reason = recorder.close(stopped_by)
            if refusal is not None:  # only now, because each record waits until the store is ready again
                spending.close()
        finally:
            notifier.end(reason)
        return reason

    describe_process(run=run_id, node=socket.gethostname())
    with beating(config.output, run_id), uploading(config.output, run_id, LOG_OF_DRIVER):
        log.info("run_started", num_rows=record.num_rows, num_clips=len(prepared.clips))
        ending = _carry_out(render_open, close, prepared.outage)
    return _summarize(run_id, recorder, ending)


def _open_budget(config: RunConfig, run_id: str, now: datetime) -> tuple[Budget, SpendingLog]:
    """The budget of a run with what other runs have spent of it, and the log that records what this one spends."""
    limits, prices = limits_of(config, now), prices_of(config.cluster)
    others = SpentRecords(config.output, run_id)
    before = NOTHING if limits is None else total_spent(others.read(limits.name), prices)
    budget = Budget(limits, prices, before)
    return budget, SpendingLog(config.output, run_id, budget, prices, others)


def _describe_state(
    output: str, run_id: str, record: RunRecord, recorder: RunRecorder, budget: Budget, event: Event, stopped_by: str
) -> Notice:
    return Notice(
        event=event,
        at=datetime.now(UTC),
        run_id=run_id,
        output=storage.redact(output),
        num_rows=record.num_rows,
        counts={outcome: recorder.counts[outcome] for outcome in Outcome},
        reasons=dict(recorder.reasons),
        spending=budget.spending(time.monotonic()),
        stopped_by=stopped_by,
        report=storage.redact(report_index_uri(output, run_id)),
    )


def _summarize(run_id: str, recorder: RunRecorder, ending: "_Ending") -> RunSummary:
    return RunSummary(
        run_id=run_id,
        counts=recorder.counts,
        num_rendered_elsewhere=recorder.num_rendered_elsewhere,
        num_still_in_force=recorder.num_still_in_force,
        busy_shares=recorder.trace.busy_shares(),
        stopped_by=ending.stopped_by,
        clips_gone=recorder.clips_gone,
        is_refused=ending.is_refused,
        is_limited=ending.is_limited,
    )


def _announce_rivals(output: str, announce: Callable[[str], None]) -> None:
    """Says which other runs are alive at this output."""
    for rival, beat in living_runs(output, storage.clock(output)).items():
        who = f"run {rival} is also active at this output (process {beat.process_id} on {beat.host})"
        announce(f"{who}: clips that it commits are not rendered again")


def _write_record(
    config: RunConfig,
    run_id: str,
    selection: Selection,
    origin: Origin,
    prepared: PreparedRun,
    now: datetime,
    *,
    is_store_safe: bool,
    settings: dict[str, Setting],
    approvals: tuple[str, ...],
) -> RunRecord:
    """Writes the run record: with the step cache's calibration, and with the secrets of the run file redacted."""
    record = RunRecord(
        started_at=now,
        num_rows=prepared.manifest.num_rows,
        manifest=storage.redact(origin.manifest).rstrip("/"),
        is_whole=selection.is_whole,
        is_store_safe=is_store_safe,
        allows_missing_consent=not is_consent_required(config, selection),
        settings=settings,
        approvals=approvals,
    )
    write_run_record(
        config.output,
        run_id,
        record,
        run_yaml=_without_secrets(config.model_copy(update={"engine": prepared.model.engine})).to_yaml(),
        manifest=prepared.manifest,
        environment=software_versions(),
    )
    return record


def _without_secrets(config: RunConfig) -> RunConfig:
    content = storage.redact_all(config.model_dump())
    content["notify"] = [target.model_copy(update={"url": mask_address(target.url)}) for target in config.notify]
    return RunConfig.model_validate(content)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ending:
    """As in `RunSummary`."""

    stopped_by: str
    is_refused: bool
    is_limited: bool


Close = Callable[[str, StoreRefused | None], str]
"""(what stopped the run, the store's refusal if that did) -> what stopped it in the end. Writes the run's last records."""


def _carry_out(render_open: Callable[[], None], close: Close, outage: str) -> _Ending:
    """Calls `render_open` and closes the run's records, however that ends.

    An `outage` of a photo host counts as having stopped the run, so that the user runs it again.
    """
    refusal: StoreRefused | None = None
    stopped_by, is_limited = "an error", False
    try:
        render_open()
        stopped_by = outage
    except KeyboardInterrupt:
        stopped_by = "interrupted"
    except (HeadLost, TooManyFaults) as cause:
        stopped_by = str(cause)
    except LimitReached as cause:
        stopped_by, is_limited = str(cause), True
    except StoreRefused as cause:
        stopped_by, refusal = str(cause), cause
    finally:
        with held():
            stopped_by, refusal = _close(close, stopped_by, refusal)
    is_refused = refusal is not None and not isinstance(refusal, StoreUnready)
    return _Ending(stopped_by=stopped_by, is_refused=is_refused, is_limited=is_limited)


def _close(close: Close, stopped_by: str, refusal: StoreRefused | None) -> tuple[str, StoreRefused | None]:
    """Closes the run's records. If the store refuses them, that stopped the run too; the commits still record every clip."""
    try:
        return close(stopped_by, refusal), refusal
    except StoreRefused as error:
        log.warning("metadata_unwritten", error=str(error))
        return str(error), error


def _probe(output: str, *, is_judged: bool, is_unsafe_allowed: bool) -> bool:
    """Whether the store honours create-only puts. Raises UnsafeStore if it does not but must, StoreRefused if a right is missing."""
    probe_rights(output, (*FOLDERS, TRIES) if is_judged else FOLDERS)
    try:
        probe_create_only(output)
    except UnsafeStore as error:
        if not is_unsafe_allowed:
            raise
        log.warning("store_unsafe", error=str(error))
        return False
    return True


def _worker_settings(config: RunConfig, run_id: str, model: CheckedModel, record: RunRecord) -> WorkerSettings:
    return WorkerSettings(
        run_id=run_id,
        output=config.output,
        model=model.source,
        faces=config.faces,
        inputs=config.inputs,
        engine=model.engine.options,
        identity=model.identity,
        plan=ParallelPlan(),
        video=config.video,
        is_store_safe=record.is_store_safe,
        allows_missing_consent=record.allows_missing_consent,
        quality=config.quality,
        provenance=config.provenance,
    )


def _drive(
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

    def drive() -> None:
        with connected(config.cluster) as slots:
            check_prices(config, _priced_nodes(config.cluster, slots))
            announce(f"metrics for Prometheus: {describe_addresses() or 'none'}")
            if schedule.is_finished:
                _plan(config, model, recorder, schedule, slots, cost)
            driver.run(slots, find_head(is_local=config.cluster.is_local))

    try:
        drive()
    except HeadLost as loss:
        if not config.cluster.is_local:
            raise
        log.warning("local_ray_lost", error=str(loss))
        drive()


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
    deaths = deaths_before(config.output, {clip.clip_id for clip in recorder.open_clips})
    schedule.plan(chosen.clips, chosen.sizes, deaths)


def _priced_nodes(cluster: ClusterConfig, slots: Slots) -> tuple[Node, ...]:
    return price_nodes(nodes_of_run(node_types_of(cluster), slots.nodes.values()), cluster)


def _describe(run_id: str, output: str, prepared: PreparedRun, recorder: RunRecorder) -> str:
    """How many rows there are of each kind, and which ones are rejected and why."""
    parts = [
        counted(prepared.manifest.num_rows, "row"),
        f"{len(recorder.open_clips)} to render",
        f"{recorder.num_rendered_elsewhere} rendered before",
    ]
    num_unplanned = len(prepared.rejections) + len(prepared.unreachable)
    num_given_up = recorder.counts.total() - recorder.num_rendered_elsewhere - num_unplanned
    if num_given_up:
        parts.append(f"{num_given_up} given up before (`lynx-batch retry` takes them up again)")
    if prepared.rejections:
        parts.append(f"{len(prepared.rejections)} rejected")
    if prepared.unreachable:
        parts.append(f"{len(prepared.unreachable)} abandoned: {prepared.outage}")
    line = f"run {run_id}: {', '.join(parts)}"
    if not prepared.rejections:
        return line
    hint = f"`lynx-batch status {storage.redact(output)} --clips` lists all"
    return f"{line}\n{describe_rejections(prepared.rejections, hint)}"
