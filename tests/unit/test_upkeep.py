"""When a group is ended though none of its workers failed."""

import pytest

from lynx_batch.planning.upkeep import LEAK_GIB, SAVE_S, UNPREDICTED_CLIP_S, deadline_s, has_leak, is_time_to_save


def test_a_deadline_is_a_multiple_of_the_predicted_time_plus_an_allowance() -> None:
    assert deadline_s(700.0, factor=4.0) == 2800.0 + 900.0


def test_without_a_prediction_the_deadline_is_fixed_and_generous() -> None:
    assert deadline_s(None, factor=4.0) == UNPREDICTED_CLIP_S


@pytest.mark.parametrize(
    ("memory_gib", "expected"),
    [
        ([10.0 + 4 * n for n in range(8)], True),
        ([10.0 + 4 * n for n in range(7)], False),
        ([10.0 + 1 * n for n in range(16)], False),
        ([10, 50, 60, 60, 60, 60, 60, 60, 60], False),
        ([10, 10, 10, 10, 10, 60, 60, 60, 60, 60], False),
        ([10, 10, 10, 50, 51, 52, 53, 52.9], False),
        ([], False),
    ],
    ids=["rises", "too few clips", "too little", "only in the warm-up", "one jump", "fell once", "no clip"],
)
def test_memory_that_rises_clip_after_clip_is_a_leak(memory_gib: list[float], expected: bool) -> None:
    assert has_leak(memory_gib, num_ranks=1) is expected


def test_the_limit_of_a_leak_counts_per_rank() -> None:
    memory_gib = [2 * LEAK_GIB / 5 * n for n in range(8)]
    assert has_leak(memory_gib, num_ranks=1)
    assert not has_leak(memory_gib, num_ranks=2)


def test_a_clip_is_saved_just_before_its_node_goes_away() -> None:
    assert not is_time_to_save(0.0, 100.0, step_s=5.0)
    assert is_time_to_save(100.0 - SAVE_S - 10.0, 100.0, step_s=5.0)
    assert not is_time_to_save(1e12, float("inf"), step_s=5.0)
