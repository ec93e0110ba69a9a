"""How the clips of an output location were judged, from its objects alone."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lynx_batch import storage
from lynx_batch.config import QualityConfig
from lynx_batch.ledger.editions import Editions
from lynx_batch.ledger.history import known_commits
from lynx_batch.ledger.numbering import list_tries
from lynx_batch.output import TRIES
from lynx_batch.planning.verdict import NOT_GOOD_ENOUGH, UNSAFE_ERRORS, JudgedTry, broken_rules, is_unsafe, rules_in


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedClips:
    """How many clips passed, and how many the gate rejected as things stand. A clip counts once: while an edition is in force, that one
    counts, whatever became of a later redo.

    `num_passed` leaves out clips that a person accepted (`num_accepted`), and those that were judged after their commit. `num_unjudged`
    are committed clips without scores. `num_below` are committed clips that break one of the given rules; unjudged ones are not among
    them. `num_reseeds` counts the tries after the first one of each edition. `rejected_by` has the rules that the best try of each
    rejected clip broke.
    """

    num_passed: int
    num_accepted: int
    num_rejected: int
    num_unsafe: int
    num_unjudged: int
    num_below: int
    num_reseeds: int
    rejected_by: dict[str, int]

    @property
    def pass_rate(self) -> float | None:
        num_judged = self.num_passed + self.num_accepted + self.num_rejected + self.num_unsafe
        return self.num_passed / num_judged if num_judged else None


def summarise_judged(
    output: str, editions: Editions, given_up: Iterable[Mapping[str, Any]], quality: QualityConfig | None
) -> JudgedClips | None:
    """None where no clip was judged and no rules are given. `given_up` are rows of `given_up_before`."""
    tries = list_tries(storage.join(output, TRIES))
    if not tries and quality is None:
        return None
    commits = [*known_commits(output, editions.in_force)]
    scores = [commit.scores for commit in commits]
    rejections = [
        row
        for row in given_up
        if row["error_type"] in {NOT_GOOD_ENOUGH, *UNSAFE_ERRORS} and row["clip_id"] not in editions.in_force
    ]
    num_unsafe = sum(row["error_type"] in UNSAFE_ERRORS for row in rejections)
    return JudgedClips(
        num_passed=sum(commit.num_tries is not None and commit.accepted_by is None for commit in commits),
        num_accepted=sum(commit.accepted_by is not None for commit in commits),
        num_rejected=len(rejections) - num_unsafe,
        num_unsafe=num_unsafe,
        num_unjudged=sum(not known for known in scores),
        num_below=sum(_is_below(known, quality) for known in scores if known) if quality else 0,
        num_reseeds=len(tries) - len({(name.clip_id, name.edition) for name in tries}),
        rejected_by=dict(Counter(rule for row in rejections for rule in rules_in(row["error"] or "")).most_common()),
    )


def _is_below(scores: dict[str, float], quality: QualityConfig) -> bool:
    return is_unsafe(scores, quality) or bool(broken_rules(JudgedTry(number=0, scores=scores), quality))
