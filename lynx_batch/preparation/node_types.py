"""The types of node that may come during a run, what they cost, and which of them to ask for next."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from lynx_batch.config import ClusterConfig
from lynx_batch.errors import ConfigError
from lynx_batch.planning.cost import GpuType, named_gpu_types
from lynx_batch.planning.layout import FreeGpus, Node, parse_nodes

DEFAULT_POOL = "8xH200"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeType:
    """A type of node that may come, as `NodeTypeConfig` describes it. `usd_per_gpu_hour` is None without a price."""

    gpu: GpuType
    num_gpus: int
    max_nodes: int
    usd_per_gpu_hour: float | None
    is_spot: bool

    def __str__(self) -> str:
        return f"{self.num_gpus}x{self.gpu.name}{' (spot)' if self.is_spot else ''}"

    def matches(self, node: Node) -> bool:
        """Whether a group that was asked for on this type may be formed on `node`, which may have another number of GPUs."""
        return (node.gpu, node.is_spot) == (self.gpu, self.is_spot)

    def num_missing(self, there: Iterable[Node]) -> int:
        """How many nodes of the type may still come."""
        return max(0, self.max_nodes - sum(self.matches(node) and node.num_gpus == self.num_gpus for node in there))


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A group of `size` GPUs that waits for a node of this type."""

    type: NodeType
    size: int


def node_types_of(cluster: ClusterConfig) -> tuple[NodeType, ...]:
    """The types of a run file, in its order. Raises ConfigError for a type of GPU that nobody knows."""
    known = named_gpu_types()
    for index, each in enumerate(cluster.node_types):
        if each.gpu.lower() not in known:
            names = ", ".join(gpu.name for gpu in known.values())
            raise ConfigError(f"cluster.node_types.{index}.gpu: {each.gpu!r} is no known type of GPU; known: {names}")
    return tuple(
        NodeType(
            gpu=known[each.gpu.lower()],
            num_gpus=each.gpus,
            max_nodes=each.max,
            usd_per_gpu_hour=None if each.usd_per_hour is None else each.usd_per_hour / each.gpus,
            is_spot=each.spot,
        )
        for each in cluster.node_types
    )


def require_autoscaler(cluster: ClusterConfig) -> None:
    """Raises ConfigError if nodes may come to a cluster to which nothing adds any."""
    if cluster.node_types and cluster.is_local:
        raise ConfigError(
            "cluster.node_types: needs cluster.address, an existing cluster with an autoscaler, such as auto; nothing adds nodes to the Ray "
            "that address='local' starts"
        )


def nodes_of_run(types: Sequence[NodeType], there: Iterable[Node] = ()) -> tuple[Node, ...]:
    """The nodes that are there, with the price of their type, then those that may still come."""
    nodes = tuple(there)
    priced = tuple(_priced(node, types) for node in nodes)
    return priced + tuple(_to_come(each) for each in types for _ in range(each.num_missing(nodes)))


def nodes_to_plan_on(cluster: ClusterConfig, pools: Sequence[str] | None) -> tuple[Node, ...]:
    """The nodes of `pools`, such as "64xH100@2.5"; without any, those that may come by the run file, or else those of `DEFAULT_POOL`.

    Raises:
        ConfigError: If a pool cannot be read, or nothing can add the nodes of the run file.
    """
    if not pools:
        types = node_types_of(cluster)
        require_autoscaler(cluster)
        return nodes_of_run(types) if types else parse_nodes([DEFAULT_POOL])
    return parse_nodes(pools)


class RoomToCome:
    """The GPUs of the nodes that may still come, less those for groups that were `asked` for. `there` are the nodes of the cluster.

    `in_vain`: the indices in `asked` of groups for which no node may come, the newest of each type.
    """

    def __init__(self, types: Iterable[NodeType], there: Collection[Node], asked: Iterable[Asked]) -> None:
        self._free = {each: _free_gpus(each.num_missing(there), each.num_gpus) for each in types}
        self.in_vain = [index for index, each in enumerate(asked) if not self._take(each.type, each.size)]

    def choose(self, size: int, late: Collection[NodeType] = ()) -> NodeType | None:
        """Takes room for another group on the first type that has it. Types that are `late` are used only if no other has."""
        in_order = sorted(self._free, key=lambda each: each in late)
        return next((each for each in in_order if self._take(each, size)), None)

    def _take(self, of: NodeType, size: int) -> bool:
        free = self._free[of]
        has_room = free.largest >= size
        if has_room:
            free.take(size)
        return has_room


def _free_gpus(num_nodes: int, num_gpus: int) -> FreeGpus:
    names = [str(number) for number in range(num_nodes)]
    return FreeGpus(dict.fromkeys(names, num_gpus), later=names)


def _to_come(of: NodeType) -> Node:
    return Node(
        num_gpus=of.num_gpus, gpu=of.gpu, usd_per_gpu_hour=of.usd_per_gpu_hour, is_spot=of.is_spot, may_come=True
    )


def _priced(node: Node, types: Iterable[NodeType]) -> Node:
    """The node with the price of its type: of the one with as many GPUs, if several match."""
    matching = [each for each in types if each.matches(node)]
    chosen = next((each for each in matching if each.num_gpus == node.num_gpus), next(iter(matching), None))
    return node if chosen is None else replace(node, usd_per_gpu_hour=chosen.usd_per_gpu_hour)
