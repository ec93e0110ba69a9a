"""Summarises an output location from its objects alone."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow.compute as pc

from lynx_batch.config import QualityConfig
from lynx_batch.ledger.editions import list_editions
from lynx_batch.ledger.events import EventKind
from lynx_batch.ledger.history import given_up_before, recent_events
from lynx_batch.ledger.metadata import Outcome, read_metadata
from lynx_batch.ledger.pass_rate import JudgedClips, summarise_judged
from lynx_batch.ledger.runs import Run, newest_policy, read_runs
from lynx_batch.planning.verdict import NOT_GOOD_ENOUGH, rules_in


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """A run and its rows by outcome; for a run that has not ended, the outcomes known so far."""

    run: Run
    counts: Counter[Outcome]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Finished clips and runs; `reasons` counts why rows of the newest run were not rendered.

    `num_redo` are committed clips for which `retry --redo` asked and whose new edition was not given up; `redo_given_up` counts those whose
    new edition was, by outcome. An older edition of all these clips is in force. `limits_of` is the run with whose rules the committed clips
    were compared; None if they are those of the caller or there are none. `judged` is None if no clip was judged and no run judges.
    """

    num_committed: int
    num_redo: int
    redo_given_up: Counter[Outcome]
    limits_of: str | None
    runs: tuple[RunState, ...]
    reasons: Counter[str]
    judged: JudgedClips | None


def summarise(output: str, quality: QualityConfig | None = None) -> Summary:
    """Reads the summary of an output location; its runs are sorted from the oldest to the newest.

    Committed clips are compared with the rules in `quality`; None takes those of the newest run that judged its clips.
    """
    runs, editions = read_runs(output), list_editions(output)
    given_up = given_up_before(output, editions).select(["clip_id", "outcome", "error_type", "error"]).to_pylist()
    limits_of, rules = (None, quality) if quality else newest_policy(output) or (None, None)
    redo = editions.redo.keys() & editions.in_force.keys()
    redo_given_up = Counter(Outcome(row["outcome"]) for row in given_up if row["clip_id"] in redo)
    return Summary(
        num_committed=len(editions.in_force),
        num_redo=len(redo) - redo_given_up.total(),
        redo_given_up=redo_given_up,
        limits_of=limits_of,
        judged=summarise_judged(output, editions, given_up, rules),
        runs=tuple(RunState(run=run, counts=_counts(output, run)) for run in runs),
        reasons=Counter(f"{outcome}: {error}" for outcome, error in _outcomes(output, runs[-1]) if error)
        if runs
        else Counter(),
    )


def read_run_states(output: str) -> list[RunState]:
    """All runs, the oldest first."""
    return [RunState(run=run, counts=_counts(output, run)) for run in read_runs(output)]


def _counts(output: str, run: Run) -> Counter[Outcome]:
    if run.end is not None:
        return Counter(run.end.counts)
    return Counter(outcome for outcome, _ in _outcomes(output, run))


def _outcomes(output: str, run: Run) -> Iterator[tuple[Outcome, str]]:
    """The outcome of each row of a run, with the reason or an empty text."""
    columns = ["outcome", "error_type", "error"]
    for row in read_metadata(output, columns, pc.field("run") == run.run_id).to_pylist():
        yield Outcome(row["outcome"]), _reason(row["error_type"], row["error"])
    for event in recent_events(output, run.run_id) if run.end is None else ():
        if event.kind not in (EventKind.RETRIED, EventKind.JUDGED):
            yield Outcome(event.kind), _reason(event.error_type, event.error)


def _reason(error_type: str | None, error: str | None) -> str:
    """The same text for all rows with the same cause: of what the gate rejected, the rules that were broken, without the scores."""
    rules = rules_in(error or "") if error_type == NOT_GOOD_ENOUGH else []
    return f"{error_type}: {', '.join(rules) or error}" if error_type else ""
