"""People overrule the quality gate: a kept try that it rejected is committed. What is unsafe stays rejected."""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from lynx_batch import storage
from lynx_batch.errors import ConfigError, UnreadableRecord
from lynx_batch.ledger.commits import CommitRecord, commit
from lynx_batch.ledger.editions import list_editions
from lynx_batch.ledger.history import given_up_before
from lynx_batch.ledger.runs import read_runs
from lynx_batch.ledger.tries import read_tries
from lynx_batch.planning.verdict import NOT_GOOD_ENOUGH, UNSAFE_ERRORS, best_of

CLIP_ID, DECISION = "clip_id", "decision"
APPROVE, REJECT = "approve", "reject"


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """What became of the clips of a list: now committed, committed before, or refused for a reason."""

    committed: Sequence[CommitRecord]
    already: Sequence[str]
    refused: Mapping[str, str]


def read_approved(file: Path) -> list[str]:
    """The clips that a list approves, each once.

    A list is a text file with one ClipId a line, or a CSV file with a column `clip_id`, and perhaps a column `decision` that says
    approve, reject or nothing. Other columns are ignored.

    Raises:
        ConfigError: If it is neither, or approves and rejects the same clip; the message names the line.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--list {file}: must be a text file in UTF-8 that can be read: {error}") from error
    decisions: dict[str, str] = {}
    for number, clip_id, decision in _rows(lines):
        about = f"--list {file}, line {number}"
        if not re.fullmatch("[0-9a-f]+", clip_id):
            raise ConfigError(
                f"{about}: {CLIP_ID}={clip_id!r}: must be a ClipId, such as `lynx-batch status OUT` shows"
            )
        if decision not in (APPROVE, REJECT, ""):
            raise ConfigError(f"{about}: {DECISION}={decision!r}: must be {APPROVE}, {REJECT} or empty")
        if decision and decisions.setdefault(clip_id, decision) != decision:
            raise ConfigError(f"{about}: {DECISION}={decision!r}: must be as in the clip's earlier line")
    return [clip_id for clip_id, decision in decisions.items() if decision == APPROVE]


def _rows(lines: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """Line number, ClipId and decision of each row."""
    header = [name.strip() for name in next(csv.reader(lines[:1]), [])]
    if CLIP_ID in header:
        for number, cells in enumerate(csv.reader(lines[1:]), 2):
            row = dict(zip(header, (cell.strip() for cell in cells), strict=False))
            if any(cells):
                yield number, row.get(CLIP_ID, ""), row.get(DECISION, "") if DECISION in header else APPROVE
    else:
        yield from ((number, line.strip(), APPROVE) for number, line in enumerate(lines, 1) if line.strip())


def accept(output: str, clip_ids: Sequence[str], *, by: str, now: datetime) -> Acceptance:
    """Commits the best kept try of each of these clips. `by` says who decided so."""
    editions = list_editions(output)
    given_up = {row["clip_id"]: row for row in given_up_before(output, editions).to_pylist()}
    is_store_safe = {run.run_id: run.record.is_store_safe for run in read_runs(output)}
    committed, already, refused = list[CommitRecord](), list[str](), dict[str, str]()
    for clip_id in clip_ids:
        if clip_id not in given_up and clip_id in editions.in_force:
            already.append(clip_id)
            continue
        chosen = _choose(output, given_up.get(clip_id), clip_id)
        if isinstance(chosen, str):
            refused[clip_id] = chosen
            continue
        facts = {"committed_at": now, "accepted_at": now, "accepted_by": by}
        record = chosen.model_copy(update=facts)
        committed.append(commit(output, record, is_store_safe=is_store_safe.get(record.run_id, True)))
    return Acceptance(committed=committed, already=already, refused=refused)


def _choose(output: str, row: Mapping[str, Any] | None, clip_id: str) -> CommitRecord | str:
    """What to commit, or why nothing. `row` says how the clip was given up."""
    if row is None:
        return (
            "must be a clip that the quality gate rejected; no run here has given it up, or `retry` has opened it again"
        )
    if row["error_type"] in UNSAFE_ERRORS:
        return f"is unsafe, and safety cannot be overruled: {row['error']}"
    if row["error_type"] != NOT_GOOD_ENOUGH:
        return f"must be a clip that the quality gate rejected, but: {row['error_type']}: {row['error']}"
    try:
        tries = read_tries(output, clip_id, row["edition"])
    except UnreadableRecord as error:
        return str(error)
    if any(record.is_unsafe for record in tries):
        return "one of its tries is unsafe, and safety cannot be overruled"
    kept = {record.number: record for record in tries if storage.stat(storage.join(output, record.commit.clip_uri))}
    if not kept:
        return (
            f"the videos of its {len(tries)} tries were not kept (quality.keep_rejected): lower the limits below its scores "
            f"and run `lynx-batch render`, which renders the same seed again and commits it"
        )
    best = best_of([record.judged(has_video=True) for record in kept.values()])
    return kept[best.number].commit.model_copy(update={"num_tries": len(tries)})
