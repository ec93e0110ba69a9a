"""How long a run bears with machines that fail."""

from lynx_batch.planning.fault_budget import LONGEST_PAUSE_S, MAX_FAILED_LOADS, FaultBudget


def patience() -> FaultBudget:
    patient = FaultBudget()
    patient.loaded()
    return patient


def test_the_first_fault_costs_no_time() -> None:
    patient = patience()
    patient.fault(5.0)
    assert not patient.is_paused(5.0)


def test_pauses_grow_while_nothing_but_faults_comes() -> None:
    patient, now_s, pauses = patience(), 0.0, []
    patient.fault(now_s)
    for _ in range(9):
        patient.fault(now_s)
        started_s = now_s
        while patient.is_paused(now_s):
            now_s += 1.0
        pauses.append(now_s - started_s)
    assert pauses == [1, 2, 4, 8, 16, 32, LONGEST_PAUSE_S, LONGEST_PAUSE_S, LONGEST_PAUSE_S]


def test_faults_within_a_pause_do_not_prolong_it() -> None:
    patient = patience()
    for _ in range(8):
        patient.fault(0.0)
    assert patient.is_paused(0.5)
    assert not patient.is_paused(1.0)


def test_a_clip_that_ends_makes_all_well() -> None:
    patient = patience()
    for _ in range(2):
        patient.fault(0.0)
    patient.progress()
    assert not patient.is_paused(0.0)
    patient.fault(1000.0)
    assert patient.reason_to_stop(1000.0, give_up_after_s=600) is None


def test_it_ends_after_the_time_that_was_given() -> None:
    patient = patience()
    patient.fault(100.0)
    patient.fault(699.0)
    assert patient.reason_to_stop(699.0, give_up_after_s=600) is None
    assert patient.reason_to_stop(700.0, give_up_after_s=600) == "2 faults of machines in 600 s, and no clip ended"


def test_a_group_that_was_never_ready_in_its_time_is_enough_if_none_was_before() -> None:
    fresh = FaultBudget()
    for patient in (fresh, experienced := patience()):
        patient.waited_in_vain()
        patient.fault(0.0)
    assert fresh.reason_to_stop(0.0, give_up_after_s=600) == "groups broke and none was ever ready"
    assert experienced.reason_to_stop(0.0, give_up_after_s=600) is None


def test_groups_that_were_never_ready_are_not_waited_for() -> None:
    patient = FaultBudget()
    for now_s in range(MAX_FAILED_LOADS):
        assert patient.reason_to_stop(now_s, give_up_after_s=600) is None
        patient.load_failed(now_s + 0.5, formed_s=now_s)
    assert patient.reason_to_stop(MAX_FAILED_LOADS, give_up_after_s=600) == "groups broke and none was ever ready"


def test_groups_that_break_together_while_they_load_count_once() -> None:
    patient = FaultBudget()
    for number in range(8):
        patient.load_failed(60.0 + number, formed_s=number)
    assert patient.reason_to_stop(70.0, give_up_after_s=600) is None


def test_a_cluster_without_room_is_waited_for_even_before_a_group_was_ready() -> None:
    patient = FaultBudget()
    for now_s in range(600):
        patient.fault(float(now_s))
        assert patient.reason_to_stop(float(now_s), give_up_after_s=600) is None
    assert patient.reason_to_stop(600.0, give_up_after_s=600) == "600 faults of machines in 600 s, and no clip ended"
