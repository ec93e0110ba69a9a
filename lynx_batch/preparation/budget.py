"""The limits and prices of a run file, and what other runs of its output have spent of the same budget."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from lynx_batch.config import ClusterConfig, RunConfig
from lynx_batch.config.stop_time import find_stop
from lynx_batch.errors import ConfigError
from lynx_batch.ledger.spending import SpentRecord
from lynx_batch.planning.budget import NOTHING, Amount, Limits, Prices, price
from lynx_batch.planning.cost import OTHER, named_gpu_types
from lynx_batch.planning.layout import Node
from lynx_batch.preparation.node_types import NodeType, node_types_of

PRICES = "cluster.usd_per_gpu_hour"
_OR_OF_NODE = ", or cluster.node_types must have usd_per_hour"


def limits_of(config: RunConfig, now: datetime) -> Limits | None:
    """The limits of a run that starts `now`; None if it has none."""
    limits = config.limits
    if limits is None:
        return None
    stop = None if limits.stop_at is None else find_stop(limits.stop_at, now)
    return Limits(
        name=limits.name,
        max_gpu_hours=limits.max_gpu_hours,
        max_usd=limits.max_usd,
        stop_at_s=None if stop is None else stop.timestamp(),
        stop_at="" if stop is None else f"{limits.stop_at} ({stop:%Y-%m-%d %H:%M %Z})",
    )


def prices_of(cluster: ClusterConfig) -> Prices:
    """The price list of a run file. Of a GPU that several of its types of node have, the dearest counts; one without a price has the list's.

    Raises:
        ConfigError: If it names a type of GPU that nobody knows.
    """
    given = given_prices(cluster)
    by_type = {**given.by_type, **_dearest(node_types_of(cluster), given)}
    return Prices(by_type=by_type, of_others=given.of_others)


def given_prices(cluster: ClusterConfig) -> Prices:
    """The prices of `cluster.usd_per_gpu_hour` alone. Raises as `prices_of`."""
    given = cluster.usd_per_gpu_hour
    if not isinstance(given, dict):
        return Prices(by_type={}, of_others=given)
    names = {key: gpu.name for key, gpu in named_gpu_types().items()}
    if unknown := [name for name in given if name.lower() not in names]:
        raise ConfigError(f"{PRICES}: {unknown[0]!r} is no known type of GPU; known: {', '.join(names.values())}")
    by_type = {names[name.lower()]: usd for name, usd in given.items()}
    return Prices(by_type=by_type, of_others=by_type.get(OTHER.name))


def _dearest(types: Iterable[NodeType], given: Prices) -> dict[str, float]:
    """USD per GPU-hour of each GPU, by its name."""
    dearest = dict[str, float]()
    for each in types:
        usd = given.of(each.gpu) if each.usd_per_gpu_hour is None else each.usd_per_gpu_hour
        if usd is not None:
            dearest[each.gpu.name] = max(usd, dearest.get(each.gpu.name, 0.0))
    return dearest


def price_nodes(nodes: Iterable[Node], cluster: ClusterConfig) -> tuple[Node, ...]:
    """The nodes with the prices of `cluster.usd_per_gpu_hour`, except those that have one of their own."""
    prices = given_prices(cluster)
    return tuple(
        replace(node, usd_per_gpu_hour=prices.of(node.gpu)) if node.usd_per_gpu_hour is None else node for node in nodes
    )


def require_prices(config: RunConfig) -> None:
    """Raises ConfigError if `limits.max_usd` is set in a run file without any price."""
    if config.limits is None or config.limits.max_usd is None or config.cluster.usd_per_gpu_hour is not None:
        return
    if not any(each.usd_per_hour is not None for each in config.cluster.node_types):
        raise ConfigError(
            f"limits.max_usd={config.limits.max_usd:g}: needs {PRICES}, the price of a GPU-hour, or usd_per_hour of cluster.node_types"
        )


def check_prices(config: RunConfig, nodes: Iterable[Node]) -> None:
    """Raises ConfigError if `limits.max_usd` is set and one of `nodes`, as `price_nodes` gives them, has no price."""
    if config.limits is None or config.limits.max_usd is None:
        return
    if missing := sorted({node.gpu.name for node in nodes if node.usd_per_gpu_hour is None}):
        raise ConfigError(
            f"{PRICES}: must have a price for {', '.join(missing)}{_OR_OF_NODE if config.cluster.node_types else ''}, because "
            f"limits.max_usd={config.limits.max_usd:g} is set and the cluster has such GPUs"
        )


def total_spent(records: Iterable[SpentRecord], prices: Prices) -> Amount:
    """What the runs of these records have spent together, at the prices of that time, or, of runs without, at `prices`."""
    total = replace(NOTHING, usd=None if prices.highest is None else 0.0)
    for record in records:
        at_present = price(record.gpu_s, prices)
        total += replace(at_present, usd=at_present.usd if record.usd is None else record.usd)
    return total
