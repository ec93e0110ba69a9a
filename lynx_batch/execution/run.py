"""One run, from run file to metadata: every row of its manifest ends in exactly one outcome."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from lynx_batch import storage
from lynx_batch.clip import ClipSpec, RenderIdentity
from lynx_batch.config import RunConfig
from lynx_batch.errors import HeadLost, TooManyFaults
from lynx_batch.execution.cluster import connected, find_head
from lynx_batch.execution.driver import Driver, Progress
from lynx_batch.execution.environment import software_versions
from lynx_batch.execution.forecast import cost_model, ways_to_render
from lynx_batch.execution.outcomes import ClipEnd, RunRecorder, ended_before, row_outcomes
from lynx_batch.execution.prepare import PreparedRun, Selection, prepare
from lynx_batch.execution.staging import find_model
from lynx_batch.execution.tasks import WorkerSettings
from lynx_batch.ledger.metadata import Outcome, RowOutcome, write_metadata
from lynx_batch.ledger.runs import claim_run_id, new_run_id, write_run_record
from lynx_batch.ledger.timings import read_timings
from lynx_batch.ledger.trace import write_trace
from lynx_batch.planning.plan import best
from lynx_batch.planning.schedule import RetryPolicy, Schedule
from lynx_model.spec import ParallelPlan

log = structlog.get_logger()

Watch = Callable[[Progress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """How a run ended. `stopped_by` is empty if it came to its end; `busy_shares` are `Trace.busy_shares`."""

    run_id: str
    outcomes: tuple[RowOutcome, ...]
    busy_shares: dict[str, float]
    stopped_by: str = ""

    @property
    def counts(self) -> Counter[Outcome]:
        return Counter(row.outcome for row in self.outcomes)

    @property
    def is_complete(self) -> bool:
        return all(row.outcome is Outcome.RENDERED for row in self.outcomes)

    @property
    def num_rendered_before(self) -> int:
        return sum(row.commit is not None and row.commit.run_id != self.run_id for row in self.outcomes)


def render(
    config: RunConfig,
    selection: Selection,
    *,
    announce: Callable[[str], None],
    watch: Watch,
    run_id: str | None = None,
) -> RunSummary:
    """Renders every row of the manifest that is not committed yet.

    Raises:
        Permanent: If the run file, manifest, model, store or cluster is unfit.
    """
    now = datetime.now(UTC)
    prepared = prepare(config, selection, now)
    storage.probe_create_only(config.output)
    run_id = new_run_id(now) if run_id is None else claim_run_id(config.output, run_id)
    write_run_record(
        config.output, run_id, run_yaml=config.to_yaml(), manifest=prepared.manifest, environment=software_versions()
    )
    ends = ended_before(config.output, prepared.clips)
    open_clips = list({clip.clip_id: clip for clip in prepared.clips if clip.clip_id not in ends}.values())
    schedule = Schedule(RetryPolicy(**config.retry.model_dump()))
    announce(_describe(run_id, prepared, ends, len(open_clips)))
    recorder, stopped_by = RunRecorder(config.output, run_id), ""
    try:
        if open_clips:
            _drive(config, run_id, prepared.identity, open_clips, schedule, recorder, watch)
    except KeyboardInterrupt:
        stopped_by = "interrupted"
    except (HeadLost, TooManyFaults) as cause:
        stopped_by = str(cause)
    finally:
        ends |= recorder.ends(open_clips, schedule)
        outcomes = tuple(row_outcomes(prepared, ends))
        write_metadata(config.output, run_id, outcomes)
        write_trace(config.output, run_id, recorder.trace)
    return RunSummary(run_id=run_id, outcomes=outcomes, busy_shares=recorder.trace.busy_shares(), stopped_by=stopped_by)


def _drive(
    config: RunConfig,
    run_id: str,
    identity: RenderIdentity,
    clips: list[ClipSpec],
    schedule: Schedule,
    recorder: RunRecorder,
    watch: Watch,
) -> None:
    """Renders the clips on the cluster, each on the group that the plan gives it."""
    settings = WorkerSettings(
        run_id=run_id,
        output=config.output,
        model=find_model(config.model),
        faces=config.faces,
        engine=config.engine,
        identity=identity,
        plan=ParallelPlan(),
        crf=config.video.crf,
    )
    cost = cost_model(config, read_timings(config.output, identity))
    with connected(config.cluster) as slots:
        chosen = best(ways_to_render(clips, tuple(slots.nodes.values()), cost, config.cluster))
        log.info("planned", groups=chosen.forecast.groups, predicted_s=round(chosen.forecast.makespan_s))
        schedule.plan(chosen.clips, chosen.sizes)
        driver = Driver(
            schedule=schedule,
            settings=settings,
            slots=slots,
            head=find_head(),
            max_groups=config.cluster.max_groups,
            cost=cost,
            recorder=recorder,
            watch=watch,
        )
        driver.run()


def _describe(run_id: str, prepared: PreparedRun, ends: dict[str, ClipEnd], num_open: int) -> str:
    num_committed = sum(end.outcome is Outcome.RENDERED for end in ends.values())
    parts = [
        f"{prepared.manifest.num_rows} rows",
        f"{num_open} to render",
        f"{num_committed} rendered before",
    ]
    if given_up := len(ends) - num_committed:
        parts.append(f"{given_up} given up before (`lynx-batch retry` takes them up again)")
    if prepared.rejections:
        parts.append(f"{len(prepared.rejections)} rejected")
    return f"run {run_id}: {', '.join(parts)}"
