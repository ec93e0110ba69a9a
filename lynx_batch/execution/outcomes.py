"""What becomes of each clip of a run: gathered from earlier runs and from this one's attempts, told as row outcomes."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import structlog

from lynx_batch.clip import ClipSpec
from lynx_batch.execution.prepare import PreparedRun
from lynx_batch.execution.tasks import Failed, Loaded, Rendered, RenderTask
from lynx_batch.ledger.commits import CommitRecord, committed_clip_ids, read_commits
from lynx_batch.ledger.events import AttemptEvent, EventKind, write_event
from lynx_batch.ledger.history import given_up_before
from lynx_batch.ledger.metadata import Outcome, RowOutcome
from lynx_batch.ledger.trace import FaultMark, Trace
from lynx_batch.planning.schedule import ClipState, Schedule

log = structlog.get_logger()

EVENT_OF_FAILURE = {
    ClipState.WAITING: EventKind.RETRIED,
    ClipState.REJECTED: EventKind.REJECTED,
    ClipState.FAILED: EventKind.FAILED,
}

OUTCOME_OF = {
    ClipState.WAITING: Outcome.ABANDONED,
    ClipState.RUNNING: Outcome.ABANDONED,
    ClipState.RENDERED: Outcome.RENDERED,
    ClipState.REJECTED: Outcome.REJECTED,
    ClipState.FAILED: Outcome.FAILED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipEnd:
    """How one clip ended. `commit` is there exactly if the outcome is rendered."""

    outcome: Outcome
    attempts: int = 0
    error_type: str | None = None
    error: str | None = None
    commit: CommitRecord | None = None


@dataclass(slots=True)
class RunRecorder:
    """Keeps what came of each clip's last attempt and what each group did when; writes an event for every ended attempt."""

    output: str
    run_id: str
    trace: Trace = field(default_factory=Trace)
    _failures: dict[str, Failed] = field(default_factory=dict)

    def loaded(self, group: str, answer: Loaded) -> None:
        log.info("group_ready", group=group, device=answer.device, load_s=round(answer.span.seconds, 2))
        self.trace.add(group, "", [answer.span])

    def rendered(self, task: RenderTask, group: str, result: Rendered) -> None:
        self._failures.pop(task.clip.clip_id, None)
        log.info("clip_rendered", clip=task.clip.name, group=group, attempt=result.commit.attempt)
        self.trace.add(group, task.clip.name, result.spans)
        self._write(task, group, EventKind.RENDERED)

    def failed(self, task: RenderTask, group: str, result: Failed, state: ClipState) -> None:
        self._failures[task.clip.clip_id] = result
        told = {"clip": task.clip.name, "group": group, "error_type": result.error_type, "error": result.error}
        log.warning("attempt_failed", **told, clip_is=state)
        mark = FaultMark(error_type=result.error_type, at_s=time.time())
        self.trace.add(group, task.clip.name, [*result.spans, mark])
        self._write(task, group, EVENT_OF_FAILURE[state], result)

    def ends(self, clips: Iterable[ClipSpec], schedule: Schedule) -> dict[str, ClipEnd]:
        """How each of `clips` ended, now that the run is over.

        A clip is rendered exactly if its commit exists, also if the run was stopped before it heard of it.
        """
        wanted = {clip.clip_id for clip in clips}
        ends = {clip_id: self._end(clip_id, schedule) for clip_id in wanted}
        for commit in read_commits(self.output, sorted(wanted & committed_clip_ids(self.output))):
            end = ends[commit.clip_id]
            ends[commit.clip_id] = replace(end, outcome=Outcome.RENDERED, error_type=None, error=None, commit=commit)
        return ends

    def _end(self, clip_id: str, schedule: Schedule) -> ClipEnd:
        failure, attempts = self._failures.get(clip_id), schedule.attempts(clip_id)
        outcome = OUTCOME_OF[schedule.state(clip_id)]
        if failure is None:
            return ClipEnd(outcome=outcome, attempts=attempts)
        return ClipEnd(outcome=outcome, attempts=attempts, error_type=failure.error_type, error=failure.error)

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


def row_outcomes(prepared: PreparedRun, ends: dict[str, ClipEnd]) -> Iterator[RowOutcome]:
    """One outcome for every row of the manifest; rows that ask for the same clip share its end."""
    for rejection in prepared.rejections:
        yield RowOutcome(
            row=rejection.row, outcome=Outcome.REJECTED, error_type=rejection.error_type, error=rejection.error
        )
    for clip in prepared.clips:
        end = ends[clip.clip_id]
        yield RowOutcome(
            row=clip.request.row,
            outcome=end.outcome,
            clip=clip,
            attempts=end.attempts,
            error_type=end.error_type,
            error=end.error,
            commit=end.commit,
        )
