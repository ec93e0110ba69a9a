"""What becomes of each row of a run: settled once, from earlier runs or this one's attempts, and written at once or soon."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import NamedTuple

import structlog

from lynx_batch.clip import ClipSpec
from lynx_batch.errors import StoreUnavailable
from lynx_batch.execution.prepare import PreparedRun
from lynx_batch.execution.tasks import Failed, Loaded, Rendered, RenderTask
from lynx_batch.ledger.commits import CommitRecord, committed_clip_ids, read_commits
from lynx_batch.ledger.events import AttemptEvent, EventKind, write_event
from lynx_batch.ledger.history import given_up_before, known_commits
from lynx_batch.ledger.metadata import Outcome, RowOutcome
from lynx_batch.ledger.parts import MetadataParts
from lynx_batch.ledger.runs import RunEnd, write_run_end
from lynx_batch.ledger.trace import FaultMark, Trace, write_trace
from lynx_batch.outage import outlast
from lynx_batch.planning.schedule import ClipState

log = structlog.get_logger()

NUM_EVENT_WRITERS = 8

EVENT_OF_FAILURE = {
    ClipState.WAITING: EventKind.RETRIED,
    ClipState.REJECTED: EventKind.REJECTED,
    ClipState.FAILED: EventKind.FAILED,
}

OUTCOME_OF_FAILURE = {ClipState.REJECTED: Outcome.REJECTED, ClipState.FAILED: Outcome.FAILED}


class Reason(NamedTuple):
    """Why something did not succeed, if it did not."""

    error_type: str | None
    error: str | None


NOTHING_WRONG = Reason(None, None)


class RunRecorder:
    """Writes an event for every ended attempt, beside the main loop, and the rows of ended clips every few minutes.

    First `settle_past`, then any number of attempts, at last `close`. Until then no trouble of the store raises.
    `counts` are rows by outcome, `num_rendered_elsewhere` those rendered by other runs; `trace` is what each group did when.
    """

    def __init__(self, output: str, run_id: str, prepared: PreparedRun) -> None:
        self.counts: Counter[Outcome] = Counter()
        self.num_rendered_elsewhere = 0
        self.trace = Trace()
        self._output, self._run_id = output, run_id
        self._rejections = prepared.rejections
        self._open: dict[str, list[ClipSpec]] = {}
        for clip in prepared.clips:
            self._open.setdefault(clip.clip_id, []).append(clip)
        self._last_failures: dict[str, Reason] = {}
        self._attempts: dict[str, int] = {}
        self._parts = MetadataParts(output, run_id, time.monotonic())
        self._event_writers = ThreadPoolExecutor(NUM_EVENT_WRITERS, thread_name_prefix="events")

    @property
    def open_clips(self) -> list[ClipSpec]:
        """The clips that have not ended, each once."""
        return [rows[0] for rows in self._open.values()]

    def settle_past(self) -> None:
        """Settles and writes rows that were rejected at intake, and clips that earlier runs committed or gave up."""
        for rejection in self._rejections:
            self._add(
                RowOutcome(
                    row=rejection.row,
                    outcome=Outcome.REJECTED,
                    ended_at=datetime.now(UTC),
                    error_type=rejection.error_type,
                    error=rejection.error,
                )
            )
        committed = committed_clip_ids(self._output)
        for commit in known_commits(self._output, committed & self._open.keys()):
            self._settle_rendered(commit)
        for row in given_up_before(self._output, committed).to_pylist():
            if row["clip_id"] in self._open:
                why = Reason(row["error_type"], row["error"])
                self._settle(row["clip_id"], Outcome(row["outcome"]), row["ended_at"], why)
        self._parts.write_now(time.monotonic())

    def loaded(self, group: str, answer: Loaded) -> None:
        log.info("group_ready", group=group, device=answer.device, load_s=round(answer.span.seconds, 2))
        self.trace.add(group, "", [answer.span])

    def rendered(self, task: RenderTask, group: str, result: Rendered, *, attempts: int) -> None:
        log.info("clip_rendered", clip=task.clip.name, group=group, attempt=result.commit.attempt)
        self.trace.add(group, task.clip.name, result.spans)
        self._attempts[task.clip.clip_id] = attempts
        self._put_event(task, group, EventKind.RENDERED)
        self._settle_rendered(result.commit)

    def failed(self, task: RenderTask, group: str, result: Failed, state: ClipState, *, attempts: int) -> None:
        clip_id, why = task.clip.clip_id, Reason(result.error_type, result.error)
        log.warning("attempt_failed", clip=task.clip.name, group=group, **why._asdict(), clip_is=state)
        mark = FaultMark(error_type=result.error_type, at_s=time.time())
        self.trace.add(group, task.clip.name, [*result.spans, mark])
        self._last_failures[clip_id] = why
        self._attempts[clip_id] = attempts
        self._put_event(task, group, EVENT_OF_FAILURE[state], why)
        if state in OUTCOME_OF_FAILURE:
            self._settle(clip_id, OUTCOME_OF_FAILURE[state], datetime.now(UTC), why)

    def write_due(self) -> None:
        """Writes metadata if it is time to; to be called now and then."""
        self._parts.write_due(time.monotonic())

    def close(self, stopped_by: str) -> None:
        """Settles what is left and writes all that is not written; a clip is rendered exactly if its commit exists.

        Raises:
            StoreUnavailable: If the store stays away for minutes; commits and events tell what was done all the same.
        """
        try:
            self._settle_rest()
            self._parts.close()
            outlast(lambda: write_trace(self._output, self._run_id, self.trace))
            end = RunEnd(ended_at=datetime.now(UTC), counts=self.counts, stopped_by=stopped_by)
            write_run_end(self._output, self._run_id, end)
        except StoreUnavailable:
            self._event_writers.shutdown(wait=False, cancel_futures=True)
            raise
        self._event_writers.shutdown()

    def _settle_rest(self) -> None:
        committed = outlast(lambda: committed_clip_ids(self._output))
        for commit in outlast(lambda: list(read_commits(self._output, sorted(committed & self._open.keys())))):
            self._settle_rendered(commit)
        for clip_id in [*self._open]:
            why = self._last_failures.get(clip_id, NOTHING_WRONG)
            self._settle(clip_id, Outcome.ABANDONED, datetime.now(UTC), why)

    def _settle_rendered(self, commit: CommitRecord) -> None:
        num_rows = len(self._open[commit.clip_id])
        self.num_rendered_elsewhere += num_rows if commit.run_id != self._run_id else 0
        self._settle(commit.clip_id, Outcome.RENDERED, commit.committed_at, commit=commit)

    def _settle(
        self,
        clip_id: str,
        outcome: Outcome,
        ended_at: datetime,
        why: Reason = NOTHING_WRONG,
        commit: CommitRecord | None = None,
    ) -> None:
        """Ends all rows that ask for a clip."""
        for clip in self._open.pop(clip_id):
            self._add(
                RowOutcome(
                    row=clip.request.row,
                    outcome=outcome,
                    ended_at=ended_at,
                    clip=clip,
                    attempts=self._attempts.get(clip_id, 0),
                    **why._asdict(),
                    commit=commit,
                )
            )

    def _add(self, row: RowOutcome) -> None:
        self.counts[row.outcome] += 1
        self._parts.add(row)
        self.write_due()

    def _put_event(self, task: RenderTask, group: str, kind: EventKind, why: Reason = NOTHING_WRONG) -> None:
        event = AttemptEvent(
            run_id=self._run_id,
            clip_id=task.clip.clip_id,
            attempt=task.attempt,
            row=task.clip.request.row,
            kind=kind,
            at=datetime.now(UTC),
            group=group,
            **why._asdict(),
        )
        self._event_writers.submit(self._write_event, event)

    def _write_event(self, event: AttemptEvent) -> None:
        """What an event tells comes to the metadata, too, so that a lost one is no reason to stop."""
        try:
            outlast(lambda: write_event(self._output, event))
        except StoreUnavailable as error:
            log.warning("event_lost", clip_id=event.clip_id, attempt=event.attempt, error=str(error))
