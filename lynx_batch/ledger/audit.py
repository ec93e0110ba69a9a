"""The audit table: what was made of whom, on which consent, with which model, marked how."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow.compute as pc

from lynx_batch.ledger.commits import CommitRecord, read_commits
from lynx_batch.ledger.editions import Editions, list_editions
from lynx_batch.ledger.metadata import Outcome, read_metadata, results_of
from lynx_batch.ledger.owners import read_owners

WHOSE = ("subject_id", "photo_sha256", "consent_ref", "consent_scope", "regions", "consent_expires_at")
RESULTS = (
    "allows_missing_consent",
    "rendered_by_run",
    "committed_at",
    "attempt",
    "seed",
    "clip_uri",
    "sha256",
    "model",
    "marks",
)
AUDIT_COLUMNS = ("clip_id", "edition", "state", *WHOSE, *RESULTS)

Line = dict[str, Any]


def read_audit(output: str) -> list[Line]:
    """A line for each committed edition of a clip and each person and consent that rows named for it, in the order of commits.

    `state` is `in force`, `withdrawn` or `missing` (the commit has vanished). `photo_sha256` has all photos of the clip. Also lists
    clips of runs that were killed before they wrote metadata; of these, `clips.parquet` and the commit say less.
    """
    editions = list_editions(output)
    lines = [*_lines_of_metadata(output, editions), *_lines_of_commits(output, editions)]
    distinct = {
        tuple(line[name] for name in ("clip_id", "edition", "subject_id", "consent_ref")): line for line in lines[::-1]
    }
    return sorted(distinct.values(), key=lambda line: (line["committed_at"], line["clip_id"], line["edition"]))


def _lines_of_metadata(output: str, editions: Editions) -> Iterator[Line]:
    columns = [*(name for name in AUDIT_COLUMNS if name != "state"), "photo_sha256s"]
    for row in read_metadata(output, columns, pc.field("outcome") == Outcome.RENDERED).to_pylist():
        photos = row["photo_sha256"] or _join(row["photo_sha256s"] or ())
        yield row | {"state": _state(row["clip_id"], row["edition"], editions), "photo_sha256": photos}


def _lines_of_commits(output: str, editions: Editions) -> Iterator[Line]:
    """The commits in force, with what `clips.parquet` of their own run says about them."""
    owners = [owner for owner in read_owners(output) if owner.clip_id in editions.in_force]
    commits = {commit.clip_id: commit for commit in read_commits(output, editions.in_force)}
    photos: defaultdict[str | None, set[str]] = defaultdict(set)
    for owner in owners:
        photos[owner.clip_id] |= {owner.photo_sha256} if owner.photo_sha256 else set()
    for owner in owners:
        commit = commits.get(owner.clip_id or "")
        if commit is not None and commit.run_id == owner.run_id:
            whose = {name: getattr(owner, name, None) for name in WHOSE}
            whose["photo_sha256"] = _join(photos[owner.clip_id])
            yield {
                "clip_id": commit.clip_id,
                "edition": commit.edition,
                "state": "in force",
                **whose,
                **_results(commit),
            }


def _join(photos: Iterable[str]) -> str:
    return "; ".join(sorted({*photos}))


def _results(commit: CommitRecord) -> Line:
    results = dict(results_of(commit)) | {"seed": commit.seed}
    return {name: results[name] for name in RESULTS}


def _state(clip_id: str, edition: int, editions: Editions) -> str:
    if editions.in_force.get(clip_id, 0) == edition:
        return "in force"
    return (
        "withdrawn"
        if edition <= max(editions.withdrawn.get(clip_id, 0), editions.in_force.get(clip_id, 0))
        else "missing"
    )
