"""One run, from run file to metadata: every row of its manifest ends in exactly one outcome."""

import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import structlog

from lynx_batch import storage
from lynx_batch.config import RunConfig
from lynx_batch.config.references import mask_address
from lynx_batch.errors import StoreRefused, UnreadableRecord, UnsafeStore
from lynx_batch.execution.dispatch import Watch, dispatch
from lynx_batch.execution.ending import Ending, carry_out
from lynx_batch.execution.outcomes import RunRecorder
from lynx_batch.execution.progress import Progress
from lynx_batch.execution.spending import SpendingLog
from lynx_batch.ledger.heartbeat import beating, living_runs
from lynx_batch.ledger.logs import uploading
from lynx_batch.ledger.metadata import Outcome
from lynx_batch.ledger.owners import owners_of, write_owners
from lynx_batch.ledger.remains import withdraw_revoked
from lynx_batch.ledger.runs import RunRecord, claim_run_id, new_run_id, write_run_record
from lynx_batch.ledger.spending import SpentRecords
from lynx_batch.ledger.tombstones import read_revoked
from lynx_batch.notices.notice import Event, Notice
from lynx_batch.notices.notifier import Notifier, Target, open_targets
from lynx_batch.output import FOLDERS, LOG_OF_DRIVER, TRIES, report_index_uri
from lynx_batch.planning.approval import Setting
from lynx_batch.planning.budget import NOTHING, Budget
from lynx_batch.planning.verdict import NOT_GOOD_ENOUGH, UNSAFE_ERRORS
from lynx_batch.preparation.approval import check_approved, settings_of
from lynx_batch.preparation.budget import limits_of, prices_of, require_prices, total_spent
from lynx_batch.preparation.consent import is_consent_required
from lynx_batch.preparation.model import CheckedModel
from lynx_batch.preparation.node_types import require_autoscaler
from lynx_batch.preparation.origin import Origin
from lynx_batch.preparation.prepare import PreparedRun, describe_rejections, origin_of, prepare
from lynx_batch.preparation.selection import Selection
from lynx_batch.printable import counted
from lynx_batch.probe import probe_create_only, probe_rights
from lynx_batch.rendering.software import software_versions
from lynx_batch.rendering.tasks import WorkerSettings
from lynx_batch.telemetry import describe_process
from lynx_model.spec import ParallelPlan

log = structlog.get_logger()


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
    with beating(config.output, run_id):  # before the record: whoever watches a run with a record finds it alive
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
        return _render_recorded(config, run_id, record, prepared, targets, now, announce, watch)


def _render_recorded(
    config: RunConfig,
    run_id: str,
    record: RunRecord,
    prepared: PreparedRun,
    targets: list[Target],
    now: datetime,
    announce: Callable[[str], None],
    watch: Watch,
) -> RunSummary:
    """Renders the open clips of a run that is checked and recorded, and closes its records however it ends."""
    owners = owners_of(run_id, prepared.clips)
    write_owners(config.output, run_id, owners)
    _announce_rivals(config.output, run_id, announce)
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
        announce(describe_start(run_id, config.output, prepared, recorder))
        notifier.start(recorder.counts.total() / max(1, record.num_rows))
        if recorder.open_clips:
            settings = _worker_settings(config, run_id, prepared.model, record)
            dispatch(config, settings, prepared.model, recorder, announce, watch_all, budget)

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
    with uploading(config.output, run_id, LOG_OF_DRIVER):
        log.info("run_started", num_rows=record.num_rows, num_clips=len(prepared.clips))
        ending = carry_out(render_open, close, prepared.outage)
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


def _summarize(run_id: str, recorder: RunRecorder, ending: Ending) -> RunSummary:
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


def _announce_rivals(output: str, run_id: str, announce: Callable[[str], None]) -> None:
    """Says which other runs are alive at this output."""
    living = living_runs(output, storage.clock(output))
    living.pop(run_id, None)
    for rival, beat in living.items():
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
    for kept, target in zip(content["notify"], config.notify, strict=True):
        kept["url"] = mask_address(target.url)
    return RunConfig.model_validate(content)


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


def describe_start(run_id: str, output: str, prepared: PreparedRun, recorder: RunRecorder) -> str:
    """How many rows there are of each kind, and which ones are rejected and why."""
    parts = [
        counted(prepared.manifest.num_rows, "row"),
        f"{len(recorder.open_clips)} to render",
        f"{recorder.num_rendered_elsewhere} rendered before",
    ]
    unplanned = Counter(each.error_type for each in (*prepared.rejections, *prepared.unreachable))
    num_given_up = recorder.counts.total() - recorder.num_rendered_elsewhere - unplanned.total()
    parts += _describe_given_up(num_given_up, recorder.reasons - unplanned)
    if prepared.rejections:
        parts.append(f"{len(prepared.rejections)} rejected")
    if prepared.unreachable:
        parts.append(f"{len(prepared.unreachable)} abandoned: {prepared.outage}")
    line = f"run {run_id}: {', '.join(parts)}"
    if not prepared.rejections:
        return line
    hint = f"`lynx-batch status {storage.redact(output)} --clips` lists all"
    return f"{line}\n{describe_rejections(prepared.rejections, hint)}"


def _describe_given_up(number: int, reasons: Counter[str]) -> Iterator[str]:
    """What earlier runs left behind, and what takes each kind up again."""
    num_rejected, num_damaged = reasons[NOT_GOOD_ENOUGH], reasons[UnreadableRecord.__name__]
    num_unsafe = sum(reasons[error_type] for error_type in UNSAFE_ERRORS)
    if num_others := number - num_rejected - num_damaged - num_unsafe:
        yield f"{num_others} given up before (`lynx-batch retry` takes them up again)"
    if num_rejected:
        yield f"{num_rejected} rejected before by the quality gate (other limits, more reseeds or `lynx-batch accept` change that)"
    if num_unsafe:
        yield f"{num_unsafe} rejected before as unsafe, for good"
    if num_damaged:
        yield f"{num_damaged} with damaged records (`lynx-batch verify OUT --repair`, then render again)"
