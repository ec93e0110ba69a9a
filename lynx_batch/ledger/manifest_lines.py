"""What became of each row of a manifest: its cells as they were written, and the newest result of the clip that it asks for."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lynx_batch import storage
from lynx_batch.errors import ConfigError
from lynx_batch.ledger.commits import CommitRecord
from lynx_batch.ledger.editions import list_editions
from lynx_batch.ledger.history import known_commits
from lynx_batch.ledger.metadata import READ_SCHEMA, read_metadata, results_of
from lynx_batch.ledger.order import RunOrder, newest_rows
from lynx_batch.ledger.requested import RequestKey, request_key
from lynx_batch.ledger.runs import list_runs, read_run_manifest, read_whole_manifest, redacted, without_maps

Row = dict[str, Any]

NAMING = ("subject_id", "clip_name", "tags")
"""What a row is called may change without a new clip: the words of the manifest at hand count."""

COLUMNS = [name for name in READ_SCHEMA.names if name not in ("thresholds", "model", "software")]
"""The metadata of a line: without maps that are the same for most clips, and large."""

UNKNOWN: Row = dict.fromkeys(COLUMNS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestLine:
    """A row of a manifest.

    `source` names the manifest for messages. `given` are the cells that the row has, as they are in the manifest. `row` is the row of the
    metadata that answers it, with the results of the commit in force; its outcome is None if no run has ended it.
    """

    source: str
    given: Row
    row: Row


@dataclass(frozen=True, slots=True, kw_only=True)
class _ManifestRuns:
    """The rows of a manifest, and the runs that may have answered them, the newest first."""

    source: str
    manifest: pa.Table
    run_ids: list[str]


def read_manifest_lines(output: str, manifest: pa.Table, uri: str, run_id: str | None = None) -> list[ManifestLine]:
    """A line for each row of a manifest, which was read from `uri`, whichever of its rows the runs took.

    Only the run `run_id` answers a row if one is given; else the runs over a manifest of the same URI, if there are any; else all runs,
    over whose manifests the rows may be spread.

    Raises:
        ConfigError: If there is no such run.
    """
    order = RunOrder.of(output, ())
    source = storage.redact(uri).rstrip("/")
    if run_id is None:
        same = [each for each in order.ranks if order.manifest_of(each) == source]
        run_ids = _newest_first(same or order.ranks, order)
    else:
        run_ids = [_known_run(output, run_id)]
    asked = _ManifestRuns(source=source, manifest=redacted(manifest), run_ids=run_ids)
    return _with_results(output, list(_answer(output, asked)))


def read_run_lines(output: str, run_id: str) -> list[ManifestLine]:
    """A line for each row that a run took. Raises ConfigError if there is no such run."""
    manifest = read_whole_manifest(output, _known_run(output, run_id))
    return _with_results(
        output, list(_answer(output, _ManifestRuns(source=f"run {run_id}", manifest=manifest, run_ids=[run_id])))
    )


def read_all_lines(output: str) -> list[ManifestLine]:
    """A line for each row that a manifest has by its newest runs, and for each further clip in force that the metadata know."""
    order = RunOrder.of(output, ())
    lines = [line for asked in _current_manifests(output, order) for line in _answer(output, asked)]
    known = {line.row["clip_id"] for line in lines}
    newest = newest_rows(output).select(COLUMNS)
    is_other = pc.invert(pc.is_in(newest["clip_id"], pa.array([None, *known - {None}], pa.string())))
    lines += [_own_line(row) for row in newest.filter(is_other).to_pylist()]
    return _with_results(output, lines)


def _known_run(output: str, run_id: str) -> str:
    if run_id not in list_runs(output):
        raise ConfigError(
            f"--run {run_id!r}: must be a run of {storage.redact(output)}; `lynx-batch status` lists them"
        )
    return run_id


def _own_line(row: Row) -> ManifestLine:
    return ManifestLine(source=f"run {row['run']}", given={}, row=row)


def _current_manifests(output: str, order: RunOrder) -> Iterator[_ManifestRuns]:
    """Each manifest by the runs that no newer run over the whole of it replaced. A row that several of them took is the newest one's."""
    runs_of: dict[str, list[str]] = defaultdict(list)
    for run_id in _newest_first(order.ranks, order):
        runs_of[order.manifest_of(run_id) or f"run {run_id}"].append(run_id)
    current = order.current_runs()
    for source, run_ids in runs_of.items():
        copies = [read_whole_manifest(output, run_id) for run_id in run_ids if run_id in current]
        yield _ManifestRuns(source=source, manifest=_newest_of_each_row(copies), run_ids=run_ids)


def _newest_of_each_row(copies: Iterable[pa.Table]) -> pa.Table:
    """The rows of copies of one manifest, the newest copy first."""
    taken, kept = pa.array([], pa.int64()), list[pa.Table]()
    for copy in copies:
        if copy.num_rows:
            kept.append(copy.filter(pc.invert(pc.is_in(copy["row"], taken))))
            taken = pa.concat_arrays([taken, copy["row"].combine_chunks()])
    return pa.concat_tables(kept, promote_options="default").sort_by("row") if kept else pa.table({})


def _answer(output: str, asked: _ManifestRuns) -> Iterator[ManifestLine]:
    """The rows with their newest answer: a clip in force if there is one, else the newest row of a run that asked for the same."""
    in_force = list_editions(output).in_force
    keys = {row["row"]: request_key(row) for row in without_maps(asked.manifest).to_pylist()}
    found: dict[int, Row] = {}
    for run_id in asked.run_ids:
        missing = {row for row in keys if row not in found or found[row]["clip_id"] not in in_force}
        if not missing:
            break
        for row, answer in _answers_of_run(output, run_id, {row: keys[row] for row in missing}):
            if row not in found or answer["clip_id"] in in_force:
                found[row] = answer
    for given in asked.manifest.to_pylist():
        cells = {name: cell for name, cell in given.items() if cell is not None}
        inputs = {name: cell for name, cell in cells.items() if name in UNKNOWN}
        called = {name: cells.get(name) for name in NAMING}
        answer = {**UNKNOWN, **found.get(given["row"], inputs)}
        yield ManifestLine(source=asked.source, given=cells, row={**answer, **called, "row": given["row"]})


def _answers_of_run(output: str, run_id: str, keys: Mapping[int, RequestKey]) -> Iterator[tuple[int, Row]]:
    """For each row, the run's row that asked for the same: that of the same number, or else any."""
    rows_of: dict[RequestKey, list[int]] = defaultdict(list)
    wanted = {*keys.values()}
    for row in read_run_manifest(output, run_id).to_pylist():
        if (key := request_key(row)) in wanted:
            rows_of[key].append(row["row"])
    if not rows_of:
        return
    is_of_run = (pc.field("run") == run_id) & pc.field("row").isin([row for rows in rows_of.values() for row in rows])
    answers = {row["row"]: row for row in read_metadata(output, COLUMNS, is_of_run).to_pylist()}
    for row, key in keys.items():
        same = rows_of.get(key, [])
        answer = next((answers[each] for each in sorted(same, key=lambda each: each != row) if each in answers), None)
        if answer is not None:
            yield row, answer


def _with_results(output: str, lines: list[ManifestLine]) -> list[ManifestLine]:
    """The lines with the results of the commits in force, which may be newer than the metadata."""
    in_force, clip_ids = list_editions(output).in_force, {line.row["clip_id"] for line in lines}
    wanted = {clip_id: edition for clip_id, edition in in_force.items() if clip_id in clip_ids}
    commits = {commit.clip_id: commit for commit in known_commits(output, wanted)}
    return [
        ManifestLine(source=line.source, given=line.given, row=_renewed(line.row, commits.get(line.row["clip_id"])))
        for line in lines
    ]


def _renewed(row: Row, commit: CommitRecord | None) -> Row:
    return row if commit is None else row | {name: cell for name, cell in results_of(commit) if name in UNKNOWN}


def _newest_first(run_ids: Iterable[str], order: RunOrder) -> list[str]:
    return sorted(run_ids, key=order.ranks.__getitem__, reverse=True)
