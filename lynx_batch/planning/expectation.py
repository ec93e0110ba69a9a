"""How many tries a clip is expected to take under the rules of a run, from the share of tries that pass.

Tries of one clip are taken to be independent. A photo that suits the model badly needs more, so these are averages over many clips.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from lynx_batch.clip import ClipSpec
from lynx_batch.config import QualityConfig
from lynx_batch.planning.verdict import JudgedTry, Numbers, broken_rules, is_unsafe, missing_scores

PRIOR_PASS_SHARE = 0.8
"""The share of tries that pass, until enough were judged. An assumption: it depends on the model, the photos and the rules."""

MIN_TRIES = 10
"""A share of fewer tries says too little."""


@dataclass(frozen=True, slots=True)
class PassCount:
    """How many of the tries that were judged by all of the rules pass them."""

    num_passed: int
    num_tries: int

    @classmethod
    def of(cls, tries: Iterable[JudgedTry], quality: QualityConfig) -> "PassCount":
        """Tries that lack a score which the rules need do not count."""
        results = [passes(judged, quality) for judged in tries if not missing_scores(judged.scores, quality)]
        return cls(sum(results), len(results))

    @property
    def is_enough(self) -> bool:
        return self.num_tries >= MIN_TRIES

    @property
    def share(self) -> float:
        """The share that is expected of further tries: the assumed one while there are too few."""
        return self.num_passed / self.num_tries if self.is_enough else PRIOR_PASS_SHARE


@dataclass(frozen=True, slots=True)
class TryForecast:
    """How many tries the clips of a run are expected to take under its rules."""

    quality: QualityConfig
    counted: PassCount

    def of(self, clip: ClipSpec) -> float:
        numbers = Numbers.of(self.quality, is_seed_given=clip.request.is_seed_given)
        return expected_tries(self.counted.share, numbers)


def passes(judged: JudgedTry, quality: QualityConfig) -> bool:
    return not (judged.is_unsafe or is_unsafe(judged.scores, quality) or broken_rules(judged, quality))


def expected_tries(pass_share: float, numbers: Numbers) -> float:
    """The tries of a clip: the wanted ones in any case, then others until one passes, at most `max_reseeds`."""
    failed, most = 1 - pass_share, numbers.max_reseeds
    reseeds = most if failed == 1 else min(most, (1 - failed**most) / (1 - failed))
    return numbers.best_of + failed**numbers.best_of * reseeds


def committed_share(pass_share: float, numbers: Numbers) -> float:
    """The share of clips of which some try passes."""
    return 1 - float((1 - pass_share) ** (numbers.best_of + numbers.max_reseeds))
