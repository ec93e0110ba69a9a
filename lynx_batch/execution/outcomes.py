"""The outcome of each row of a run: settled once, from earlier runs or from this run's attempts, and then written."""

import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pyarrow as pa
import structlog

from lynx_batch.clip import ClipSpec
from lynx_batch.config import QualityConfig
from lynx_batch.errors import STORE_FAULTS, MissingObject, UnreadableRecord
from lynx_batch.interrupts import postponed
from lynx_batch.ledger.commits import CommitRecord, read_commits
from lynx_batch.ledger.editions import Editions, list_editions
from lynx_batch.ledger.events import AttemptEvent, EventKind, write_event
from lynx_batch.ledger.history import given_up_before, known_results
from lynx_batch.ledger.judgements import with_judgements
from lynx_batch.ledger.metadata import Outcome, RowOutcome, best_in, to_table, with_results
from lynx_batch.ledger.numbering import editions_for, first_numbers
from lynx_batch.ledger.parts import MetadataParts
from lynx_batch.ledger.runs import RunEnd, write_run_end
from lynx_batch.ledger.tries import BestTry, drop_rejected, still_rejected
from lynx_batch.outage import retry_while_unavailable
from lynx_batch.planning.schedule import ClipState
from lynx_batch.planning.verdict import NOT_GOOD_ENOUGH, Reject, Render
from lynx_batch.preparation.prepare import PreparedRun
from lynx_batch.printable import counted
from lynx_batch.rendering.tasks import Failed, Judged, Loaded, Rendered, RenderTask
from lynx_batch.report.trace import FaultMark, Trace, write_trace

log = structlog.get_logger()

NUM_EVENT_WRITERS = 8

EVENT_OF_FAILURE = {
    ClipState.WAITING: EventKind.RETRIED,
    ClipState.REJECTED: EventKind.REJECTED,
    ClipState.FAILED: EventKind.FAILED,
}

OUTCOME_OF_FAILURE = {ClipState.REJECTED: Outcome.REJECTED, ClipState.FAILED: Outcome.FAILED}


class Reason(NamedTuple):
    """Why something failed; both fields are None if it did not."""

    error_type: str | None
    error: str | None


NOTHING_WRONG = Reason(None, None)
DAMAGED = Reason(
    UnreadableRecord.__name__, "its commit is damaged: `lynx-batch verify OUT --repair`, then render again"
)
VANISHED = Reason(MissingObject.__name__, "its commit has vanished or was withdrawn: render again")


def _as_fields(verdict: Render | Reject) -> dict[str, object]:
    """A verdict in the log."""
    if isinstance(verdict, Render):
        return {"verdict": "another seed follows", "next_try_number": verdict.number}
    return {"verdict": "rejected", "error_type": verdict.error_type, "error": verdict.reason}


class RunRecorder:
    """Writes an event for every ended attempt, in the background, and the rows of ended clips every few minutes.

    Call `settle_past` first, then report any number of attempts, then `close`; in between, store errors are logged, not raised.
    `counts` are rows by outcome, `reasons` those that were not rendered by the type of their error, `num_rendered_elsewhere` counts rows
    rendered by other runs, `num_still_in_force` rows that were not rendered but of whose clips an older edition is in force, `trace` is what
    each group did when. `editions` are those at the start; a clip is finished by the edition that it wanted then. `first_numbers` are as in
    `numbering`, of the clips that are then open. `clips_gone` are as in `RunEnd`.
    """

    def __init__(self, output: str, run_id: str, prepared: PreparedRun, quality: QualityConfig | None = None) -> None:
        self.counts: Counter[Outcome] = Counter()
        self.reasons: Counter[str] = Counter()
        self.num_rendered_elsewhere = self.num_still_in_force = 0
        self.trace = Trace()
        self.editions = Editions(in_force={}, withdrawn={})
        self.first_numbers: dict[str, int] = {}
        self.clips_gone: tuple[str, ...] = ()
        self._output, self._run_id, self._quality = output, run_id, quality
        self._unplanned = [(Outcome.REJECTED, rejection) for rejection in prepared.rejections]
        self._unplanned += [(Outcome.ABANDONED, rejection) for rejection in prepared.unreachable]
        self._open: dict[str, list[ClipSpec]] = {}
        for clip in prepared.clips:
            self._open.setdefault(clip.clip_id, []).append(clip)
        self._last_failures: dict[str, Reason] = {}
        self._attempts: dict[str, int] = {}
        self._rendered: dict[str, int] = {}
        self._parts = MetadataParts(output, run_id, time.monotonic())
        self._event_writers = ThreadPoolExecutor(NUM_EVENT_WRITERS, thread_name_prefix="events")

    @property
    def open_clips(self) -> list[ClipSpec]:
        """The clips that have not ended, without duplicates."""
        return [rows[0] for rows in self._open.values()]

    def settle_past(self) -> None:
        """Settles and writes the rows that never became clips, and the clips that earlier runs committed or gave up."""
        self._settle_unplanned()
        self.editions = editions_for(self._output, self.open_clips, self._quality)
        finished = self._finished(self.editions)
        missing = dict(finished)
        for table in known_results(self._output, missing):
            self._settle_known(table)
        for commit in with_judgements(self._output, read_commits(self._output, dict(sorted(missing.items())))):
            self._settle_rendered(commit)
        for clip_id in finished.keys() & self._open.keys():
            self._settle(clip_id, Outcome.ABANDONED, datetime.now(UTC), DAMAGED)
        for row in given_up_before(self._output, self.editions).to_pylist():
            if row["clip_id"] in self._open and (why := self._still_given_up(row)):
                self._settle(row["clip_id"], Outcome(row["outcome"]), row["ended_at"], why, best=best_in(row))
        self.first_numbers = first_numbers(self._output, self.open_clips, self.editions, self._quality)
        self._parts.write_now(time.monotonic())

    def loaded(self, group: str, answer: Loaded) -> None:
        log.info("group_ready", group=group, device=answer.device, load_s=round(answer.span.seconds, 2))
        self.trace.add(group, "", [answer.span])

    def rendered(self, task: RenderTask, group: str, result: Rendered, *, attempts: int) -> None:
        log.info("clip_rendered", clip_id=task.clip.clip_id, group=group, attempt=result.commit.attempt)
        self.trace.add(group, task.clip.clip_id, result.spans)
        self._attempts[task.clip.clip_id] = attempts
        self._put_event(task, group, EventKind.RENDERED)
        self._settle_rendered(result.commit)

    def judged(self, task: RenderTask, group: str, result: Judged, *, attempts: int) -> None:
        clip_id, verdict = task.clip.clip_id, result.verdict
        place = {"edition": task.edition, "try_number": task.number}
        log.info("try_judged", clip_id=clip_id, group=group, attempt=task.attempt, **place, **_as_fields(verdict))
        self.trace.add(group, task.clip.clip_id, result.spans)
        self._attempts[clip_id] = attempts
        if isinstance(verdict, Reject):
            why = Reason(verdict.error_type, verdict.reason)
            self._put_event(task, group, EventKind.REJECTED, why)
            self._settle(clip_id, Outcome.REJECTED, datetime.now(UTC), why, best=result.best)
        else:
            self._put_event(task, group, EventKind.JUDGED)

    def failed(
        self, task: RenderTask, group: str, result: Failed, state: ClipState, *, attempts: int, deaths: int
    ) -> None:
        clip_id, why = task.clip.clip_id, Reason(result.error_type, result.error)
        log.warning(
            "attempt_failed", clip_id=clip_id, group=group, attempt=task.attempt, **why._asdict(), clip_is=state
        )
        mark = FaultMark(error_type=result.error_type, at_s=time.time())
        self.trace.add(group, task.clip.clip_id, [*result.spans, mark])
        self._last_failures[clip_id] = why
        self._attempts[clip_id] = attempts
        self._put_event(task, group, EVENT_OF_FAILURE[state], why, deaths)
        if state in OUTCOME_OF_FAILURE:
            self._settle(clip_id, OUTCOME_OF_FAILURE[state], datetime.now(UTC), why)

    def write_due(self) -> None:
        """Writes metadata if it is due. Call this regularly."""
        self._parts.write_due(time.monotonic())

    def close(self, stopped_by: str) -> str:
        """Settles the remaining rows and writes everything not yet written. A clip counts as rendered exactly if it has a commit in force.

        Returns what stopped the run: `stopped_by` if given, else a message about commits that have vanished, else "".

        Raises:
            StoreRefused, StoreUnavailable: If the store refuses, or is unavailable for minutes. Commits and events still record
                what was done.
        """
        try:
            editions = retry_while_unavailable(lambda: list_editions(self._output))
            num_vanished = self._abandon_vanished(editions)
            if num_vanished and not stopped_by:
                stopped_by = (
                    f"{counted(num_vanished, 'rendered clip')} without a commit: it has vanished or was withdrawn"
                )
            self._settle_rest(editions)
            self._parts.close()
            retry_while_unavailable(lambda: write_trace(self._output, self._run_id, self.trace))
            end = RunEnd(
                ended_at=datetime.now(UTC), counts=self.counts, stopped_by=stopped_by, clips_gone=self.clips_gone
            )
            write_run_end(self._output, self._run_id, end)
        except STORE_FAULTS:
            self._event_writers.shutdown(wait=False, cancel_futures=True)
            raise
        self._event_writers.shutdown()
        return stopped_by

    def _still_given_up(self, row: Mapping[str, Any]) -> Reason | None:
        """Why a clip that an earlier run gave up is not tried again. What a gate rejected is open if the present rules allow more."""
        if row["error_type"] != NOT_GOOD_ENOUGH:
            return Reason(row["error_type"], row["error"])
        clip = self._open[row["clip_id"]][0]
        why, tries = still_rejected(self._output, clip, row["edition"], self._quality)
        if isinstance(why, UnreadableRecord):
            return Reason(UnreadableRecord.__name__, str(why))
        if why is None or self._quality is None:
            return None
        if why.is_unsafe:
            drop_rejected(self._output, tries, self._quality)
        return Reason(why.error_type, why.reason)

    def _finished(self, editions: Editions) -> dict[str, int]:
        """The edition in force of each open clip that already has the edition that it wants."""
        return {
            clip_id: editions.in_force[clip_id]
            for clip_id in self._open
            if editions.is_finished(clip_id, self.editions.wanted(clip_id))
        }

    def _abandon_vanished(self, editions: Editions) -> int:
        """Finds clips that were settled as rendered but whose commit is no longer in force; returns their number.

        Their rows are abandoned if no metadata part holds them yet; the other clips are listed in `clips_gone`.
        """
        vanished = {
            clip_id for clip_id, edition in self._rendered.items() if not editions.is_finished(clip_id, edition)
        }
        abandoned = set()

        def abandon(row: RowOutcome) -> RowOutcome:
            if row.clip is None or row.clip.clip_id not in vanished:
                return row
            abandoned.add(row.clip.clip_id)
            self.counts[row.outcome] -= 1
            self.counts[Outcome.ABANDONED] += 1
            self.reasons[MissingObject.__name__] += 1
            return replace(row, outcome=Outcome.ABANDONED, **VANISHED._asdict(), commit=None)

        self._parts.revise(abandon)
        self.clips_gone = tuple(sorted(vanished - abandoned))
        return len(vanished)

    def _settle_unplanned(self) -> None:
        """Settles rows that never became clips. Safe to call again: each row is settled once."""
        while self._unplanned:
            with postponed():
                outcome, rejection = self._unplanned.pop()
                self._add(
                    RowOutcome(
                        row=rejection.row,
                        outcome=outcome,
                        ended_at=datetime.now(UTC),
                        error_type=rejection.error_type,
                        error=rejection.error,
                        inputs=rejection.inputs,
                    )
                )
            self.write_due()

    def _settle_rest(self, editions: Editions) -> None:
        self._settle_unplanned()
        finished = self._finished(editions)
        for commit in retry_while_unavailable(lambda: list(read_commits(self._output, finished))):
            if commit.run_id == self._run_id:  # the answer was lost, but the attempt was used up
                self._attempts[commit.clip_id] = self._attempts.get(commit.clip_id, 0) + 1
            self._settle_rendered(commit)
        for clip_id in [*self._open]:
            why = DAMAGED if clip_id in finished else self._last_failures.get(clip_id, NOTHING_WRONG)
            self._settle(clip_id, Outcome.ABANDONED, datetime.now(UTC), why)

    def _settle_known(self, results: pa.Table) -> None:
        """Settles clips by what the metadata of an earlier run says of their commits. It is copied as a table, as there may be a million."""
        with postponed():
            self._add_known(results)
        self.write_due()

    def _add_known(self, results: pa.Table) -> None:
        ids, editions, ended = (results[name].to_pylist() for name in ("clip_id", "edition", "committed_at"))
        rows, places = list[RowOutcome](), list[int]()
        for place, (clip_id, edition, ended_at) in enumerate(zip(ids, editions, ended, strict=True)):
            self._rendered[clip_id] = edition
            for clip in self._open.pop(clip_id):
                rows.append(RowOutcome(row=clip.request.row, outcome=Outcome.RENDERED, ended_at=ended_at, clip=clip))
                places.append(place)
        self.counts[Outcome.RENDERED] += len(rows)
        self.num_rendered_elsewhere += len(rows)
        if rows:
            self._parts.add_table(with_results(to_table(rows), results.take(places)))

    def _settle_rendered(self, commit: CommitRecord) -> None:
        num_rows = len(self._open[commit.clip_id])
        self.num_rendered_elsewhere += num_rows if commit.run_id != self._run_id else 0
        self._rendered[commit.clip_id] = commit.edition
        self._settle(commit.clip_id, Outcome.RENDERED, commit.committed_at, commit=commit)

    def _settle(
        self,
        clip_id: str,
        outcome: Outcome,
        ended_at: datetime,
        why: Reason = NOTHING_WRONG,
        commit: CommitRecord | None = None,
        best: BestTry | None = None,
    ) -> None:
        """Ends all rows that ask for the clip."""
        wanted = self.editions.wanted(clip_id)
        if commit is None and self.editions.in_force.get(clip_id, wanted) < wanted:
            self.num_still_in_force += len(self._open[clip_id])
        with postponed():
            for clip in self._open.pop(clip_id):
                self._add(
                    RowOutcome(
                        row=clip.request.row,
                        outcome=outcome,
                        ended_at=ended_at,
                        clip=clip,
                        edition=commit.edition if commit else wanted,
                        attempts=self._attempts.get(clip_id, 0),
                        **why._asdict(),
                        commit=commit,
                        best=best,
                    )
                )
        self.write_due()

    def _add(self, row: RowOutcome) -> None:
        """Its callers postpone interrupts: a row that is no longer open must be here."""
        self.counts[row.outcome] += 1
        if row.error_type is not None:
            self.reasons[row.error_type] += 1
        self._parts.add(row)

    def _put_event(
        self, task: RenderTask, group: str, kind: EventKind, why: Reason = NOTHING_WRONG, deaths: int = 0
    ) -> None:
        event = AttemptEvent(
            run_id=self._run_id,
            clip_id=task.clip.clip_id,
            edition=task.edition,
            attempt=task.attempt,
            row=task.clip.request.row,
            kind=kind,
            at=datetime.now(UTC),
            group=group,
            deaths=deaths,
            **why._asdict(),
        )
        self._event_writers.submit(self._write_event, event)

    def _write_event(self, event: AttemptEvent) -> None:
        """The metadata will contain the same facts, so losing an event is no reason to stop."""
        try:
            retry_while_unavailable(lambda: write_event(self._output, event))
        except STORE_FAULTS as error:
            log.warning("event_lost", clip_id=event.clip_id, attempt=event.attempt, error=str(error))
