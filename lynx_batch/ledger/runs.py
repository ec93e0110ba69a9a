"""The records of a run: what it was asked to do, written before it does anything, and how it ended."""

import io
import json
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from lynx_batch import storage
from lynx_batch.clip import canonical_json
from lynx_batch.config import ProvenanceConfig, QualityConfig
from lynx_batch.errors import ConfigError, MissingObject
from lynx_batch.ledger.metadata import Outcome
from lynx_batch.ledger.records import Record, read_records, warn_left_out
from lynx_batch.outage import retry_while_unavailable
from lynx_batch.output import (
    RUN_END,
    RUN_ENVIRONMENT,
    RUN_FILE,
    RUN_MANIFEST,
    RUN_RECORD,
    parse_run_file,
    run_file_uri,
    runs_uri,
)
from lynx_batch.parquet import FAULTS, checked, read_table
from lynx_batch.planning.approval import Setting
from lynx_batch.redaction import redact_all
from lynx_batch.yaml_text import read_yaml

SCHEMA_VERSION = 1


class RunRecord(BaseModel):
    """What a run renders.

    `manifest` is the redacted URI; for a submitted job, the URI on the submitter's machine. `is_whole`: neither --where nor --limit was
    given. `is_store_safe` is False if the user chose to continue with a store that ignores create-only puts. `allows_missing_consent`: rows
    without a consent were rendered, too; True in records that are older than this field. `settings` are those that people approve, none in
    records that are older than this field. `approvals` are the URIs of the approvals by which the run was allowed, if it needed one.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = SCHEMA_VERSION
    started_at: datetime
    num_rows: int
    manifest: str | None = None
    is_whole: bool = False
    is_store_safe: bool = True
    allows_missing_consent: bool = True
    settings: dict[str, Setting] = {}
    approvals: tuple[str, ...] = ()


class RunEnd(BaseModel):
    """How a run ended; written after its last metadata part. `stopped_by` is empty if the run came to its end.

    `clips_gone` are clips that the metadata calls rendered, but whose commits had vanished by the end.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = SCHEMA_VERSION
    ended_at: datetime
    counts: dict[Outcome, int]
    stopped_by: str = ""
    clips_gone: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run. `end` is None while it is active, and stays None if it was killed."""

    run_id: str
    record: RunRecord
    end: RunEnd | None


def new_run_id(now: datetime) -> str:
    """A unique run id that begins with the time."""
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def claim_run_id(output: str, run_id: str) -> str:
    """Returns `run_id`. Raises ConfigError if it cannot name a folder, or an earlier run has it."""
    if not re.fullmatch(r"\w[\w.-]*", run_id, re.ASCII) or run_id in list_runs(output):
        raise ConfigError(
            f"--run-id {run_id!r}: must consist of letters, digits and -._, and must not be the id of an earlier run"
        )
    return run_id


def write_run_record(
    output: str, run_id: str, record: RunRecord, *, run_yaml: bytes, manifest: pa.Table, environment: dict[str, str]
) -> None:
    """Writes `runs/<run_id>/`: the run file with every key resolved, the selected rows, the software versions, the record.

    URIs of photos are redacted: signatures must not be kept here after the run.
    """
    parquet = io.BytesIO()
    pq.write_table(redacted(manifest), parquet)
    storage.write_bytes(run_file_uri(output, run_id, RUN_FILE), run_yaml)
    storage.write_bytes(run_file_uri(output, run_id, RUN_MANIFEST), parquet.getvalue())
    storage.write_bytes(run_file_uri(output, run_id, RUN_ENVIRONMENT), json.dumps(environment, indent=1).encode())
    storage.write_bytes(run_file_uri(output, run_id, RUN_RECORD), canonical_json(record.model_dump(mode="json")))


def read_run_manifest(output: str, run_id: str) -> pa.Table:
    """The rows that a run took, with redacted URIs and without tags. If they cannot be read, an empty table and a warning."""
    return without_maps(read_whole_manifest(output, run_id))


def without_maps(manifest: pa.Table) -> pa.Table:
    """The columns of a manifest that are no maps."""
    return manifest.select([field.name for field in manifest.schema if not pa.types.is_map(field.type)])


def read_whole_manifest(output: str, run_id: str) -> pa.Table:
    """As `read_run_manifest`, tags included."""
    uri = run_file_uri(output, run_id, RUN_MANIFEST)
    try:
        table = checked(read_table(storage.read_bytes(uri)))
        return table.select(["row", *(name for name in table.column_names if name != "row")])
    except (*FAULTS, MissingObject) as error:
        warn_left_out(f"{storage.redact(uri)}: not the manifest of a run: {error}")
        return pa.table({})


def read_run_file(output: str, run_id: str) -> dict[str, Any]:
    """The run file of a run with every key resolved. If it cannot be read, nothing and a warning."""
    uri = run_file_uri(output, run_id, RUN_FILE)
    try:
        content = read_yaml(storage.read_bytes(uri).decode(), source=storage.redact(uri))
    except (MissingObject, ConfigError, UnicodeDecodeError) as error:
        warn_left_out(f"{storage.redact(uri)}: not the run file of a run: {error}")
        return {}
    return content if isinstance(content, dict) else {}


def read_quality(output: str, run_id: str) -> QualityConfig | None:
    """The rules of a run; None if it did not judge, or if this version cannot read them."""
    rules = read_run_file(output, run_id).get("quality")
    try:
        return None if rules is None else QualityConfig.model_validate(rules)
    except ValidationError as error:
        warn_left_out(f"{storage.redact(run_file_uri(output, run_id, RUN_FILE))}: quality: {error}")
        return None


def newest_quality(output: str) -> QualityConfig | None:
    """The rules of the newest run, if it judged."""
    runs = read_runs(output)
    return read_quality(output, runs[-1].run_id) if runs else None


def newest_policy(output: str) -> tuple[str, QualityConfig] | None:
    """The newest run that judged its clips, and its rules. None if there is none, or this version cannot read its run file."""
    for run in reversed(read_runs(output)):
        if (quality := read_quality(output, run.run_id)) is not None:
            return run.run_id, quality
    return None


def newest_required_marks(output: str) -> frozenset[str]:
    """The marks without which the newest run commits no clip. None are known if this version cannot read its run file."""
    runs = read_runs(output)
    provenance = read_run_file(output, runs[-1].run_id).get("provenance") if runs else None
    try:
        return ProvenanceConfig.model_validate(provenance or {}).required_marks
    except ValidationError as error:
        warn_left_out(f"{storage.redact(run_file_uri(output, runs[-1].run_id, RUN_FILE))}: provenance: {error}")
        return frozenset()


def write_run_end(output: str, run_id: str, end: RunEnd) -> None:
    """Retries while the store is unavailable. Raises as `retry_while_unavailable` does."""
    uri = run_file_uri(output, run_id, RUN_END)
    retry_while_unavailable(lambda: storage.write_bytes(uri, canonical_json(end.model_dump(mode="json"))))


def read_runs(output: str) -> list[Run]:
    """The runs of an output location, oldest first, without those that were killed before they wrote their record.

    Damaged records are named in a warning. A run with a damaged `run.json` is left out; one with a damaged `end.json` counts as not ended.
    """
    listed = [file.uri for file in storage.list_files(runs_uri(output))]
    records, ends = _read_all(RunRecord, listed, RUN_RECORD), _read_all(RunEnd, listed, RUN_END)
    runs = [Run(run_id=run_id, record=record, end=ends.get(run_id)) for run_id, record in records.items()]
    return sorted(runs, key=lambda run: run.record.started_at)


def _read_all(kind: type[Record], listed: Iterable[str], name: str) -> dict[str, Record]:
    """The records in the listed files of that name, by run."""
    uris = [uri for uri in listed if parse_run_file(uri)[1] == name]
    return {parse_run_file(uri)[0]: record for uri, record in read_records(kind, uris)}


def redacted(manifest: pa.Table) -> pa.Table:
    """The manifest as runs keep it: without what is secret in the URIs of photos."""
    for index, field in enumerate(manifest.schema):
        if field.name in ("subject_uri", "subject_uris"):
            uris = redact_all(manifest[field.name].to_pylist())
            manifest = manifest.set_column(index, field, pa.array(uris, field.type))
    return manifest


def list_runs(output: str) -> set[str]:
    """The ids of all runs of an output location, including those that were killed before they wrote their record."""
    prefix = runs_uri(output)
    return {file.uri.removeprefix(prefix).strip("/").partition("/")[0] for file in storage.list_files(prefix)}
