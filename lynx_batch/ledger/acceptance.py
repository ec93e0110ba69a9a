"""People overrule the quality gate: a kept try that it rejected is committed. What is unsafe stays rejected."""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lynx_batch import storage
from lynx_batch.errors import UnreadableRecord
from lynx_batch.ledger.commits import CommitRecord, commit
from lynx_batch.ledger.editions import list_editions
from lynx_batch.ledger.history import given_up_before
from lynx_batch.ledger.owners import read_owners
from lynx_batch.ledger.remains import withdraw_revoked
from lynx_batch.ledger.runs import newest_required_marks, read_runs
from lynx_batch.ledger.tombstones import read_revoked
from lynx_batch.ledger.tries import read_tries
from lynx_batch.planning.revocation import find_covered
from lynx_batch.planning.verdict import NOT_GOOD_ENOUGH, UNSAFE_ERRORS, best_of

RENDER_AGAIN = (
    "lower the limits below its scores and run `lynx-batch render`, which renders the same seed again and commits it"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """What became of the clips of a list: now committed, committed before, or refused for a reason."""

    committed: Sequence[CommitRecord]
    already: Sequence[str]
    refused: Mapping[str, str]


def accept(output: str, clip_ids: Iterable[str], *, by: str, now: datetime) -> Acceptance:
    """Commits the best kept try of each of these clips. `by` says who decided so."""
    editions = list_editions(output)
    given_up = {row["clip_id"]: row for row in given_up_before(output, editions).to_pylist()}
    is_store_safe = {run.run_id: run.record.is_store_safe for run in read_runs(output)}
    owners = read_owners(output)
    covered, marks = find_covered(owners, read_revoked(output)), newest_required_marks(output)
    committed, already, refused = list[CommitRecord](), list[str](), dict[str, str]()
    for clip_id in clip_ids:
        if clip_id not in given_up and clip_id in editions.in_force:
            already.append(clip_id)
            continue
        chosen = _choose(output, given_up.get(clip_id), clip_id, marks)
        if clip_id in covered.clip_ids:
            chosen = "its person, consent or photo was revoked"
        if isinstance(chosen, str):
            refused[clip_id] = chosen
            continue
        facts = {"committed_at": now, "accepted_at": now, "accepted_by": by}
        record = chosen.model_copy(update=facts)
        committed.append(commit(output, record, is_store_safe=is_store_safe.get(record.run_id, True)))
    withdraw_revoked(output, owners)  # what was revoked meanwhile
    return Acceptance(committed=committed, already=already, refused=refused)


def _choose(output: str, row: Mapping[str, Any] | None, clip_id: str, marks: Set[str]) -> CommitRecord | str:
    """What to commit, or why nothing. `row` says how the clip was given up. The video must carry all `marks`."""
    if row is None:
        return (
            "must be a clip that the quality gate rejected; no run here has given it up, or `retry` has opened it again"
        )
    if row["error_type"] in UNSAFE_ERRORS:
        return f"is unsafe, and nobody can overrule that: {row['error']}"
    if row["error_type"] != NOT_GOOD_ENOUGH:
        return f"must be a clip that the quality gate rejected, but: {row['error_type']}: {row['error']}"
    try:
        tries = read_tries(output, clip_id, row["edition"])
    except UnreadableRecord as error:
        return str(error)
    if any(record.is_unsafe for record in tries):
        return "one of its tries is unsafe, and nobody can overrule that"
    kept = {record.number: record for record in tries if storage.stat(storage.join(output, record.commit.clip_uri))}
    if not kept:
        lost = "its video was" if len(tries) == 1 else f"the videos of its {len(tries)} tries were"
        return f"{lost} not kept (quality.keep_rejected): {RENDER_AGAIN}"
    best = kept[best_of([record.judged(has_video=True) for record in kept.values()]).number].commit
    if missing := marks - {*best.marks}:
        return f"its best kept video lacks a mark that the newest run requires ({', '.join(sorted(missing))}): {RENDER_AGAIN}"
    return best.model_copy(update={"num_tries": len(tries)})
