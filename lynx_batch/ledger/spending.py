"""What each run has spent, as far as its driver saw it. The record is replaced during the run, so it also counts if the run is killed."""

from collections.abc import Iterable
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from lynx_batch import storage
from lynx_batch.clip import canonical_json
from lynx_batch.ledger.records import read_records
from lynx_batch.output import RUN_SPENT, parse_run_file, run_file_uri, runs_uri

SCHEMA_VERSION = 1


class SpentRecord(BaseModel):
    """What a run had spent `at` a time: GPU-seconds held by its groups, by type of GPU, and their price in USD if it had one.

    `limit` is `limits.name` of its run file; None without limits, and then the record counts towards no budget.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = SCHEMA_VERSION
    at: datetime
    limit: str | None
    gpu_s: dict[str, float]
    usd: float | None


def write_spent(output: str, run_id: str, record: SpentRecord) -> None:
    """Replaces the run's record."""
    storage.write_bytes(run_file_uri(output, run_id, RUN_SPENT), canonical_json(record.model_dump(mode="json")))


def read_spent(output: str) -> dict[str, SpentRecord]:
    """The record of each run that has one. Damaged ones are named in a warning and left out."""
    files = _list_files(output)
    records = read_records(SpentRecord, list(files))
    return {parse_run_file(uri)[0]: record for uri, record in records}


def _list_files(output: str) -> dict[str, storage.StoredFile]:
    """The records of all runs, by URI."""
    return {file.uri: file for file in storage.list_files(runs_uri(output)) if parse_run_file(file.uri)[1] == RUN_SPENT}


class SpentRecords:
    """The records of all other runs of an output. Reading them again reads only those that have changed."""

    def __init__(self, output: str, own_run_id: str = "") -> None:
        self._output, self._own_run_id = output, own_run_id
        self._seen: dict[str, object] = {}
        self._records: dict[str, SpentRecord] = {}

    def read(self, limit: str) -> Iterable[SpentRecord]:
        """Those of the budget `limit`. Damaged ones are named in a warning and left out."""
        every = _list_files(self._output).items()
        files = {uri: file for uri, file in every if parse_run_file(uri)[0] != self._own_run_id}
        changed = [uri for uri, file in files.items() if self._seen.get(uri) != file]
        self._records |= dict(read_records(SpentRecord, changed))
        self._seen |= {uri: files[uri] for uri in changed}
        return [record for record in self._records.values() if record.limit == limit]
