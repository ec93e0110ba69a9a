"""What becomes of a clip's tries: every clip ends, nothing recorded is rendered twice, and no failure passes."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lynx_batch.config import QualityConfig
from lynx_batch.planning.verdict import (
    Accept,
    JudgedTry,
    Numbers,
    Reject,
    Render,
    Verdict,
    broken_rules,
    decide,
    explain_unsafe,
    missing_scores,
    thresholds,
)

WHOLE = {"technical_is_as_ordered": 1.0, "technical_black_area": 0.1}
RULES = {"likeness": {"min_mean": 0.5, "min_p10": 0.3, "min_face_share": 0.8}, "safety": {"max_score": 0.8}}


def quality(**changes: object) -> QualityConfig:
    return QualityConfig.model_validate(RULES | changes)


def judged(number: int, p10: float = 0.6, *, unsafe: float = 0.1, has_video: bool = True, **scores: float) -> JudgedTry:
    known = {"likeness_mean": p10 + 0.1, "likeness_p10": p10, "likeness_face_share": 1.0, "unsafe": unsafe, **WHOLE}
    return JudgedTry(number=number, scores=known | scores, has_video=has_video)


def numbers(rules: QualityConfig, *, is_seed_given: bool = False, first: int = 0) -> Numbers:
    return Numbers.of(rules, is_seed_given=is_seed_given, first=first)


def verdict(tries: list[JudgedTry], rules: QualityConfig) -> Verdict:
    return decide(tries, rules, numbers(rules))


TRIES = st.builds(
    judged,
    st.just(0),
    st.floats(-0.2, 1.0),
    unsafe=st.sampled_from((0.0, 0.1, 0.1, 0.1, 0.9)),
    likeness_face_share=st.sampled_from((0.5, 1.0, 1.0)),
)


@given(
    outcomes=st.lists(TRIES, min_size=20, max_size=20),
    best_of=st.integers(1, 4),
    max_reseeds=st.integers(0, 5),
    is_seed_given=st.booleans(),
    first=st.integers(0, 3),
)
def test_every_clip_ends_with_its_best_try_or_a_reason(
    outcomes: list[JudgedTry], best_of: int, max_reseeds: int, is_seed_given: bool, first: int
) -> None:
    rules = quality(best_of=best_of, max_reseeds=max_reseeds)
    allowed = numbers(rules, is_seed_given=is_seed_given, first=first)
    tries: list[JudgedTry] = []
    while isinstance(end := decide(tries, rules, allowed), Render):
        tries.append(replace(outcomes[end.number], number=end.number))

    rendered = [t.number for t in tries]
    assert len(rendered) == len(set(rendered)) <= best_of + max_reseeds
    assert set(rendered) <= set(allowed.allowed)
    passed = {t.number: t.scores["likeness_p10"] for t in tries if not broken_rules(t, rules)}
    has_unsafe = any(t.scores["unsafe"] >= 0.8 for t in tries)
    if isinstance(end, Accept):
        assert not has_unsafe
        assert passed[end.number] == max(passed.values())
    else:
        assert isinstance(end, Reject)
        assert end.is_unsafe == has_unsafe
        assert has_unsafe or (not passed and rendered == [*allowed.allowed])


def test_the_first_try_that_passes_is_taken() -> None:
    rules = quality(max_reseeds=3)

    assert verdict([], rules) == Render(0)
    assert verdict([judged(0, 0.1)], rules) == Render(1)
    assert verdict([judged(0, 0.1), judged(1, 0.6)], rules) == Accept(1)


def test_best_of_three_takes_the_highest_tenth_percentile() -> None:
    rules = quality(best_of=3, max_reseeds=1)

    assert verdict([judged(0, 0.9)], rules) == Render(1)
    assert verdict([judged(0, 0.6), judged(1, 0.8), judged(2, 0.7)], rules) == Accept(1)
    assert verdict([judged(0, 0.1), judged(1, 0.1), judged(2, 0.1)], rules) == Render(3)


def test_a_rejection_names_the_best_try_value_and_rule() -> None:
    rules = quality(max_reseeds=1)
    end = verdict([judged(0, 0.1), judged(1, 0.25)], rules)

    assert isinstance(end, Reject)
    assert not end.is_unsafe
    assert end.reason == (
        "none of 2 tries passed; the best one, try_number=1: likeness_mean=0.35: must be at least 0.5 (quality.likeness.min_mean); "
        "likeness_p10=0.25: must be at least 0.3 (quality.likeness.min_p10)"
    )


def test_unsafe_ends_a_clip_at_once_and_for_good() -> None:
    rules = quality(best_of=2, max_reseeds=5)
    unsafe = judged(1, unsafe=0.9)

    assert verdict([judged(0), unsafe], rules) == Reject(
        "try_number=1: unsafe=0.90: must be below 0.8 (quality.safety.max_score)", is_unsafe=True, number=1
    )
    recorded = JudgedTry(number=0, scores=judged(0).scores, is_unsafe=True)
    assert verdict([recorded], quality(safety=None)) == Reject("try_number=0: was found unsafe", is_unsafe=True)


def test_each_classifier_has_its_limit() -> None:
    rules = quality(safety={"max_score": 0.75, "falconsai": "/models/vit"})
    both = judged(0, unsafe=0.5, unsafe_falconsai=0.9)

    assert verdict([judged(0, unsafe=0.5, unsafe_falconsai=0.8)], rules) == Accept(0)
    assert verdict([both], rules) == Reject(
        "try_number=0: unsafe_falconsai=0.90: must be below 0.85 (quality.safety.max_falconsai)", is_unsafe=True
    )
    assert verdict([both], quality()) == Accept(0), "a score that no rule limits"
    assert missing_scores(judged(0).scores, rules) == ["unsafe_falconsai"]
    assert explain_unsafe({"unsafe": 0.75, "unsafe_falconsai": 0.9}, rules) == (
        "unsafe=0.75: must be below 0.75 (quality.safety.max_score); "
        "unsafe_falconsai=0.90: must be below 0.85 (quality.safety.max_falconsai)"
    )


def test_the_limits_of_a_run_are_named_by_score() -> None:
    limits = thresholds(quality(technical=False))

    assert limits == {"likeness_mean": 0.5, "likeness_p10": 0.3, "likeness_face_share": 0.8, "unsafe": 0.8}
    assert thresholds(quality())["technical_num_cuts"] == 0


def test_more_reseeds_reopen_a_rejected_clip() -> None:
    tries = [judged(0, 0.1), judged(1, 0.1)]

    assert isinstance(verdict(tries, quality(max_reseeds=1)), Reject)
    assert verdict(tries, quality(max_reseeds=2)) == Render(2)


def test_lower_thresholds_take_a_kept_try_and_render_again_one_whose_video_is_gone() -> None:
    lower = quality(likeness={"min_p10": 0.05}, max_reseeds=1)

    assert verdict([judged(0, 0.1), judged(1, 0.2)], lower) == Accept(1)
    assert verdict([judged(0, 0.1), judged(1, 0.2, has_video=False)], lower) == Render(1)


def test_a_given_seed_is_the_only_one_unless_reseed_given() -> None:
    rules = quality(best_of=3, max_reseeds=2)

    assert [*numbers(rules, is_seed_given=True).allowed] == [0]
    assert [*numbers(quality(best_of=3, reseed_given=True), is_seed_given=True).allowed] == [0, 1, 2, 3, 4]
    assert [*numbers(rules, first=4).wanted] == [4, 5, 6]


@pytest.mark.parametrize(
    ("scores", "missing"),
    [
        (judged(0).scores, []),
        ({**judged(0).scores, "likeness_mean": float("nan")}, ["likeness_mean"]),
        ({**judged(0).scores, "motion_mean": float("inf")}, ["motion_mean"]),
        ({"likeness_mean": 0.5, **WHOLE}, ["likeness_face_share", "likeness_p10", "unsafe"]),
        ({"likeness_mean": 0.5, "likeness_p10": 0.5, "likeness_face_share": 0.5, "unsafe": 0.1}, [*WHOLE][::-1]),
    ],
)
def test_what_could_not_be_judged_is_named(scores: dict[str, float], missing: list[str]) -> None:
    assert missing_scores(scores, quality()) == missing


def test_a_try_of_an_earlier_run_without_a_score_does_not_pass() -> None:
    earlier = JudgedTry(number=0, scores={k: v for k, v in judged(0).scores.items() if k != "unsafe"})
    rules = quality(max_reseeds=0)

    assert broken_rules(earlier, rules) == ["unsafe: was not judged (quality.safety)"]
    assert isinstance(verdict([earlier], rules), Reject)


@pytest.mark.parametrize(
    ("scores", "fault"),
    [
        ({"technical_is_as_ordered": 0.0}, "the video's frames, size and rate: must be as ordered"),
        ({"technical_longest_black_s": 0.4}, "technical_longest_black_s=0.4: must be at most 0"),
        ({"technical_black_area": 0.5}, "technical_black_area=0.5: must be at most 0.4"),
        ({"technical_num_cuts": 1.0}, "technical_num_cuts=1: must be at most 0"),
    ],
)
def test_technical_faults_count_only_if_they_are_asked_for(scores: dict[str, float], fault: str) -> None:
    faulty = judged(0, **scores)

    assert broken_rules(faulty, quality()) == [f"{fault} (quality.technical)"]
    assert verdict([faulty], quality(max_reseeds=0, technical=False)) == Accept(0)
