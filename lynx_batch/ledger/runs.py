"""The run record: what a run was asked to do, written before it does anything."""

import io
import json
import re
import secrets
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq

from lynx_batch import storage
from lynx_batch.errors import ConfigError


def new_run_id(now: datetime) -> str:
    """A name that sorts by time and is nobody else's."""
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def claim_run_id(output: str, run_id: str) -> str:
    """`run_id` itself. Raises ConfigError if it is no name of a folder, or an earlier run has it."""
    if not re.fullmatch(r"\w[\w.-]*", run_id, re.ASCII) or run_id in list_runs(output):
        raise ConfigError(f"--run-id {run_id!r}: must be letters, digits and -._, and no earlier run's")
    return run_id


def write_run_record(
    output: str, run_id: str, *, run_yaml: bytes, manifest: pa.Table, environment: dict[str, str]
) -> None:
    """Puts `runs/<run_id>/`: the run file with every key settled, the rows that were chosen, the software.

    The rows' URIs are redacted: a signed one would outlive the run here.
    """
    folder = storage.join(output, "runs", run_id)
    parquet = io.BytesIO()
    pq.write_table(_redacted(manifest), parquet)
    storage.write_bytes(storage.join(folder, "run.yaml"), run_yaml)
    storage.write_bytes(storage.join(folder, "manifest.parquet"), parquet.getvalue())
    storage.write_bytes(storage.join(folder, "environment.json"), json.dumps(environment, indent=1).encode())


def _redacted(manifest: pa.Table) -> pa.Table:
    index = manifest.column_names.index("subject_uri")
    uris = [uri and storage.redact(uri) for uri in manifest["subject_uri"].to_pylist()]
    return manifest.set_column(index, manifest.field(index), pa.array(uris, manifest.field(index).type))


def list_runs(output: str) -> list[str]:
    """The runs of an output location, oldest first."""
    prefix = storage.join(output, "runs")
    return sorted({file.uri.removeprefix(prefix).strip("/").partition("/")[0] for file in storage.list_files(prefix)})


def count_rows(output: str, run_id: str) -> int:
    """How many rows of its manifest a run was asked for."""
    file = storage.read_bytes(storage.join(output, "runs", run_id, "manifest.parquet"))
    return int(pq.read_metadata(io.BytesIO(file)).num_rows)
