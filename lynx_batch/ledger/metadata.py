"""The metadata table: one row for each manifest row of a run, with its outcome, its resolved inputs and its results."""

import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from lynx_batch import storage
from lynx_batch.clip import ClipSpec
from lynx_batch.columns import TEXTS, TIME, parameter_columns
from lynx_batch.errors import STORE_FAULTS, ConfigError
from lynx_batch.ledger.commits import CommitRecord
from lynx_batch.ledger.records import warn_left_out
from lynx_batch.ledger.tries import BestTry
from lynx_batch.output import METADATA, parse_metadata_part
from lynx_batch.parquet import FAULTS, checked
from lynx_batch.redaction import redact_all
from lynx_batch.spelling import nearest
from lynx_batch.stages import CLIP_STAGES
from lynx_batch.store_errors import Operation
from lynx_model.parameters import PARAMETERS

SCORE_COLUMNS = (
    "likeness_mean",
    "likeness_p10",
    "likeness_minimum",
    "likeness_face_share",
    "likeness_drift",
    "motion_mean",
    "prompt_mean",
    "unsafe",
    "unsafe_falconsai",
)
"""The scores with a column of their own, which expressions may name. All others are in the column `scores`."""

PHOTO_URIS = ("subject_uri", "subject_uris", "manifest_subject_uri", "manifest_subject_uris")
PHOTO_COLUMNS = ("subject_uri", "subject_uris", "photo_sha256", "photo_sha256s")
"""What `photos_in` reads."""

APPLIED = "applied"
"""The value of a mark that did not fail, in the column `marks`."""

METADATA_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("clip_id", pa.string()),
        ("edition", pa.int32()),
        ("outcome", pa.string()),
        ("rendered_by_run", pa.string()),
        ("attempts", pa.int32()),
        ("error_type", pa.string()),
        ("error", pa.string()),
        ("ended_at", TIME),
        ("subject_uri", pa.string()),
        ("subject_uris", TEXTS),
        ("manifest_subject_uri", pa.string()),
        ("manifest_subject_uris", TEXTS),
        ("subject_id", pa.string()),
        ("clip_name", pa.string()),
        ("photo_sha256", pa.string()),
        ("photo_sha256s", TEXTS),
        ("face_index", pa.int64()),
        ("priority", pa.int64()),
        ("consent_ref", pa.string()),
        ("consent_scope", pa.string()),
        ("regions", pa.string()),
        ("consent_expires_at", TIME),
        ("tags", pa.map_(pa.string(), pa.string())),
        ("prompt_template", pa.string()),
        *parameter_columns(without="seed"),
        ("seed", pa.int64()),
        ("attempt", pa.string()),
        ("committed_at", TIME),
        ("clip_uri", pa.string()),
        ("poster_uri", pa.string()),
        ("preview_uri", pa.string()),
        ("sha256", pa.string()),
        ("num_bytes", pa.int64()),
        ("face_turned_degrees", pa.int32()),
        ("allows_missing_consent", pa.bool_()),
        ("group_size", pa.int32()),
        ("device", pa.string()),
        ("num_steps_resumed", pa.int32()),
        *((stage.column, pa.float64()) for stage in CLIP_STAGES),
        ("try_number", pa.int32()),
        ("num_tries", pa.int32()),
        *((score, pa.float64()) for score in SCORE_COLUMNS),
        ("scores", pa.map_(pa.string(), pa.float64())),
        ("thresholds", pa.map_(pa.string(), pa.float64())),
        ("accepted_by", pa.string()),
        ("accepted_at", TIME),
        ("marks", pa.map_(pa.string(), pa.string())),
        ("model", pa.map_(pa.string(), pa.string())),
        ("software", pa.map_(pa.string(), pa.string())),
    ]
)

RESULT_COLUMNS = frozenset(
    {"edition", "rendered_by_run", "seed", *METADATA_SCHEMA.names[METADATA_SCHEMA.get_field_index("attempt") :]}
)
"""The columns that come from a clip's commit."""

RUN = pa.field("run", pa.string())
READ_SCHEMA = METADATA_SCHEMA.append(RUN)
"""The columns of a read table: the run comes from the folder's name, not from the file."""

FILTER_COLUMNS = {
    field.name: pa.int64() if pa.types.is_integer(field.type) else field.type
    for field in METADATA_SCHEMA
    if not pa.types.is_nested(field.type) or field.name == "tags"
}
"""The columns that an expression may name, with the type of the literals they are compared with. Of tags it names one: `tags.KEY`."""


class Outcome(StrEnum):
    """How a manifest row ended in a run.

    rendered: its commit exists. rejected: bad input or consent. failed: its attempts are used up. abandoned: the run
    ended first.
    """

    RENDERED = "rendered"
    REJECTED = "rejected"
    FAILED = "failed"
    ABANDONED = "abandoned"


@dataclass(frozen=True, slots=True, kw_only=True)
class RowOutcome:
    """How one manifest row ended in a run.

    `clip` is None for a row that never became a clip; then `inputs` holds its cells. If an earlier run rendered it or gave it up,
    `ended_at` is that run's. A row has a `commit` exactly if it is rendered. `edition` is the one that the run wanted. `best` is a try
    of a clip that the quality gate rejected.
    """

    row: int
    outcome: Outcome
    ended_at: datetime
    clip: ClipSpec | None = None
    inputs: Mapping[str, Any] = field(default_factory=dict)
    edition: int = 1
    attempts: int = 0
    error_type: str | None = None
    error: str | None = None
    commit: CommitRecord | None = None
    best: BestTry | None = None


def to_table(outcomes: Iterable[RowOutcome]) -> pa.Table:
    """The rows of the metadata table."""
    return pa.Table.from_pylist([_as_row(outcome) for outcome in outcomes], schema=METADATA_SCHEMA)


def with_results(table: pa.Table, known: pa.Table) -> pa.Table:
    """`table` with the results in the same rows of `known`, metadata of an earlier run, which may lack what is newer than it."""
    scores = [dict(cell or ()) for cell in known["scores"].to_pylist()]
    renewed = {
        "try_number": pc.fill_null(known["try_number"], 0),
        "num_steps_resumed": pc.fill_null(known["num_steps_resumed"], 0),
        "allows_missing_consent": pc.fill_null(known["allows_missing_consent"], True),
        **{name: pa.array([cell.get(name) for cell in scores], pa.float64()) for name in SCORE_COLUMNS},
    }
    copied = {name: known[name] for name in RESULT_COLUMNS - renewed.keys()}
    own = {name: table[name] for name in table.column_names}
    return pa.table(own | copied | renewed, METADATA_SCHEMA)


def to_parquet(table: pa.Table) -> bytes:
    parquet = io.BytesIO()
    pq.write_table(table.sort_by("row"), parquet)
    return parquet.getvalue()


MEANT_BY_NULL: Mapping[str, object] = {
    "edition": 1,
    **{name: each.neutral for name, each in PARAMETERS.items() if each.neutral is not MISSING and not each.is_optional},
}
"""What a column says of rows that were written before it existed."""


def read_metadata(output: str | Path, columns: list[str] | None = None, only: pc.Expression | None = None) -> pa.Table:
    """All runs' metadata as one table, with a column `run`. An active run has the rows that ended so far.

    `columns` are the columns to read, `only` filters the rows; None means all. Damaged and foreign files are named in a warning and
    left out. Rows written before a column existed get what they mean: edition 1, and the parameter's neutral value. Where no run has
    written, the table is empty.

    Raises:
        ConfigError: If there is no such column.
    """
    check_columns(columns or ())
    folder = storage.join(str(output), METADATA)
    parts, chosen = list(_list_parts(folder)), pc.field("outcome").is_valid()  # all our rows have an outcome
    chosen = chosen if only is None else chosen & only
    try:
        table = _read_together(folder, parts, columns, chosen)
    except (*FAULTS, *STORE_FAULTS):  # a store's client may report pyarrow's error about damage as an outage
        table = _read_apart(folder, parts, columns, chosen)
    for name in MEANT_BY_NULL.keys() & {*table.column_names}:
        filled = pc.fill_null(table[name], MEANT_BY_NULL[name])
        table = table.set_column(table.column_names.index(name), METADATA_SCHEMA.field(name), filled)
    return table


def check_columns(names: Iterable[str]) -> None:
    """Raises ConfigError if there is no such column."""
    for name in names:
        if name not in READ_SCHEMA.names:
            known = nearest(name, READ_SCHEMA.names)
            raise ConfigError(f"column {name!r}: unknown; the nearest known one is {known!r}")


def _list_parts(folder: str) -> Iterator[str]:
    """The names of all parts, relative to `folder`."""
    for file in storage.list_files(folder):
        name = file.uri.removeprefix(folder).strip("/")
        if parse_metadata_part(name) and file.num_bytes:
            yield name
        else:
            warn_left_out(f"{storage.redact(file.uri)}: not a part of a run's metadata")


def _read_together(folder: str, parts: list[str], columns: list[str] | None, only: pc.Expression) -> pa.Table:
    if not parts:
        return READ_SCHEMA.empty_table().select(columns or READ_SCHEMA.names)
    filesystem, path = storage.arrow_filesystem(folder)
    with storage.explained(Operation.READ, folder):
        dataset = ds.dataset(
            [storage.join(path, name) for name in parts],
            READ_SCHEMA,
            format="parquet",
            filesystem=filesystem,
            partitioning=ds.partitioning(pa.schema([RUN]), flavor="hive"),
            partition_base_dir=path,
        )
        return checked(dataset.to_table(columns=columns, filter=only, use_threads=False))


def _read_apart(folder: str, parts: list[str], columns: list[str] | None, only: pc.Expression) -> pa.Table:
    """Like `_read_together`, but part by part, without the unreadable ones."""
    tables = [READ_SCHEMA.empty_table(), *filter(None, (_read_part(folder, name) for name in parts))]
    return pa.concat_tables(tables).filter(only).select(columns or READ_SCHEMA.names)


def _read_part(folder: str, name: str) -> pa.Table | None:
    uri, run = storage.join(folder, name), parse_metadata_part(name)
    try:
        content = pa.BufferReader(storage.read_bytes(uri))
        table = checked(pq.read_table(content, schema=METADATA_SCHEMA, use_threads=False, pre_buffer=False))
    except FAULTS as error:
        warn_left_out(f"{storage.redact(uri)}: not a part of a run's metadata: {error}")
        return None
    return table.append_column(RUN, pa.repeat(run, table.num_rows))


def _as_row(outcome: RowOutcome) -> dict[str, Any]:
    names = ("row", "outcome", "attempts", "error_type", "error", "ended_at")
    row = dict(_inputs(outcome)) | {name: getattr(outcome, name) for name in names}
    if outcome.commit is not None:
        row |= dict(results_of(outcome.commit))
    elif (best := outcome.best) is not None:
        row |= {"seed": best.seed, "try_number": best.number, "num_tries": best.num_tries}
        row |= dict(_scores(best.scores))
    return row


def _inputs(outcome: RowOutcome) -> Iterator[tuple[str, Any]]:
    clip = outcome.clip
    inputs = outcome.inputs if clip is None else clip.request.inputs
    yield from inputs.items()
    for name in PHOTO_URIS:
        yield name, redact_all(inputs.get(name))
    if clip is not None:
        yield "clip_id", clip.clip_id
        yield "edition", outcome.edition
        sha256s = [portrait.sha256 for portrait in clip.portraits]
        yield ("photo_sha256", sha256s[0]) if len(sha256s) == 1 else ("photo_sha256s", sha256s)
        yield "seed", clip.params.seed


def photos_in(row: Mapping[str, Any]) -> list[tuple[str | None, str | None]]:
    """URI and hash of each photo of a row with PHOTO_COLUMNS. The hash is None if the row never became a clip."""
    uris = row["subject_uris"] or [row["subject_uri"]]
    sha256s = row["photo_sha256s"] or [row["photo_sha256"]] * len(uris)
    return list(zip(uris, sha256s, strict=True))


def best_in(row: Mapping[str, Any]) -> BestTry | None:
    """The try that a row of the metadata keeps of a rejected clip, if any."""
    if row.get("num_tries") is None:
        return None
    return BestTry(
        number=row["try_number"], seed=row["seed"], scores=dict(row["scores"] or ()), num_tries=row["num_tries"]
    )


def results_of(commit: CommitRecord) -> Iterator[tuple[str, Any]]:
    """The values of a commit, by metadata column."""
    yield "edition", commit.edition
    yield "rendered_by_run", commit.run_id
    yield "seed", commit.seed
    for name in ("attempt", "committed_at", "clip_uri", "poster_uri", "preview_uri", "sha256", "num_bytes"):
        yield name, getattr(commit, name)
    for name in ("face_turned_degrees", "allows_missing_consent", "group_size", "device", "num_steps_resumed"):
        yield name, getattr(commit, name)
    yield from commit.stage_s.items()
    for name in ("try_number", "num_tries", "accepted_by", "accepted_at"):
        yield name, getattr(commit, name)
    yield from _scores(commit.scores)
    yield "thresholds", list(commit.thresholds.items())
    yield "marks", [*dict.fromkeys(commit.marks, APPLIED).items(), *commit.failed_marks.items()]
    yield "model", [(name, str(value)) for name, value in commit.identity.items() if value is not None]
    yield "software", list(commit.software.items())


def _scores(scores: Mapping[str, float]) -> Iterator[tuple[str, Any]]:
    for name in SCORE_COLUMNS:
        yield name, scores.get(name)
    yield "scores", list(scores.items())


def as_marks(cell: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """A commit's fields about marks, from the column `marks`."""
    marks = dict(cell)
    failed = {mark: why for mark, why in marks.items() if why != APPLIED}
    return {"marks": tuple(mark for mark in marks if mark not in failed), "failed_marks": failed}
