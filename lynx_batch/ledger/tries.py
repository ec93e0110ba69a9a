"""The tries of a clip: each is recorded once, create-only, before its worker answers. So a recorded try is never rendered again."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from lynx_batch import storage
from lynx_batch.clip import canonical_json
from lynx_batch.ledger.commits import CommitRecord
from lynx_batch.ledger.records import parse, read_records
from lynx_batch.outage import retry_while_unavailable
from lynx_batch.output import parse_try, tries_uri, try_uri
from lynx_batch.planning.verdict import JudgedTry

SCHEMA_VERSION = 1


class TryRecord(BaseModel):
    """A try that was rendered and judged.

    `commit` is what its worker would have committed, so that any worker can commit the try later. `scorers` has the SHA-256 of each
    scorer's files by the scorer's name. An unsafe try has no video: its pixels were never uploaded.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = SCHEMA_VERSION
    clip_id: str
    edition: int
    number: int
    judged_at: datetime
    scores: dict[str, float]
    faults: tuple[str, ...] = ()
    scorers: dict[str, str]
    is_unsafe: bool = False
    commit: CommitRecord

    def judged(self, *, has_video: bool) -> JudgedTry:
        return JudgedTry(
            number=self.number,
            scores=self.scores,
            faults=self.faults,
            has_video=has_video and not self.is_unsafe,
            is_unsafe=self.is_unsafe,
        )


def record_try(output: str, record: TryRecord) -> TryRecord:
    """Records the try. Returns the record in the store, which is another worker's if that was first."""
    uri = try_uri(output, record.clip_id, record.edition, record.number)
    data = canonical_json(record.model_dump(mode="json"))

    def put() -> TryRecord:
        storage.create_only(uri, data)
        return parse(TryRecord, uri, storage.read_bytes(uri))

    return retry_while_unavailable(put)


def read_tries(output: str, clip_id: str, edition: int) -> list[TryRecord]:
    """The tries of that edition, by number. Damaged records are left out with a warning."""
    listed = retry_while_unavailable(lambda: list(storage.list_files(tries_uri(output, clip_id))))
    names = {file.uri: parse_try(file.uri) for file in listed}
    uris = [uri for uri, name in names.items() if name is not None and name.edition == edition]
    tries = [record for _, record in read_records(TryRecord, sorted(uris))]
    return sorted((t for t in tries if (t.clip_id, t.edition) == (clip_id, edition)), key=lambda t: t.number)
