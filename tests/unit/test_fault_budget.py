"""How many machine faults a run puts up with."""

from lynx_batch.planning.fault_budget import LONGEST_PAUSE_S, MAX_FAILED_LOADS, FaultBudget


def loaded_budget() -> FaultBudget:
    budget = FaultBudget()
    budget.record_loaded()
    return budget


def test_the_first_fault_causes_no_pause() -> None:
    budget = loaded_budget()
    budget.record_fault(5.0)
    assert not budget.is_paused(5.0)


def test_pauses_double_up_to_the_longest() -> None:
    budget, now_s, pauses = loaded_budget(), 0.0, []
    budget.record_fault(now_s)
    for _ in range(9):
        budget.record_fault(now_s)
        started_s = now_s
        while budget.is_paused(now_s):
            now_s += 1.0
        pauses.append(now_s - started_s)
    assert pauses == [1, 2, 4, 8, 16, 32, LONGEST_PAUSE_S, LONGEST_PAUSE_S, LONGEST_PAUSE_S]


def test_faults_during_a_pause_do_not_extend_it() -> None:
    budget = loaded_budget()
    for _ in range(8):
        budget.record_fault(0.0)
    assert budget.is_paused(0.5)
    assert not budget.is_paused(1.0)


def test_progress_clears_all_faults() -> None:
    budget = loaded_budget()
    for _ in range(2):
        budget.record_fault(0.0)
    budget.record_progress()
    assert not budget.is_paused(0.0)
    budget.record_fault(1000.0)
    assert budget.reason_to_stop(1000.0, give_up_after_s=600) is None


def test_a_run_gives_up_once_nothing_but_faults_came_for_the_given_time() -> None:
    budget = loaded_budget()
    budget.record_fault(100.0)
    budget.record_fault(699.0)
    assert budget.reason_to_stop(699.0, give_up_after_s=600) is None
    assert budget.reason_to_stop(700.0, give_up_after_s=600) == "2 faults of machines in 600 s, and no clip ended"


def test_one_load_timeout_is_enough_to_give_up_if_no_group_was_ever_ready() -> None:
    fresh = FaultBudget()
    for budget in (fresh, loaded := loaded_budget()):
        budget.record_load_timeout()
        budget.record_fault(0.0)
    assert fresh.reason_to_stop(0.0, give_up_after_s=600) == "groups broke and none was ever ready"
    assert loaded.reason_to_stop(0.0, give_up_after_s=600) is None


def test_a_run_gives_up_after_three_groups_broke_and_none_was_ever_ready() -> None:
    budget = FaultBudget()
    for now_s in range(MAX_FAILED_LOADS):
        assert budget.reason_to_stop(now_s, give_up_after_s=600) is None
        budget.record_failed_load(now_s + 0.5, formed_s=now_s)
    assert budget.reason_to_stop(MAX_FAILED_LOADS, give_up_after_s=600) == "groups broke and none was ever ready"


def test_groups_that_break_together_while_they_load_count_once() -> None:
    budget = FaultBudget()
    for number in range(8):
        budget.record_failed_load(60.0 + number, formed_s=number)
    assert budget.reason_to_stop(70.0, give_up_after_s=600) is None


def test_a_run_waits_for_room_even_before_a_group_was_ready() -> None:
    budget = FaultBudget()
    for now_s in range(600):
        budget.record_fault(float(now_s))
        assert budget.reason_to_stop(float(now_s), give_up_after_s=600) is None
    assert budget.reason_to_stop(600.0, give_up_after_s=600) == "600 faults of machines in 600 s, and no clip ended"


def test_a_run_in_which_clips_end_between_the_faults_goes_on_and_gives_up_only_after_the_last() -> None:
    budget = loaded_budget()
    for now_s in range(0, 9000, 1000):
        budget.record_progress()
        budget.record_fault(float(now_s))
        assert budget.reason_to_stop(float(now_s), give_up_after_s=600) is None
    budget.record_fault(9000.0)
    assert budget.reason_to_stop(9000.0, give_up_after_s=600) is not None
