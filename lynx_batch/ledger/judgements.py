"""Judgements: the scores of clips that were committed without a quality gate, one create-only object per clip. Commits never change."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from itertools import islice

from pydantic import BaseModel, ConfigDict

from lynx_batch import storage
from lynx_batch.ledger.commits import CommitRecord
from lynx_batch.ledger.records import put_once, read_records
from lynx_batch.outage import retry_while_unavailable
from lynx_batch.output import judgement_uri, judgements_uri, parse_judgement

SCHEMA_VERSION = 1
NUM_AT_ONCE = 1000


class Judgement(BaseModel):
    """The scores of one edition of a clip. `scorers` has the SHA-256 of each file of each scorer."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = SCHEMA_VERSION
    clip_id: str
    edition: int
    judged_at: datetime
    scores: dict[str, float]
    scorers: dict[str, dict[str, str]]


def record_judgement(output: str, judgement: Judgement, *, is_store_safe: bool = True) -> None:
    """Records it, unless somebody was first."""
    uri = judgement_uri(output, judgement.clip_id, judgement.edition)
    retry_while_unavailable(lambda: put_once(uri, judgement, is_store_safe=is_store_safe))


def judged_editions(output: str) -> set[tuple[str, int]]:
    """Clip and edition of every judgement, from a listing alone."""
    files = storage.list_files(judgements_uri(output))
    return {name for file in files if (name := parse_judgement(file.uri))}


def with_judgements(output: str, commits: Iterable[CommitRecord]) -> Iterator[CommitRecord]:
    """The same commits in the same order; those without scores get the scores of their judgements."""
    commits, known = iter(commits), None
    while some := list(islice(commits, NUM_AT_ONCE)):
        bare = {(commit.clip_id, commit.edition) for commit in some if not commit.scores}
        if bare and known is None:
            known = judged_editions(output)
        scores = _read_scores(output, bare & known) if known else {}
        for commit in some:
            found = scores.get((commit.clip_id, commit.edition))
            yield commit.model_copy(update={"scores": found}) if found else commit


def _read_scores(output: str, wanted: Iterable[tuple[str, int]]) -> Mapping[tuple[str, int], dict[str, float]]:
    uris = [judgement_uri(output, clip_id, edition) for clip_id, edition in wanted]
    return {(found.clip_id, found.edition): found.scores for _, found in read_records(Judgement, uris)}
