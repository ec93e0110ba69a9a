"""Ray's labels of nodes: which GPUs a node has, and whether it is a spot machine. Placement groups ask for nodes by them.

Source of the names: https://docs.ray.io/en/latest/ray-core/scheduling/labels.html. On a node that runs, Ray sets the first by itself; the
second, and both of nodes that do not run yet, are part of the cluster's description.
"""

from collections.abc import Mapping
from typing import Any

from lynx_batch.planning.cost import GPU_TYPES, OTHER, GpuType, gpu_type
from lynx_batch.preparation.node_types import NodeType

ACCELERATOR_TYPE = "ray.io/accelerator-type"
MARKET_TYPE = "ray.io/market-type"
SPOT = "spot"


def gpu_of(node: Mapping[str, Any]) -> GpuType:
    """The type of a node's GPUs, by its label, or by a resource that Ray names after it, such as "accelerator_type:H200".

    `node` is an entry of `ray.nodes()`.
    """
    named = [name for name in node["Resources"] if name.startswith("accelerator_type:")]
    return next(
        (found for name in [_labels(node).get(ACCELERATOR_TYPE, ""), *named] if (found := gpu_type(name)) is not OTHER),
        OTHER,
    )


def is_spot(node: Mapping[str, Any]) -> bool:
    return _labels(node).get(MARKET_TYPE) == SPOT


def selector_of(type_of_node: NodeType) -> dict[str, str]:
    """The labels of nodes of a type, as a label selector of Ray: a `!` in front excludes a value, and a missing label is no value."""
    known = ", ".join(gpu.name for gpu in GPU_TYPES)
    accelerator = f"!in({known})" if type_of_node.gpu is OTHER else type_of_node.gpu.name
    return {ACCELERATOR_TYPE: accelerator, MARKET_TYPE: SPOT if type_of_node.is_spot else f"!{SPOT}"}


def _labels(node: Mapping[str, Any]) -> Mapping[str, str]:
    return node.get("Labels") or {}
