"""What a run may spend: the decisions as values, the record of what was spent, and what a run file may say about it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lynx_batch import storage
from lynx_batch.config import RunConfig, parse_run_config
from lynx_batch.config.stop_time import find_stop
from lynx_batch.errors import ConfigError
from lynx_batch.execution.spending import SpendingLog
from lynx_batch.ledger.spending import SpentRecord, SpentRecords, write_spent
from lynx_batch.output import RUN_SPENT, run_file_uri
from lynx_batch.planning.budget import (
    Amount,
    Budget,
    Limits,
    Meter,
    Need,
    Prices,
    exceeded_limits,
    price,
    why_stop,
)
from lynx_batch.planning.cost import H200, LOAD_S, OTHER, CostModel, Engine, Observation, work_of
from lynx_batch.planning.layout import parse_nodes
from lynx_batch.planning.simulate import Forecast
from lynx_batch.preparation.budget import (
    check_prices,
    limits_of,
    price_nodes,
    prices_of,
    require_prices,
    total_spent,
)
from tests.builders import NOW, PARAMS, tiny_run

HOUR_S = 3600.0
TEN_HOURS = Limits(name="nightly", max_gpu_hours=10)


def config(**sections: Any) -> RunConfig:
    return parse_run_config(
        tiny_run(Path("/faces"), manifest="/m.parquet", output="/out", **sections), source="run file"
    )


def need(gpu_hours: float, *, usd_per_gpu_hour: float | None = None, wait_s: float = 0.0) -> Need:
    return Need(num_gpus=2, seconds=gpu_hours * HOUR_S / 2, usd_per_gpu_hour=usd_per_gpu_hour, wait_s=wait_s)


@pytest.mark.parametrize(
    ("spent", "running", "new", "rule"),
    [
        (8, [0.5, 0.5], 1, None),
        (8, [0.5, 0.5], 1.1, "8 GPU-hours are spent, what runs needs 1 more, and the next clip would take 1.1"),
        (9.5, [], None, None),
        (10, [], None, "is used up: 10 GPU-hours"),
        (12, [], 0, "is used up: 12 GPU-hours"),
    ],
)
def test_nothing_starts_that_would_pass_the_limit_together_with_what_runs(
    spent: float, running: list[float], new: float | None, rule: str | None
) -> None:
    new_need = None if new is None else need(new)
    reason = why_stop(TEN_HOURS, Amount(gpu_hours=spent), [need(hours) for hours in running], new_need, now_s=0)
    assert (reason is None) == (rule is None)
    assert (rule or "") in (reason or "")
    assert reason is None or reason.startswith("limits.max_gpu_hours=10 of 'nightly'")


def test_a_limit_in_usd_counts_each_group_at_its_own_price() -> None:
    limits = Limits(name="nightly", max_usd=10)
    running = [need(1, usd_per_gpu_hour=2), need(1, usd_per_gpu_hour=1)]
    spent = Amount(gpu_hours=100, usd=5)
    assert why_stop(limits, spent, running, need(1, usd_per_gpu_hour=2), now_s=0) is None
    reason = why_stop(limits, spent, running, need(1, usd_per_gpu_hour=2.5), now_s=0)
    assert reason is not None
    assert "limits.max_usd=10 of 'nightly': 5 USD are spent, what runs needs 3 more" in reason


def test_a_clip_that_would_not_be_done_in_time_is_not_started() -> None:
    limits = Limits(name="nightly", stop_at_s=NOW.timestamp(), stop_at="08:00")
    before_s = NOW.timestamp() - HOUR_S
    assert why_stop(limits, Amount(), [], need(1.9), before_s) is None
    assert "limits.stop_at=08:00: the next clip" in (why_stop(limits, Amount(), [], need(2.1), before_s) or "")
    assert why_stop(limits, Amount(), [], None, NOW.timestamp()) == "limits.stop_at=08:00: it is later than that"
    assert why_stop(limits, Amount(), [], need(1.9, wait_s=HOUR_S / 2), before_s), "it begins when the group is free"
    assert why_stop(limits, Amount(), [], None, before_s) is None
    assert why_stop(limits, Amount(), [], None, NOW.timestamp())


def test_a_group_counts_from_when_it_is_held_to_when_it_is_released() -> None:
    meter = Meter()
    meter.hold("g0", 4, H200, since_s=100)
    meter.hold("g1", 1, OTHER, since_s=110)
    assert meter.gpu_s(120) == {"H200": 80, "other": 10}
    meter.release("g0", 130)
    meter.release("never held", 130)
    assert meter.gpu_s(200) == {"H200": 120, "other": 90}


def test_a_price_list_prices_each_type_and_an_unlisted_one_as_the_dearest() -> None:
    listed = Prices(by_type={"H200": 3, "A100": 1})
    hours = {"H200": HOUR_S, "A100": 2 * HOUR_S, "other": HOUR_S}
    assert price(hours, listed) == Amount(gpu_hours=4, usd=3 + 2 + 3)
    assert price(hours, Prices(by_type={"H200": 3, "A100": 1}, of_others=0.5)).usd == 5.5
    assert price(hours, Prices(of_others=2)).usd == 8
    assert price(hours, Prices()).usd is None


def test_what_is_spent_is_shared_by_all_runs_of_the_name() -> None:
    budget = Budget(
        Limits(name="nightly", max_gpu_hours=10, max_usd=10), Prices(of_others=2), Amount(gpu_hours=3, usd=6)
    )
    budget.hold("g0", 2, H200, since_s=0)
    spending = budget.spending(HOUR_S / 2)
    assert (spending.gpu_hours, spending.usd) == (1, 2)
    assert (spending.limit_name, spending.total_gpu_hours, spending.total_usd) == ("nightly", 4, 8)
    assert spending.used_share == pytest.approx(0.8), "the share of the limit that is nearer"
    assert Budget(None, Prices()).spending(0).used_share is None
    assert Budget(None, Prices()).why_refused([], need(1e9), 0, 0) is None


def test_a_device_without_figures_is_predicted_by_what_this_run_has_seen() -> None:
    budget, work = Budget(TEN_HOURS, Prices()), work_of(PARAMS, Engine())
    assert (budget.load_s(H200), budget.load_s(OTHER)) == (LOAD_S, 0)
    assert budget.seconds(work, 1, OTHER) == 0
    assert budget.seconds(work, 1, H200) == CostModel().seconds(work, 1, H200)

    budget.note_load(OTHER, 5)
    budget.note_clip(Observation(gpu=OTHER, group_size=1, work=work, seconds=40))

    assert budget.load_s(OTHER) == 5
    assert budget.seconds(work, 1, OTHER) == pytest.approx(40)
    assert (budget.usual_clip_s(1e9, OTHER), budget.usual_clip_s(7, H200)) == (40, 7)
    assert budget.seconds(work, 1, H200) == CostModel().seconds(work, 1, H200)


def record(gpu_s: float, *, limit: str | None = "nightly", usd: float | None = None, minutes: int = 0) -> SpentRecord:
    return SpentRecord(at=NOW + timedelta(minutes=minutes), limit=limit, gpu_s={"other": gpu_s}, usd=usd)


def test_the_records_of_other_runs_count_if_they_have_the_name_also_of_runs_that_were_killed(tmp_path: Path) -> None:
    output = str(tmp_path)
    write_spent(output, "killed", record(HOUR_S))
    write_spent(output, "priced", record(HOUR_S, usd=7))
    write_spent(output, "fresh", record(HOUR_S, limit="another"))
    write_spent(output, "unlimited", record(HOUR_S, limit=None))
    write_spent(output, "own", record(HOUR_S))
    storage.write_bytes(run_file_uri(output, "damaged", RUN_SPENT), b"{")
    others = SpentRecords(output, "own")
    assert total_spent(others.read("nightly"), Prices()) == Amount(gpu_hours=2, usd=None)
    assert total_spent(others.read("nightly"), Prices(of_others=2)) == Amount(gpu_hours=2, usd=9)
    write_spent(output, "killed", record(10 * HOUR_S, minutes=1))
    assert total_spent(others.read("nightly"), Prices()).gpu_hours == 11


def test_a_run_that_is_killed_leaves_what_it_was_seen_to_hold(tmp_path: Path) -> None:
    output = str(tmp_path)
    budget, others = Budget(TEN_HOURS, Prices()), SpentRecords(output, "killed")
    log = SpendingLog(output, "killed", budget, Prices(), others)
    log.update()
    assert not list(tmp_path.rglob(RUN_SPENT)), "nothing is held yet"
    budget.hold("g0", 4, H200, since_s=-HOUR_S)
    log.update()
    while not list(tmp_path.rglob(RUN_SPENT)):
        pass  # then the driver is killed: it never closes its log

    (left,) = SpentRecords(output).read("nightly")
    assert left.gpu_s["H200"] >= 4 * HOUR_S


def test_a_run_sees_what_a_rival_spends_of_the_same_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lynx_batch.execution.spending.RECORD_EVERY_S", 0.0)
    output = str(tmp_path)
    budget = Budget(TEN_HOURS, Prices())
    log = SpendingLog(output, "own", budget, Prices(), SpentRecords(output, "own"))
    budget.hold("g0", 1, H200, since_s=0)
    write_spent(output, "rival", record(9 * HOUR_S))
    while budget.before.gpu_hours != 9:
        log.update()
    log.close()
    assert {path.parent.name for path in tmp_path.rglob(RUN_SPENT)} == {"own", "rival"}


def test_a_plan_is_compared_with_what_is_left() -> None:
    forecast = Forecast(
        makespan_s=2 * HOUR_S, gpu_hours=16, busy_share=1, usd=32, held_gpu_hours=8, held_usd=16, groups={1: 4}
    )
    limits = Limits(name="n", max_gpu_hours=10, max_usd=20, stop_at_s=HOUR_S, stop_at="06:00")
    told = exceeded_limits(limits, Amount(gpu_hours=5, usd=2), forecast, now_s=0)
    assert told == [
        "limits.max_gpu_hours=10 of 'n': the run takes 8.00 GPU-hours and 5.00 are left, so 3.00 are missing",
        "limits.stop_at=06:00: the run would end 1.0 h later if it started now",
    ]


@pytest.mark.parametrize(
    ("text", "stop"),
    [
        ("2026-11-28T06:00:00+01:00", "2026-11-28T05:00:00+00:00"),
        ("2020-01-01T00:00:00Z", "2020-01-01T00:00:00+00:00"),
        ("08:01 UTC", "2026-11-21T08:01:00+00:00"),
        ("08:00 UTC", "2026-11-22T08:00:00+00:00"),
        ("08:01Z", "2026-11-21T08:01:00+00:00"),
        ("06:00+01:00", "2026-11-22T05:00:00+00:00"),
        ("06:00 -05:30", "2026-11-21T11:30:00+00:00"),
        ("06:00 Europe/Berlin", "2026-11-22T05:00:00+00:00"),
    ],
)
def test_a_time_of_day_is_the_next_one(text: str, stop: str) -> None:
    assert find_stop(text, NOW) == datetime.fromisoformat(stop)


def test_a_time_of_day_without_a_zone_is_local() -> None:
    stop = find_stop("06:00", datetime.now(UTC))
    assert (stop.astimezone().hour, stop > datetime.now(UTC)) == (6, True)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({}, "limits: needs at least one of max_gpu_hours, max_usd and stop_at"),
        ({"max_gpu_hours": 0}, "limits.max_gpu_hours: must be above 0"),
        ({"max_usd": float("inf")}, "limits.max_usd: must be"),
        ({"max_gpu_hours": 1, "name": " "}, "limits.name: must be one line of visible text"),
        ({"max_gpu_hours": 1, "nmae": "x"}, "limits.nmae: unknown; the nearest known key is limits.name"),
        ({"stop_at": "2026-11-28T06:00:00"}, "limits.stop_at: must be a time with a zone"),
        ({"stop_at": "25:00"}, "limits.stop_at: must be a time with a zone"),
        ({"stop_at": "06:00 Mars/Olympus"}, "limits.stop_at: must be a time with a zone"),
        ({"stop_at": "06:00+99:00"}, "limits.stop_at: must be a time with a zone"),
    ],
)
def test_limits_that_break_a_rule_are_named(limits: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(limits=limits)
    assert message in str(caught.value)


@pytest.mark.parametrize("prices", [0, -1, True, "2.5", {}, {"H100": 0}, {"H100": None}, float("inf")])
def test_prices_that_break_a_rule_are_named(prices: object) -> None:
    with pytest.raises(ConfigError, match=r"cluster\.usd_per_gpu_hour: must be"):
        config(cluster={"usd_per_gpu_hour": prices})


def test_prices_are_those_of_the_run_file_unless_a_pool_has_one_of_its_own() -> None:
    run = config(cluster={"usd_per_gpu_hour": {"h100": 2.5, "other": 0.1}}, limits={"max_usd": 5})
    priced = price_nodes(parse_nodes(["2xH100", "2xH100@3", "2xA100"]), run.cluster)
    assert [node.usd_per_gpu_hour for node in priced] == [2.5, 3, 0.1]
    assert prices_of(config(cluster={"usd_per_gpu_hour": 2}).cluster).of(H200) == 2
    with pytest.raises(ConfigError, match="'H300' is no known type of GPU; known: H200, H100, A100, other"):
        prices_of(config(cluster={"usd_per_gpu_hour": {"H300": 1}}).cluster)


def test_a_type_of_node_without_a_price_has_that_of_the_list_and_the_dearest_counts() -> None:
    own = {"gpu": "H100", "gpus": 8, "max": 1}
    spot = own | {"usd_per_hour": 16, "spot": True}
    run = config(cluster={"address": "auto", "usd_per_gpu_hour": {"H100": 5}, "node_types": [spot, own]})
    assert prices_of(run.cluster).by_type == {"H100": 5}
    run = config(cluster={"address": "auto", "usd_per_gpu_hour": {"A100": 1}, "node_types": [spot, own]})
    assert prices_of(run.cluster).by_type == {"H100": 2, "A100": 1}


def test_a_limit_in_usd_needs_a_price_for_each_type_of_the_cluster() -> None:
    with pytest.raises(ConfigError, match=r"limits\.max_usd=5: needs cluster\.usd_per_gpu_hour"):
        require_prices(config(limits={"max_usd": 5}))
    run = config(cluster={"usd_per_gpu_hour": {"H100": 2.5}}, limits={"max_usd": 5})
    check_prices(run, price_nodes(parse_nodes(["8xH100"]), run.cluster))
    with pytest.raises(ConfigError, match=r"must have a price for A100, because limits\.max_usd=5"):
        check_prices(run, price_nodes(parse_nodes(["8xH100", "8xA100"]), run.cluster))


def test_limits_of_a_run_file_are_found_for_its_start() -> None:
    limits = limits_of(config(limits={"max_gpu_hours": 2, "stop_at": "06:00 Europe/Berlin"}), NOW)
    assert limits == Limits(
        name="default",
        max_gpu_hours=2,
        stop_at_s=datetime(2026, 11, 22, 5, tzinfo=UTC).timestamp(),
        stop_at="06:00 Europe/Berlin (2026-11-22 06:00 CET)",
    )
    assert limits_of(config(), NOW) is None
