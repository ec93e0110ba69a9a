"""What a new run learns from earlier ones: the clips that were given up, and the commits of the finished ones."""

from collections.abc import Iterator, Mapping, Set
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lynx_batch.errors import CONSENT_ERRORS, PhotoUnreachable
from lynx_batch.ledger.commits import CommitRecord, read_commits
from lynx_batch.ledger.editions import Editions
from lynx_batch.ledger.events import AttemptEvent, EventKind, read_events
from lynx_batch.ledger.judgements import judged_editions, with_judgements
from lynx_batch.ledger.metadata import METADATA_SCHEMA, Outcome, as_marks, read_metadata
from lynx_batch.ledger.retries import RetryRequest, read_retry_requests, write_retry_request
from lynx_batch.ledger.runs import read_runs
from lynx_batch.stages import CLIP_STAGES

NUM_AT_ONCE = 10_000

GIVEN_UP = (Outcome.REJECTED, Outcome.FAILED)
CHECKED_EACH_RUN = CONSENT_ERRORS | {PhotoUnreachable.__name__}
"""Every run checks these again before its first clip: a consent may have been renewed, a photo's host may answer again."""

STAGE_COLUMNS = tuple(stage.column for stage in CLIP_STAGES)
COMMIT_COLUMNS = [
    *filter(CommitRecord.model_fields.__contains__, METADATA_SCHEMA.names),
    *STAGE_COLUMNS,
    "rendered_by_run",
    "model",
]


def given_up_before(output: str, editions: Editions) -> pa.Table:
    """A metadata row for each clip whose wanted edition was rejected or failed, is not finished, and was not requested again since.

    Rejections that every run checks again are left out. If a run gave a clip up shortly before it was killed, the row only says that,
    when and why.
    """
    is_given_up = pc.field("outcome").isin([*GIVEN_UP]) & pc.field("clip_id").is_valid()
    rows = read_metadata(output, METADATA_SCHEMA.names, is_given_up).to_pylist() + _recently_given_up(output, editions)
    last = {row["clip_id"]: row for row in sorted(rows, key=lambda row: row["ended_at"])}
    requests = read_retry_requests(output)
    kept = [
        row
        for clip_id, row in last.items()
        if row["edition"] >= editions.wanted(clip_id)
        and not editions.is_finished(clip_id, row["edition"])
        and row["error_type"] not in CHECKED_EACH_RUN
        and not (clip_id in requests and requests[clip_id] > row["ended_at"])
    ]
    return pa.Table.from_pylist(kept, METADATA_SCHEMA)


def given_up_redos(output: str, editions: Editions, clip_ids: Set[str]) -> dict[str, int]:
    """The edition of each of these clips for which a redo was asked, if it was given up.

    Whoever withdraws the commit of such a clip must withdraw that edition, too: else no run would render the clip.
    """
    asked = {clip_id: editions.redo[clip_id] for clip_id in clip_ids & editions.redo.keys()}
    if not asked:
        return {}
    given_up = {*given_up_before(output, editions)["clip_id"].to_pylist()}
    return {clip_id: edition for clip_id, edition in asked.items() if clip_id in given_up}


def request_retry(output: str, given_up: pa.Table, now: datetime) -> None:
    """Lets the next run try these clips again, even if the clocks that noted their failures were ahead of `now`."""
    if given_up.num_rows:
        asked_at = max(now, pc.max(given_up["ended_at"]).as_py() + timedelta(microseconds=1))
        write_retry_request(output, RetryRequest(asked_at=asked_at, clip_ids=given_up["clip_id"].to_pylist()))


def recent_events(output: str, run_id: str, excluded: Set[str] = frozenset()) -> list[AttemptEvent]:
    """The events, oldest first, of clips that have no row in the run's metadata yet and are not `excluded`."""
    settled = read_metadata(output, ["clip_id"], pc.field("run") == run_id)["clip_id"].to_pylist()
    known = excluded | {*settled}
    return read_events(output, run_id, lambda clip_id: clip_id not in known)


def deaths_before(output: str, clip_ids: Set[str], editions: Editions) -> dict[str, int]:
    """How many groups broke with each clip alone on them, in runs that did not come to their end, since its last retry request.

    Those of an edition before the wanted one do not count.
    """
    requested_at, deaths = read_retry_requests(output), dict[str, int]()
    for run in read_runs(output):
        if run.end is not None and not run.end.stopped_by:
            continue
        for event in read_events(output, run.run_id, clip_ids.__contains__):
            is_forgiven = event.clip_id in requested_at and event.at < requested_at[event.clip_id]
            is_of_older = event.edition < editions.wanted(event.clip_id)
            if event.deaths and not is_forgiven and not is_of_older:
                deaths[event.clip_id] = max(event.deaths, deaths.get(event.clip_id, 0))
    return deaths


def known_commits(output: str, editions: Mapping[str, int]) -> Iterator[CommitRecord]:
    """The commits of these editions of clips, from the metadata of the newest run that has them, else read from the store.

    A record from metadata equals the committed one, except that all values of its `identity` are text. A clip that was judged after its
    commit has the scores that it got then. Damaged commits are left out.
    """
    return with_judgements(output, _known_commits(output, editions))


def known_results(output: str, missing: dict[str, int]) -> Iterator[pa.Table]:
    """What the metadata knows of these editions of clips, a row of `COMMIT_COLUMNS` for each, from the newest run that has them.

    Clips are removed from `missing` when they are found. It keeps those that were judged after their commit, whose scores are elsewhere.
    """
    judged: set[tuple[str, int]] | None = None
    for table in _known_results(output, missing):
        names = [*zip(table["clip_id"].to_pylist(), table["edition"].to_pylist(), strict=True)]
        is_bare = [not cell for cell in table["scores"].to_pylist()]
        if judged is None and any(is_bare):
            judged = judged_editions(output)
        is_late = [bare and name in (judged or ()) for name, bare in zip(names, is_bare, strict=True)]
        missing |= (name for name, late in zip(names, is_late, strict=True) if late)
        yield table.filter(pa.array([not late for late in is_late], pa.bool_()))


def _known_commits(output: str, editions: Mapping[str, int]) -> Iterator[CommitRecord]:
    missing = dict(editions)
    for table in _known_results(output, missing):
        yield from map(_as_commit, table.to_pylist())
    yield from read_commits(output, dict(sorted(missing.items())))


def _known_results(output: str, missing: dict[str, int]) -> Iterator[pa.Table]:
    """As `known_results`, but with all that the metadata has. Some tables may be empty."""
    for run in reversed(read_runs(output)):
        if not missing:
            return
        is_wanted = pc.field("clip_id").isin([*missing])
        is_known = (pc.field("run") == run.run_id) & (pc.field("outcome") == Outcome.RENDERED) & is_wanted
        for batch in read_metadata(output, COMMIT_COLUMNS, is_known).to_batches(max_chunksize=NUM_AT_ONCE):
            names = zip(batch["clip_id"].to_pylist(), batch["edition"].to_pylist(), strict=True)
            found = [place for place, name in enumerate(names) if _remove(missing, *name)]
            yield pa.Table.from_batches([batch]).take(pa.array(found, pa.int64()))


def _remove(missing: dict[str, int], clip_id: str, edition: int) -> bool:
    """Removes this edition; whether it was there."""
    if missing.get(clip_id) != edition:
        return False
    del missing[clip_id]
    return True


def _recently_given_up(output: str, editions: Editions) -> list[dict[str, Any]]:
    """Rows for clips that running or killed runs gave up since they last wrote metadata."""
    unended = [run.run_id for run in read_runs(output) if run.end is None]
    events = [event for run_id in unended for event in recent_events(output, run_id, editions.finished)]
    return [
        {
            "row": event.row,
            "clip_id": event.clip_id,
            "edition": event.edition,
            "outcome": Outcome(event.kind),
            "error_type": event.error_type,
            "error": event.error,
            "ended_at": event.at,
        }
        for event in events
        if event.kind in (EventKind.REJECTED, EventKind.FAILED)
    ]


def _as_commit(row: dict[str, Any]) -> CommitRecord:
    rest = {name: value for name, value in row.items() if name in CommitRecord.model_fields}
    rest["software"] = dict(row["software"])
    rest |= {name: dict(row[name] or ()) for name in ("scores", "thresholds")}
    rest |= as_marks(row["marks"] or ())
    rest |= {name: row[name] or 0 for name in ("try_number", "num_steps_resumed")}
    rest["allows_missing_consent"] = row["allows_missing_consent"] is not False
    stage_s = {stage: row[stage] for stage in STAGE_COLUMNS if row[stage] is not None}
    return CommitRecord(**rest, run_id=row["rendered_by_run"], stage_s=stage_s, identity=dict(row["model"]))
