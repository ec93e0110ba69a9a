"""Reads what a report shows of a run: its metadata, its tries, and its own copy of the run file."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import structlog
from numpy.typing import NDArray
from pydantic import ValidationError

from lynx_batch import storage
from lynx_batch.config import InputsConfig, QualityConfig, ReportConfig
from lynx_batch.errors import ConfigError, LynxError, UnreadableRecord
from lynx_batch.ledger.editions import list_editions
from lynx_batch.ledger.metadata import SCORE_COLUMNS, Outcome, read_metadata
from lynx_batch.ledger.order import RunOrder
from lynx_batch.ledger.runs import Run, read_runs
from lynx_batch.ledger.tombstones import read_revoked
from lynx_batch.ledger.tries import TryRecord, read_tries
from lynx_batch.output import RUN_FILE, TRIES, parse_try, run_file_uri
from lynx_batch.report.rows import COLUMNS, ReportRow, read_row
from lynx_batch.report.varied import VARYING, find_axes
from lynx_batch.yaml_text import read_yaml

log = structlog.get_logger()

NUM_TRY_READERS = 32
ROWS_AT_ONCE = 10_000

MAX_SHOWN = 20_000
"""A report shows at most so many clips that were rendered and so many others: 20 pages of 1.3 MB. Its figures count all rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFileFacts:
    """What a report needs of a run's own copy of its run file."""

    inputs: InputsConfig = field(default_factory=InputsConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    least_mean_likeness: float | None = None


def find_run(output: str, run_id: str | None) -> Run:
    """The run of that id, or the newest one. Raises ConfigError if there is none."""
    runs = read_runs(output)
    found = runs[-1:] if run_id is None else [run for run in runs if run.run_id == run_id]
    if not found:
        named = "" if run_id is None else f"--run {run_id!r}: "
        raise ConfigError(f"{named}must be a run of {storage.redact(output)}; `lynx-batch status` lists them")
    return found[0]


def read_run_file(output: str, run_id: str) -> RunFileFacts:
    """What the run file said. One that cannot be read is named in a warning, and counts as one that wants no photos."""
    uri = run_file_uri(output, run_id, RUN_FILE)
    try:
        content = read_yaml(storage.read_bytes(uri).decode("utf-8"), source=storage.redact(uri)) or {}
        quality = QualityConfig.model_validate(content.get("quality") or {})
        return RunFileFacts(
            inputs=InputsConfig.model_validate(content.get("inputs") or {}),
            report=ReportConfig.model_validate(content.get("report") or {}),
            least_mean_likeness=quality.likeness.min_mean if quality.likeness else None,
        )
    except (LynxError, ValidationError, ValueError, AttributeError) as error:
        log.warning("run_file_unread", run_file=storage.redact(uri), error=str(error))
        return RunFileFacts(report=ReportConfig(photos=False))


class RunRows:
    """The rows of a run that have ended so far. There may be a million, so they are made of the metadata when they are asked for."""

    def __init__(self, output: str, run_id: str, now: datetime) -> None:
        self._output, self._run_id, self._now = output, run_id, now
        wanted = [*dict.fromkeys(["run", *COLUMNS, *VARYING])]
        table = read_metadata(output, wanted, pc.field("run") == run_id).sort_by("row")
        self._axes = find_axes(table.select([*VARYING]), table["tags"])
        self._table = table.select([name for name in wanted if name in COLUMNS or name in self._axes])
        self._num_tries, self._revoked = _count_tries(output), read_revoked(output)
        self._num_earlier_tries = _count_earlier_tries(output, run_id, self._table["clip_id"])
        self._in_force = list_editions(output).in_force

    def all(self) -> Iterator[ReportRow]:
        """Every row in the order of the manifest, without the files of tries that were rejected."""
        return self._rows(self._table)

    def shown(self, most: int) -> list[ReportRow]:
        """At most so many rows that were rendered and so many others, spread evenly, with the files of tries that were kept."""
        is_rendered = pc.equal(self._table["outcome"], Outcome.RENDERED).to_numpy()
        chosen = np.concatenate([_spread(np.flatnonzero(some), most) for some in (is_rendered, ~is_rendered)])
        return _add_kept_tries(self._output, [*self._rows(self._table.take(pa.array(np.sort(chosen))))])

    def _rows(self, table: pa.Table) -> Iterator[ReportRow]:
        for batch in table.to_batches(max_chunksize=ROWS_AT_ONCE):
            for cells in batch.to_pylist():
                yield read_row(
                    cells,
                    self._run_id,
                    self._now,
                    num_tries=self._num_tries,
                    num_earlier_tries=self._num_earlier_tries,
                    in_force=self._in_force,
                    revoked=self._revoked,
                    axes=self._axes,
                )


def _spread(places: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """At most so many of the places, at even distances."""
    return places if len(places) <= most else places[np.linspace(0, len(places) - 1, most).astype(np.int64)]


def _count_tries(output: str) -> Counter[tuple[str, int]]:
    """The number of recorded tries of each edition of a clip, from their names alone."""
    names = (parse_try(file.uri) for file in storage.list_files(storage.join(output, TRIES)))
    return Counter((name.clip_id, name.edition) for name in names if name)


def _count_earlier_tries(output: str, run_id: str, clip_ids: pa.ChunkedArray) -> dict[tuple[str, int], int]:
    """The tries that each edition of these clips had when the last run before this one ended its row. A killed run's are not among them."""
    is_judged = pc.field("num_tries").is_valid() & (pc.field("run") != run_id)
    table = read_metadata(output, ["run", "clip_id", "edition", "num_tries"], is_judged)
    table = table.filter(pc.is_in(table["clip_id"], clip_ids.unique()))
    ranks = RunOrder.of(output, [run_id, *pc.unique(table["run"]).to_pylist()]).ranks
    found: Counter[tuple[str, int]] = Counter()
    for row in table.to_pylist():
        if ranks[row["run"]] < ranks[run_id]:
            edition = row["clip_id"], row["edition"]
            found[edition] = max(found[edition], row["num_tries"])
    return dict(found)


def _add_kept_tries(output: str, rows: list[ReportRow]) -> list[ReportRow]:
    """`rows`, where each that the quality gate rejected has the scores, and the files if kept, of its best try."""
    rejected = [row for row in rows if row.outcome is Outcome.REJECTED and row.num_tries and not row.is_revoked]
    with ThreadPoolExecutor(NUM_TRY_READERS, thread_name_prefix="tries") as pool:
        found = {row.row: row for row in pool.map(partial(_with_best_try, output), rejected)}
    return [found.get(row.row, row) for row in rows]


def _with_best_try(output: str, row: ReportRow) -> ReportRow:
    """The files of an unsafe try were never uploaded, so there is nothing to show of it."""
    try:
        tries = read_tries(output, row.clip_id, row.edition)
    except UnreadableRecord as error:
        log.warning("tries_unread", clip_id=row.clip_id, error=str(error))
        return row
    if not tries:
        return row
    best = max(tries, key=_rank)
    return replace(
        row,
        clip_uri=_if_there(output, best.commit.clip_uri),
        poster_uri=_if_there(output, best.commit.poster_uri),
        seed=best.commit.seed,
        try_number=best.number,
        scores={name: best.scores[name] for name in SCORE_COLUMNS if name in best.scores},
    )


def _rank(record: TryRecord) -> tuple[bool, float]:
    return not record.is_unsafe, record.scores.get("likeness_p10", 0.0)


def _if_there(output: str, path: str) -> str:
    return path if path and storage.stat(storage.join(output, path)) is not None else ""
