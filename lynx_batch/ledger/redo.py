"""Redo requests: committed clips that are to be rendered again with another seed, as a new edition. The old one stays in force meanwhile."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from lynx_batch import storage
from lynx_batch.clip import canonical_json
from lynx_batch.ledger.editions import Editions
from lynx_batch.ledger.history import known_commits
from lynx_batch.ledger.metadata import READ_SCHEMA, results_of
from lynx_batch.ledger.order import newest_rows
from lynx_batch.ledger.requested import describe
from lynx_batch.ledger.runs import read_run_file, read_run_manifest
from lynx_batch.output import redo_uri
from lynx_batch.planning.verdict import NOT_GOOD_ENOUGH, UNSAFE_ERRORS

SCHEMA_VERSION = 1

Row = dict[str, Any]


class RedoRequest(BaseModel):
    """Somebody wants this edition of the clip. Its name alone counts; the content is for people."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = SCHEMA_VERSION
    clip_id: str
    edition: int
    asked_at: datetime
    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RedoPlan:
    """The edition to ask for of each clip; clips that wait for an earlier redo; clips whose redo was unsafe."""

    editions: Mapping[str, int]
    waiting: frozenset[str]
    unsafe: frozenset[str]


def committed_rows(output: str, editions: Editions) -> pa.Table:
    """The newest metadata row of each clip in force, with the results of the commit in force."""
    commits = {commit.clip_id: commit for commit in known_commits(output, editions.in_force)}
    rows = [
        row | dict(results_of(commits[row["clip_id"]]))
        for row in newest_rows(output).to_pylist()
        if row["clip_id"] in commits
    ]
    return pa.Table.from_pylist(rows, READ_SCHEMA)


def explain_given_seeds(output: str, rows: Iterable[Row]) -> list[str]:
    """A line for each row that gives its seed, by itself or by its run's defaults."""
    rows_of: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        rows_of[row["run"]].append(row)
    return [line for run_id, some in sorted(rows_of.items()) for line in _explain_given_seeds(output, run_id, some)]


def plan_redo(clip_ids: Iterable[str], editions: Editions, given_up: Mapping[str, str | None]) -> RedoPlan:
    """What to ask for. `given_up` has the error type of each clip whose wanted edition was rejected or failed.

    A redo that was not good enough makes room for the next one. Any other redo without a commit is still wanted.
    """
    wanted: dict[str, int] = {}
    waiting, unsafe = set(), set()
    for clip_id in clip_ids:
        if given_up.get(clip_id) in UNSAFE_ERRORS:
            unsafe.add(clip_id)
        elif clip_id in editions.redo and given_up.get(clip_id) != NOT_GOOD_ENOUGH:
            waiting.add(clip_id)
        else:
            wanted[clip_id] = editions.wanted(clip_id) + 1
    return RedoPlan(editions=wanted, waiting=frozenset(waiting), unsafe=frozenset(unsafe))


def request_redo(output: str, request: RedoRequest) -> None:
    """An earlier request for the same edition stays as it is."""
    uri = redo_uri(output, request.clip_id, request.edition)
    storage.create_only(uri, canonical_json(request.model_dump(mode="json")))


def _explain_given_seeds(output: str, run_id: str, rows: list[Row]) -> Iterator[str]:
    manifest = read_run_manifest(output, run_id)
    cells = manifest.select([name for name in ("row", "seed") if name in manifest.column_names]).to_pylist()
    given = {cell["row"] for cell in cells if cell.get("seed") is not None}
    is_default = (read_run_file(output, run_id).get("defaults") or {}).get("seed") is not None
    for row in rows:
        if is_default or row["row"] in given:
            yield f"{describe(row)}: seed={row['seed']}: is given, so no other seed may be rendered"
