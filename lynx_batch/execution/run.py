"""One run, from run file to metadata: every row of its manifest ends in exactly one outcome."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog

from lynx_batch import storage
from lynx_batch.clip import ClipSpec
from lynx_batch.config import RunConfig
from lynx_batch.errors import TooManyFaults
from lynx_batch.execution.cluster import connected
from lynx_batch.execution.driver import Driver, Progress
from lynx_batch.execution.environment import software_versions
from lynx_batch.execution.prepare import PreparedRun, Selection, prepare
from lynx_batch.execution.tasks import Failed, Rendered, RenderTask, WorkerSettings
from lynx_batch.ledger.commits import CommitRecord, committed_clip_ids, read_commits
from lynx_batch.ledger.events import AttemptEvent, EventKind, write_event
from lynx_batch.ledger.history import given_up_before
from lynx_batch.ledger.metadata import Outcome, RowOutcome, write_metadata
from lynx_batch.ledger.runs import new_run_id, write_run_record
from lynx_batch.planning.schedule import ClipState, Schedule
from lynx_model.spec import ParallelPlan

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """How a run ended. `stopped_by` is empty if it came to its end."""

    run_id: str
    outcomes: tuple[RowOutcome, ...]
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipEnd:
    """What a run knows of one clip at its end."""

    outcome: Outcome
    attempts: int = 0
    error_type: str | None = None
    error: str | None = None
    commit: CommitRecord | None = None


def render(
    config: RunConfig,
    selection: Selection,
    *,
    announce: Callable[[str], None],
    watch: Callable[[Progress], None],
) -> RunSummary:
    """Renders every row of the manifest that is not committed yet.

    Raises:
        Permanent: If the run file, manifest, model or store is unfit; nothing was started then.
    """
    now = datetime.now(UTC)
    prepared = prepare(config, selection, now)
    storage.probe_create_only(config.output)
    run_id = new_run_id(now)
    write_run_record(
        config.output, run_id, run_yaml=config.to_yaml(), manifest=prepared.manifest, environment=software_versions()
    )
    ends = ended_before(config.output, prepared.clips)
    open_clips = [clip for clip in prepared.clips if clip.clip_id not in ends]
    announce(_describe(run_id, prepared, ends, open_clips))
    recorder = RunRecorder(output=config.output, run_id=run_id)
    schedule = Schedule(open_clips, max_attempts=config.retry.max_attempts)
    stopped_by = ""
    if open_clips:
        stopped_by = _drive(config, run_id, prepared, schedule, recorder, watch)
    ends |= {clip.clip_id: recorder.end_of(clip, schedule) for clip in open_clips}
    outcomes = tuple(_row_outcomes(prepared, ends))
    write_metadata(config.output, run_id, outcomes)
    return RunSummary(run_id=run_id, outcomes=outcomes, stopped_by=stopped_by)


def ended_before(output: str, clips: Iterable[ClipSpec]) -> dict[str, ClipEnd]:
    """Clips that earlier runs committed, or gave up: those need `retry` before a run takes them up again."""
    wanted = {clip.clip_id for clip in clips}
    ends = {
        clip_id: ClipEnd(outcome=Outcome(event.kind), error_type=event.error_type, error=event.error)
        for clip_id, event in given_up_before(output).items()
        if clip_id in wanted
    }
    commits = read_commits(output, sorted(wanted & committed_clip_ids(output)))
    return ends | {commit.clip_id: ClipEnd(outcome=Outcome.RENDERED, commit=commit) for commit in commits}


@dataclass(slots=True)
class RunRecorder:
    """Keeps what came of each clip, and writes an event for each ended attempt."""

    output: str
    run_id: str
    _commits: dict[str, CommitRecord] = field(default_factory=dict)
    _failures: dict[str, Failed] = field(default_factory=dict)

    def rendered(self, task: RenderTask, group: str, result: Rendered) -> None:
        self._commits[task.clip.clip_id] = result.commit
        self._write(task, group, EventKind.RENDERED)

    def failed(self, task: RenderTask, group: str, result: Failed, state: ClipState) -> None:
        self._failures[task.clip.clip_id] = result
        log.warning(
            "attempt_failed",
            clip=task.clip.name,
            group=group,
            error_type=result.error_type,
            error=result.error,
            clip_is=state,
        )
        self._write(task, group, _EVENT_OF[state], result)

    def end_of(self, clip: ClipSpec, schedule: Schedule) -> ClipEnd:
        """What the run knows of a clip, now that it has ended."""
        state, failure = schedule.state(clip.clip_id), self._failures.get(clip.clip_id)
        is_rendered = state is ClipState.RENDERED
        return ClipEnd(
            outcome=_OUTCOME_OF[state],
            attempts=schedule.attempts(clip.clip_id),
            error_type=failure.error_type if failure and not is_rendered else None,
            error=failure.error if failure and not is_rendered else None,
            commit=self._commits.get(clip.clip_id),
        )

    def _write(self, task: RenderTask, group: str, kind: EventKind, failure: Failed | None = None) -> None:
        event = AttemptEvent(
            run_id=self.run_id,
            clip_id=task.clip.clip_id,
            attempt=task.attempt,
            row=task.clip.request.row,
            kind=kind,
            at=datetime.now(UTC),
            group=group,
            error_type=failure.error_type if failure else None,
            error=failure.error if failure else None,
        )
        write_event(self.output, event)


_EVENT_OF = {
    ClipState.WAITING: EventKind.RETRIED,
    ClipState.REJECTED: EventKind.REJECTED,
    ClipState.FAILED: EventKind.FAILED,
}

_OUTCOME_OF = {
    ClipState.WAITING: Outcome.ABANDONED,
    ClipState.RUNNING: Outcome.ABANDONED,
    ClipState.RENDERED: Outcome.RENDERED,
    ClipState.REJECTED: Outcome.REJECTED,
    ClipState.FAILED: Outcome.FAILED,
}


def _drive(
    config: RunConfig,
    run_id: str,
    prepared: PreparedRun,
    schedule: Schedule,
    recorder: RunRecorder,
    watch: Callable[[Progress], None],
) -> str:
    """Runs the schedule to its end on the cluster; says what stopped it before, if anything did."""
    size = 1 if config.cluster.gpus_per_group == "auto" else config.cluster.gpus_per_group
    settings = WorkerSettings(
        run_id=run_id,
        output=config.output,
        model=config.model.source,
        faces=config.faces,
        engine=config.engine,
        identity=prepared.identity,
        plan=ParallelPlan(ulysses=size),
        crf=config.video.crf,
    )
    try:
        with connected(config.cluster) as slots:
            num_groups = slots.num_groups(size, config.cluster.max_groups)
            Driver(
                schedule=schedule, settings=settings, slots=slots, num_groups=num_groups, recorder=recorder, watch=watch
            ).run()
    except KeyboardInterrupt:
        return "interrupted"
    except TooManyFaults as faults:
        return str(faults)
    return ""


def _row_outcomes(prepared: PreparedRun, ends: dict[str, ClipEnd]) -> Iterable[RowOutcome]:
    for rejection in prepared.rejections:
        yield RowOutcome(
            row=rejection.row,
            clip=None,
            outcome=Outcome.REJECTED,
            attempts=0,
            error_type=rejection.error_type,
            error=rejection.error,
            commit=None,
        )
    for clip in prepared.clips:
        end = ends[clip.clip_id]
        yield RowOutcome(
            row=clip.request.row,
            clip=clip,
            outcome=end.outcome,
            attempts=end.attempts,
            error_type=end.error_type,
            error=end.error,
            commit=end.commit,
        )


def _describe(run_id: str, prepared: PreparedRun, ends: dict[str, ClipEnd], open_clips: list[ClipSpec]) -> str:
    num_committed = sum(end.outcome is Outcome.RENDERED for end in ends.values())
    parts = [
        f"{prepared.manifest.num_rows} rows",
        f"{len({clip.clip_id for clip in open_clips})} to render",
        f"{num_committed} rendered before",
    ]
    if given_up := len(ends) - num_committed:
        parts.append(f"{given_up} given up before (`lynx-batch retry` takes them up again)")
    if prepared.rejections:
        parts.append(f"{len(prepared.rejections)} rejected")
    return f"run {run_id}: {', '.join(parts)}"
