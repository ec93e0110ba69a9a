"""Nodes that may come: what a run file says of them, what they cost, which are asked for, and by which labels."""

from pathlib import Path
from typing import Any

import pytest

from lynx_batch.clip import ClipSpec
from lynx_batch.config import RunConfig, parse_run_config
from lynx_batch.errors import ConfigError
from lynx_batch.execution.labels import gpu_of, is_spot, selector_of
from lynx_batch.planning.cost import H100, H200, OTHER, CostModel
from lynx_batch.planning.layout import FreeGpus, Node
from lynx_batch.planning.plan import Option, best, options
from lynx_batch.planning.simulate import HOUR_S, START_S
from lynx_batch.preparation.budget import check_prices, price_nodes, prices_of, require_prices
from lynx_batch.preparation.node_types import (
    Asked,
    NodeType,
    RoomToCome,
    node_types_of,
    nodes_of_run,
    nodes_to_plan_on,
    require_autoscaler,
)
from tests.builders import clip, tiny_run

SPOT = {"gpu": "H100", "gpus": 8, "max": 2, "usd_per_hour": 16, "spot": True}
STEADY = {"gpu": "h100", "gpus": 8, "max": 1, "usd_per_hour": 40}
ANY = {"gpu": "other", "gpus": 4, "max": 3}


def config(*node_types: object, **sections: Any) -> RunConfig:
    cluster = {"address": "auto", "node_types": list(node_types), **sections.pop("cluster", {})}
    run = tiny_run(Path("/faces"), manifest="/m.parquet", output="/out", cluster=cluster, **sections)
    return parse_run_config(run, source="run file")


def types(*node_types: object) -> tuple[NodeType, ...]:
    return node_types_of(config(*node_types).cluster)


def node(num_gpus: int = 8, gpu: Any = H100, **traits: Any) -> Node:
    return Node(num_gpus=num_gpus, gpu=gpu, **traits)


@pytest.mark.parametrize(
    ("node_types", "fault"),
    [
        ([{"gpu": "H100", "gpus": 8}], "cluster.node_types.0.max: required"),
        ([SPOT, SPOT | {"gpus": 0}], "cluster.node_types.1.gpus: must be at least 1 (got 0)"),
        ([SPOT | {"max": 0}], "cluster.node_types.0.max: must be at least 1 (got 0)"),
        ([SPOT | {"usd_per_hour": 0}], "cluster.node_types.0.usd_per_hour: must be above 0"),
        ([SPOT | {"usd_per_hour": float("inf")}], "cluster.node_types.0.usd_per_hour: must be a finite number"),
        ([SPOT | {"prize": 1}], "cluster.node_types.0.prize: unknown; the nearest known key is cluster.node_types."),
        ([SPOT | {"spot": "perhaps"}], "cluster.node_types.0.spot: must be true or false (got 'perhaps')"),
        (["8xH100"], "cluster.node_types.0: must be a mapping of the keys gpu, gpus, max"),
        (
            [SPOT, SPOT | {"gpu": "h100"}],
            "cluster: node_types must have only one type with gpu=h100, gpus=8 and spot=true",
        ),
    ],
)
def test_what_breaks_a_rule_is_named(node_types: list[object], fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(*node_types)
    assert fault in str(caught.value)


def test_an_unknown_gpu_is_named_with_those_that_are_known() -> None:
    with pytest.raises(
        ConfigError, match=r"node_types\.1\.gpu: 'H300' is no known type of GPU; known: H200, H100, A100"
    ):
        types(SPOT, STEADY | {"gpu": "H300"})


def test_nothing_adds_nodes_to_a_ray_that_the_run_starts_itself() -> None:
    require_autoscaler(config(SPOT).cluster)
    with pytest.raises(ConfigError, match=r"cluster\.node_types: needs cluster\.address"):
        require_autoscaler(config(SPOT, cluster={"address": "local"}).cluster)


def test_a_run_has_the_nodes_that_are_there_and_those_that_may_still_come() -> None:
    spot, steady = types(SPOT, STEADY)
    there = [node(is_spot=True), node(gpu=H200)]
    nodes = nodes_of_run((spot, steady), there)
    assert [(each.gpu, each.is_spot, each.usd_per_gpu_hour, each.may_come) for each in nodes] == [
        (H100, True, 2, False),
        (H200, False, None, False),
        (H100, True, 2, True),
        (H100, False, 5, True),
    ]
    assert nodes_of_run((spot,), [node(is_spot=True)] * 3) == (node(is_spot=True, usd_per_gpu_hour=2),) * 3


def test_a_plan_is_for_the_nodes_that_may_come_unless_others_are_given() -> None:
    cluster = config(SPOT, STEADY).cluster
    assert [each.num_gpus for each in nodes_to_plan_on(cluster, None)] == [8, 8, 8]
    assert nodes_to_plan_on(cluster, ["2xH200"]) == (node(2, H200),)
    assert nodes_to_plan_on(config().cluster, None) == (node(8, H200),)


def test_limits_count_the_dearest_node_with_a_gpu() -> None:
    run = config(SPOT, STEADY, cluster={"usd_per_gpu_hour": {"H100": 1, "A100": 3}}, limits={"max_usd": 5})
    prices = prices_of(run.cluster)
    assert (prices.of(H100), prices.of(H200), prices.by_type["A100"]) == (5, None, 3)
    assert prices_of(config(SPOT, ANY, cluster={"usd_per_gpu_hour": 7}).cluster).of(OTHER) == 7


def test_a_limit_in_usd_needs_the_price_of_each_type_that_may_come() -> None:
    run = config(SPOT, ANY, limits={"max_usd": 5})
    require_prices(run)
    with pytest.raises(
        ConfigError, match=r"must have a price for other, or .* usd_per_hour, because limits\.max_usd=5"
    ):
        check_prices(run, price_nodes(nodes_of_run(node_types_of(run.cluster)), run.cluster))
    unpriced = config(SPOT, {**SPOT, "spot": False, "usd_per_hour": None}, limits={"max_usd": 5})
    nodes = price_nodes(nodes_of_run(node_types_of(unpriced.cluster)), unpriced.cluster)
    assert {node.usd_per_gpu_hour for node in nodes if not node.is_spot} == {None}, "not the price of the other type"
    with pytest.raises(ConfigError, match="must have a price for H100"):
        check_prices(unpriced, nodes)
    with pytest.raises(ConfigError, match=r"limits\.max_usd=5: needs cluster\.usd_per_gpu_hour"):
        require_prices(config(ANY, limits={"max_usd": 5}))


def test_the_first_type_with_room_is_asked_for_and_a_late_one_last() -> None:
    spot, steady = types(SPOT, STEADY)
    room = RoomToCome((spot, steady), [node(is_spot=True)], [])
    assert [room.choose(4) for _ in range(5)] == [spot, spot, steady, steady, None]
    assert RoomToCome((spot, steady), [], []).choose(4, late={spot}) == steady
    assert RoomToCome((spot,), [], []).choose(4, late={spot}) == spot, "there is no other"
    assert RoomToCome((spot,), [], []).choose(16) is None


def test_groups_that_were_asked_for_take_room_and_the_newest_are_in_vain_if_it_is_gone() -> None:
    (spot,) = types(SPOT)
    asked = [Asked(type=spot, size=size) for size in (4, 8, 4, 1)]
    assert (RoomToCome((spot,), [], asked).in_vain, RoomToCome((spot,), [], asked[:3]).choose(1)) == ([3], None)
    assert RoomToCome((spot,), [node(is_spot=True)], asked).in_vain == [1, 3]
    assert RoomToCome((spot,), [node(is_spot=True)] * 3, asked).in_vain == [0, 1, 2, 3]


def test_nodes_that_may_come_are_filled_one_after_the_other_once_the_others_are_full() -> None:
    free = FreeGpus({"there": 2, "first": 4, "second": 2}, later=["first", "second"])
    assert [free.take(2) for _ in range(4)] == ["there", "first", "first", "second"]


@pytest.mark.parametrize(
    ("described", "selector"),
    [
        (SPOT, {"ray.io/accelerator-type": "H100", "ray.io/market-type": "spot"}),
        (STEADY, {"ray.io/accelerator-type": "H100", "ray.io/market-type": "!spot"}),
        (ANY, {"ray.io/accelerator-type": "!in(H200, H100, A100)", "ray.io/market-type": "!spot"}),
    ],
)
def test_a_type_is_asked_for_by_labels(described: dict[str, object], selector: dict[str, str]) -> None:
    (of,) = types(described)
    assert selector_of(of) == selector


def test_what_a_node_is_is_read_from_its_labels_or_resources() -> None:
    labelled = {"Resources": {"GPU": 8}, "Labels": {"ray.io/accelerator-type": "H100", "ray.io/market-type": "spot"}}
    named = {"Resources": {"GPU": 8, "accelerator_type:H200": 1}, "Labels": {}}
    assert (gpu_of(labelled), is_spot(labelled)) == (H100, True)
    assert (gpu_of(named), is_spot(named)) == (H200, False)
    assert gpu_of({"Resources": {}, "Labels": {"ray.io/accelerator-type": "L4"}}) is OTHER


def simulate(clips: list[ClipSpec], nodes: tuple[Node, ...], **limits: Any) -> Option:
    return best(options(clips, cost=CostModel(), nodes=nodes, sizes=(1,), **limits))


def test_a_node_that_is_not_needed_costs_nothing_and_one_that_is_costs_until_its_last_group_ends() -> None:
    clips = [clip(f"c{row}", row=row, num_inference_steps=50 if row else 500) for row in range(16)]
    fixed, elastic = ((node(usd_per_gpu_hour=2, may_come=may_come),) * 9 for may_come in (False, True))
    there, come = simulate(clips, fixed).forecast, simulate(clips, elastic).forecast
    assert come.makespan_s == pytest.approx(there.makespan_s + START_S)
    assert come.groups == {1: 16}
    assert there.gpu_hours == pytest.approx(9 * 8 * there.makespan_s / HOUR_S)
    assert come.gpu_hours < 2 * 8 * come.makespan_s / HOUR_S, "two nodes are needed, and one of them goes early"
    assert come.usd == pytest.approx(2 * come.gpu_hours)
    assert come.held_gpu_hours < there.held_gpu_hours, "groups without a clip end"


def test_no_more_groups_come_than_max_groups() -> None:
    clips = [clip(f"c{row}", row=row, num_inference_steps=50) for row in range(16)]
    forecast = simulate(clips, (node(may_come=True),) * 2, max_groups=3).forecast
    assert forecast.groups == {1: 3}
    assert forecast.gpu_hours == pytest.approx(8 * forecast.makespan_s / HOUR_S)
