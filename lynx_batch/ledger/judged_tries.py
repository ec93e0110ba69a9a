"""The judged tries of an output location, to learn from: those that were recorded, and commits that have scores but no such record."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass

from lynx_batch import storage
from lynx_batch.clip import RenderIdentity, canonical_json
from lynx_batch.ledger.commits import CommitRecord
from lynx_batch.ledger.editions import list_editions
from lynx_batch.ledger.history import known_commits
from lynx_batch.ledger.numbering import list_tries
from lynx_batch.ledger.records import warn_left_out
from lynx_batch.ledger.tries import TryRecord, read_each
from lynx_batch.output import TRIES, TryName
from lynx_batch.planning.calibration import ScoredTry
from lynx_batch.planning.verdict import JudgedTry

MAX_CLIPS = 1000
"""Enough for a share of tries that pass. ClipIds are digests, so the first ones are a fair sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedTries:
    """`num_judges`: how many different sets of scorers judged the recorded tries. Their scores may not be comparable."""

    tries: list[ScoredTry]
    num_judges: int


def read_judged(output: str) -> JudgedTries:
    """All judged tries, by clip and number. Damaged records are named in a warning and left out."""
    return _read(output, list_tries(storage.join(output, TRIES)), list_editions(output).in_force)


def read_sample(output: str, identity: RenderIdentity) -> list[JudgedTry]:
    """The judged tries of at most `MAX_CLIPS` clips that were rendered with these weights and numerics."""
    tries, in_force = list_tries(storage.join(output, TRIES)), list_editions(output).in_force
    chosen = sorted({name.clip_id for name in tries} | in_force.keys())[:MAX_CLIPS]
    last = chosen[-1] if chosen else ""
    judged = _read(
        output,
        [name for name in tries if name.clip_id <= last],
        {clip_id: edition for clip_id, edition in in_force.items() if clip_id <= last},
        identity,
    )
    return [each.judged for each in judged.tries]


def _read(
    output: str, tries: Iterable[TryName], in_force: Mapping[str, int], identity: RenderIdentity | None = None
) -> JudgedTries:
    """These tries and the commits of these editions; with `identity`, only those that it rendered."""
    commits = {_name_of(commit): commit for commit in known_commits(output, in_force) if _is_of(commit, identity)}
    records = {record.name: record for record in _read_tries(output, tries) if _is_of(record.commit, identity)}
    scored = {
        name: _scored(commit, commit.scores, is_committed=True) for name, commit in commits.items() if commit.scores
    }
    for name, record in records.items():
        is_committed = name in commits
        scored[name] = _scored(record.commit, record.scores, is_committed=is_committed, is_unsafe=record.is_unsafe)
    judges = {canonical_json(record.scorers) for record in records.values()}
    return JudgedTries(tries=[scored[name] for name in sorted(scored)], num_judges=len(judges))


def _read_tries(output: str, names: Iterable[TryName]) -> Iterator[TryRecord]:
    for _, found in read_each(output, names):
        if isinstance(found, TryRecord):
            yield found
        else:
            warn_left_out(str(found))


def _name_of(commit: CommitRecord) -> TryName:
    return TryName(commit.clip_id, commit.edition, commit.try_number)


def _is_of(commit: CommitRecord, identity: RenderIdentity | None) -> bool:
    return identity is None or _as_text(commit.identity) == _as_text(asdict(identity))


def _scored(
    commit: CommitRecord, scores: Mapping[str, float], *, is_committed: bool, is_unsafe: bool = False
) -> ScoredTry:
    return ScoredTry(
        clip_id=commit.clip_id,
        edition=commit.edition,
        judged=JudgedTry(number=commit.try_number, scores=scores, is_unsafe=is_unsafe),
        gpu_s=None if commit.num_steps_resumed else commit.group_size * commit.busy_s or None,
        is_committed=is_committed,
    )


def _as_text(identity: Mapping[str, object]) -> dict[str, str]:
    """As the metadata keeps it."""
    return {name: str(value) for name, value in identity.items() if value is not None}
