"""Whose clips the runs of an output location render.

Each run puts `clips.parquet` before its first clip, because a run that is killed leaves no metadata.
"""

import io
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from lynx_batch import storage
from lynx_batch.clip import ClipSpec
from lynx_batch.errors import MissingObject, UnreadableRecord
from lynx_batch.ledger.metadata import read_metadata
from lynx_batch.ledger.records import warn_left_out
from lynx_batch.ledger.runs import list_runs
from lynx_batch.output import RUN_CLIPS, run_file_uri
from lynx_batch.parquet import FAULTS, checked, read_table
from lynx_batch.planning.revocation import Owner

OWNER_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("clip_id", pa.string()),
        ("subject_id", pa.string()),
        ("consent_ref", pa.string()),
        ("photo_sha256", pa.string()),
    ]
)


def owners_of(run_id: str, clips: Iterable[ClipSpec]) -> list[Owner]:
    """One for each photo of each clip."""
    return [
        Owner(
            run_id=run_id,
            row=clip.request.row,
            clip_id=clip.clip_id,
            subject_id=clip.request.subject_id,
            consent_ref=clip.request.consent_ref,
            photo_sha256=portrait.sha256,
        )
        for clip in clips
        for portrait in clip.person
    ]


def write_owners(output: str, run_id: str, owners: Iterable[Owner]) -> None:
    """Writes the run's `clips.parquet`."""
    owners, parquet = list(owners), io.BytesIO()
    columns = {name: [getattr(owner, name) for owner in owners] for name in OWNER_SCHEMA.names}
    pq.write_table(pa.table(columns, OWNER_SCHEMA), parquet)
    storage.write_bytes(run_file_uri(output, run_id, RUN_CLIPS), parquet.getvalue())


def read_owners(output: str) -> list[Owner]:
    """The rows of all runs, from what they put before their first clip and from their metadata; a row with several photos once for each.

    Damaged files are named in a warning.
    """
    runs = sorted(list_runs(output))
    rows = [row | {"run": run_id} for run_id in runs for row in read_run_owners(output, run_id).to_pylist()]
    for row in read_metadata(output, ["run", *OWNER_SCHEMA.names, "photo_sha256s"]).to_pylist():
        several = row.pop("photo_sha256s")
        rows += [row | {"photo_sha256": sha256} for sha256 in several or [row["photo_sha256"]]]
    return list(dict.fromkeys(_as_owners(rows)))


def read_run_owners(output: str, run_id: str) -> pa.Table:
    """A run's `clips.parquet`; empty if there is none, or if it is damaged, which a warning says."""
    try:
        return read_intact_owners(run_file_uri(output, run_id, RUN_CLIPS))
    except UnreadableRecord as error:
        warn_left_out(str(error))
        return OWNER_SCHEMA.empty_table()


def read_intact_owners(uri: str) -> pa.Table:
    """The `clips.parquet` at `uri`; empty if there is none. Raises UnreadableRecord if it is damaged."""
    try:
        return checked(read_table(storage.read_bytes(uri)).cast(OWNER_SCHEMA))
    except MissingObject:
        return OWNER_SCHEMA.empty_table()
    except FAULTS as error:
        raise UnreadableRecord(f"{storage.redact(uri)}: not the clips of a run: {error}") from error


def _as_owners(rows: Iterable[dict[str, object]]) -> Iterator[Owner]:
    for row in rows:
        yield Owner(run_id=row.pop("run"), **row)  # type: ignore[arg-type]
