"""Limits of likeness and the tries to expect, from tries that were judged."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lynx_batch.config import QualityConfig
from lynx_batch.planning.calibration import (
    ScoredTry,
    assess,
    balanced_accuracy,
    is_usable,
    limits_for_labels,
    limits_for_pass_rate,
    limits_of,
    round_down,
    why_no_limit,
)
from lynx_batch.planning.distributions import distributions
from lynx_batch.planning.expectation import (
    MIN_TRIES,
    PRIOR_PASS_SHARE,
    PassCount,
    committed_share,
    expected_tries,
    passes,
)
from lynx_batch.planning.verdict import Accept, JudgedTry, Numbers, Render, decide

POLICY = QualityConfig(technical=False, likeness={})


def judged(mean: float, p10: float = 0.5, face_share: float = 1.0, **scores: float) -> JudgedTry:
    known = {"likeness_mean": mean, "likeness_p10": p10, "likeness_face_share": face_share}
    return JudgedTry(number=0, scores=known | scores)


def scored(*tries: JudgedTry, gpu_s: float | None = 100.0) -> list[ScoredTry]:
    return [ScoredTry(clip_id="ab", edition=1, judged=each, gpu_s=gpu_s, is_committed=False) for each in tries]


def share_passing(tries: list[JudgedTry], quality: QualityConfig) -> float:
    return sum(passes(each, quality) for each in tries) / len(tries)


TRIES = st.lists(
    st.builds(judged, st.floats(-1, 1), st.floats(-1, 1), st.integers(0, 16).map(lambda num: num / 16)), min_size=1
)
NUMBERS = st.builds(Numbers, first=st.just(0), best_of=st.integers(1, 4), max_reseeds=st.integers(0, 6))
SHARES = st.integers(0, 50).map(lambda num: num / 50)


@given(tries=TRIES, wanted=st.floats(0, 1, exclude_min=True))
def test_at_least_the_wanted_share_of_tries_passes(tries: list[JudgedTry], wanted: float) -> None:
    assert share_passing(tries, limits_for_pass_rate(tries, POLICY, wanted)) >= wanted


@given(tries=TRIES, rates=st.lists(st.floats(0, 1, exclude_min=True), min_size=2))
def test_a_lower_pass_rate_never_lowers_a_limit(tries: list[JudgedTry], rates: list[float]) -> None:
    limits = [limits_of(limits_for_pass_rate(tries, POLICY, rate)) for rate in sorted(rates, reverse=True)]
    for lower, higher in pairwise(limits):
        assert all(lower[rule] <= higher[rule] for rule in lower)


def test_of_a_hundred_different_tries_ninety_pass() -> None:
    tries = [judged(mean=n / 100, p10=n / 200) for n in range(100)]
    limits = limits_for_pass_rate(tries, POLICY, 0.9)
    assert limits_of(limits) == {"min_mean": 0.1, "min_p10": 0.05}
    assert share_passing(tries, limits) == 0.9


def test_limits_of_several_scores_together_keep_the_pass_rate() -> None:
    """Each tenth try is bad in one of two scores, so limits at a tenth of each score would fail a fifth."""
    tries = [judged(mean=0.1 if n % 10 == 0 else 0.5 + n / 1000, p10=0.1 if n % 10 == 5 else 0.4) for n in range(100)]
    assert share_passing(tries, limits_for_pass_rate(tries, POLICY, 0.9)) >= 0.9


def test_a_score_that_never_varies_gets_no_limit_and_one_that_all_pass_stays() -> None:
    tries = [judged(mean=n / 100, face_share=1.0) for n in range(40)]
    assert limits_of(limits_for_pass_rate(tries, POLICY, 0.5)).keys() == {"min_mean"}
    own = QualityConfig(technical=False, likeness={"min_face_share": 0.8, "min_p10": 0.9, "min_mean": 0.9})
    limits = limits_of(limits_for_pass_rate(tries, own, 0.5))
    assert limits == {"min_face_share": 0.8, "min_mean": 0.2}, "no try passes a p10 of 0.9"
    same = [judged(0.5)] * 40
    assert limits_of(limits_for_pass_rate(same, POLICY, 0.9)) == {}
    assert limits_of(limits_for_labels([(each, n % 2 == 0) for n, each in enumerate(same)], POLICY)) == {}


@pytest.mark.parametrize(
    ("tries", "by_labels", "why"),
    [
        ([judged(0.0, 0.0, face_share=0.0)] * 3, False, "no face was found in any of the tries"),
        ([judged(0.5)] * 3, False, "every score of likeness is the same"),
        ([judged(0.5, unsafe=0.9), judged(0.6, unsafe=0.9)], False, "all tries are unsafe or have technical faults"),
        (
            [judged(0.5, unsafe=0.1), judged(0.6, unsafe=0.1)],
            True,
            "no score of likeness tells good tries from bad ones",
        ),
        ([judged(0.5, unsafe=0.1), judged(0.6, unsafe=0.1)], False, "that run has these limits already"),
    ],
)
def test_one_cause_is_named_where_there_is_no_new_limit(tries: list[JudgedTry], by_labels: bool, why: str) -> None:
    policy = QualityConfig(technical=False, safety={"max_score": 0.8})
    assert why_no_limit(tries, policy, by_labels=by_labels).startswith(why)


def test_faults_that_no_limit_can_mend_do_not_count_for_the_pass_rate() -> None:
    policy = QualityConfig(safety={"max_score": 0.8})
    whole = {"technical_is_as_ordered": 1.0, "technical_black_area": 0.1, "unsafe": 0.1}
    good = [judged(0.5 + n / 1000, **whole) for n in range(100)]
    faulty = [judged(0.1, **whole | {"technical_num_cuts": 1}), judged(0.1, **whole | {"unsafe": 0.9})] * 20
    assert limits_of(limits_for_pass_rate(good + faulty, policy, 0.9)) == {"min_mean": 0.51}
    assert limits_for_pass_rate(good + faulty, policy, 0.9).safety == policy.safety


def test_labels_give_the_limits_that_tell_good_from_bad() -> None:
    labelled = [(judged(mean=0.6 + n / 100, p10=random.Random(n).random()), True) for n in range(20)]
    labelled += [(judged(mean=0.5 - n / 100, p10=random.Random(n).random()), False) for n in range(20)]
    quality = limits_for_labels(labelled, POLICY)
    assert limits_of(quality) == {"min_mean": 0.55}
    assert balanced_accuracy(labelled, quality) == 1


def test_a_second_limit_is_set_only_if_it_adds_accuracy() -> None:
    """Some bad tries have a low mean, the others a low p10."""
    labelled = [
        (judged(0.6, 0.5), True),
        (judged(0.3, 0.5), False),
        (judged(0.4, 0.5), False),
        (judged(0.6, 0.1), False),
    ]
    assert limits_of(limits_for_labels(labelled, POLICY)) == {"min_mean": 0.5, "min_p10": 0.3}
    assert limits_of(limits_for_labels(labelled[:3], POLICY)) == {"min_mean": 0.5}


@given(data=st.data(), tries=TRIES.filter(lambda tries: len(tries) > 1))
def test_limits_by_labels_are_at_least_as_accurate_as_none_and_as_any_single_one(
    data: st.DataObject, tries: list[JudgedTry]
) -> None:
    labels = [True, False, *(data.draw(st.booleans()) for _ in tries[2:])]
    labelled = list(zip(tries, labels, strict=True))
    found = balanced_accuracy(labelled, limits_for_labels(labelled, POLICY))
    assert found >= balanced_accuracy(labelled, POLICY) == 0.5
    limit = data.draw(st.sampled_from(tries)).scores["likeness_mean"]
    single = QualityConfig(technical=False, likeness={"min_mean": round_down(limit)})
    steps = {round(each.scores["likeness_mean"], 2) for each in tries}
    if len(steps) == len(tries):  # scores that differ by less than a step of the limit cannot be told apart
        assert found >= balanced_accuracy(labelled, single) - 1e-9


@given(st.floats(-1, 1))
def test_a_limit_is_never_above_the_score_that_set_it(value: float) -> None:
    limit = round_down(value)
    assert limit <= value < limit + 0.0011
    assert limit == round(limit, 3)


@given(share=SHARES, numbers=NUMBERS)
def test_expected_tries_are_a_geometric_sum(share: float, numbers: Numbers) -> None:
    found = expected_tries(share, numbers)
    terms = [(1 - share) ** (numbers.best_of + n) for n in range(numbers.max_reseeds)]
    assert found == pytest.approx(numbers.best_of + sum(terms))
    assert numbers.best_of <= found <= numbers.best_of + numbers.max_reseeds


def test_expected_tries_at_the_ends() -> None:
    three = Numbers(first=0, best_of=1, max_reseeds=2)
    assert [expected_tries(share, three) for share in (0, 0.5, 1)] == [3, 1.75, 1]
    assert expected_tries(1e-17, three) == 3
    assert expected_tries(0.5, Numbers(first=0, best_of=3, max_reseeds=1)) == 3.125
    assert [committed_share(share, three) for share in (0, 0.5, 1)] == [0, 0.875, 1]


@pytest.mark.parametrize(("best_of", "max_reseeds"), [(1, 2), (3, 2)])
def test_the_expectation_is_what_the_verdicts_lead_to(best_of: int, max_reseeds: int) -> None:
    rules = QualityConfig(technical=False, likeness={"min_mean": 0.5}, best_of=best_of, max_reseeds=max_reseeds)
    numbers, seeds, num_tries, num_kept = Numbers.of(rules, is_seed_given=False), random.Random(0), 0, 0
    for _ in range(4000):
        tries: list[JudgedTry] = []
        while isinstance(end := decide(tries, rules, numbers), Render):
            tries.append(JudgedTry(number=end.number, scores=judged(0.6 if seeds.random() < 0.7 else 0.4).scores))
        num_tries += len(tries)
        num_kept += isinstance(end, Accept)
    assert num_tries / 4000 == pytest.approx(expected_tries(0.7, numbers), abs=0.03)
    assert num_kept / 4000 == pytest.approx(committed_share(0.7, numbers), abs=0.01)


def test_a_candidate_says_what_its_rules_cost() -> None:
    tries = scored(*(judged(0.6) for _ in range(3)), judged(0.3))
    quality = QualityConfig(technical=False, likeness={"min_mean": 0.5}, max_reseeds=1)
    found = assess("aim", quality, tries, [(tries[0].judged, True), (tries[3].judged, False)])
    assert (found.pass_share, found.tries_per_clip, found.committed_share) == (0.75, 1.25, 0.9375)
    assert found.gpu_hours == pytest.approx(1000 * 1.25 * 100 / 3600)
    assert found.balanced_accuracy == 1
    assert assess("aim", quality, scored(judged(0.6), gpu_s=None)).gpu_hours is None


def test_the_pass_share_is_assumed_until_enough_tries_were_judged() -> None:
    quality = QualityConfig(technical=False, likeness={"min_mean": 0.5})
    tries = [judged(0.6)] * 4 + [judged(0.4)] * (MIN_TRIES - 4)
    assert PassCount.of(tries, quality).share == pytest.approx(4 / MIN_TRIES)
    assert PassCount.of(tries[1:], quality).share == PRIOR_PASS_SHARE
    unjudged = JudgedTry(number=0, scores={"motion_mean": 0.1})
    assert PassCount.of([*tries, unjudged], quality) == PassCount(4, MIN_TRIES)
    assert not is_usable(unjudged, quality)


def test_a_histogram_counts_every_value() -> None:
    (found,) = distributions([{"a": 0.0}, {"a": 1.0}, {"a": 0.26}, {"a": 0.5}])
    assert found.histogram(4) == [1, 1, 1, 1]
    assert (found.low, found.median, found.high) == (0.0, 0.38, 1.0)
    (same,) = distributions([{"a": 2.0}] * 3)
    assert (same.is_constant, same.histogram(3)) == (True, [0, 3, 0])
