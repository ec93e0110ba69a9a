"""The Ray cluster that a run works on, and what its nodes offer."""

import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray
import structlog

from lynx_batch.config import ClusterConfig
from lynx_batch.errors import ConfigError
from lynx_batch.execution.head import Head, knock
from lynx_batch.planning.cost import OTHER, GpuType, gpu_type
from lynx_batch.planning.layout import Node

log = structlog.get_logger()

CONNECT_TIMEOUT_S = 10.0
AWAIT_EVERY_S = 2.0
LOCAL_OBJECT_STORE_BYTES = 128 * 2**20  # pixels never travel through Ray, so a small store is plenty


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """Where workers can run: GPUs, or CPU cores in a cluster without GPUs; the nodes by their Ray id.

    `draining`: nodes that live, but are taken away soon, and when, in seconds since 1970.
    """

    resource: str
    nodes: dict[str, Node]
    draining: dict[str, float]

    def bundle(self) -> dict[str, float]:
        """What one worker takes from its node; a node may have fewer cores than GPUs, so that it asks for none beside one."""
        return {self.resource: 1}


@contextmanager
def connected(config: ClusterConfig) -> Iterator[Slots]:
    """A connection to the cluster for the time of a run.

    `address: local` always starts a Ray of its own, whatever clusters this machine belongs to, and ends it. A cluster that
    has only begun to start is waited for: its head answers minutes before the first node with GPUs does.

    Raises:
        ConfigError: If no cluster answers at `config.address`.
    """
    is_local = config.address == "local"
    if not is_local:
        _check_reachable(config.address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # workers have an environment of their own, so none of those would be used that Ray starts ahead, one for each core
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    on_sigterm = signal.getsignal(signal.SIGTERM)
    local_options = {"include_dashboard": False, "object_store_memory": LOCAL_OBJECT_STORE_BYTES} if is_local else {}
    try:
        ray.init(
            address=config.address,
            namespace="lynx-batch",
            log_to_driver=False,
            configure_logging=False,
            **local_options,
        )
    except ConnectionError as error:
        raise ConfigError(f"cluster.address={config.address!r}: no Ray cluster answers there: {error}") from error
    signal.signal(signal.SIGTERM, on_sigterm)  # Ray has put its own there, which exits
    try:
        yield _await_slots(config.ready_within_s)
    finally:
        ray.shutdown()


def _await_slots(within_s: float) -> Slots:
    """The cluster's slots as soon as it has any, else none after a while."""
    slots, ends_s = find_slots(), time.monotonic() + within_s
    if not slots.nodes:
        log.warning("first_node_awaited", within_s=within_s)
    while not slots.nodes and time.monotonic() < ends_s:
        time.sleep(AWAIT_EVERY_S)
        slots = find_slots()
    return slots


def _check_reachable(address: str) -> None:
    """Asks once whether anybody answers at a `host:port`; Ray itself would go on asking for minutes."""
    if not address.rpartition(":")[2].isdigit():
        return
    try:
        knock(address, CONNECT_TIMEOUT_S)
    except OSError as error:
        raise ConfigError(f"cluster.address={address!r}: no Ray cluster answers there: {error}") from error


def find_head() -> Head:
    """The head of the connected cluster."""
    return Head(ray.get_runtime_context().gcs_address)


def has_several_machines() -> bool:
    return len({node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}) > 1


def find_slots(resource: str | None = None) -> Slots:
    """The slots of the connected cluster's lasting nodes: of a `resource`, else GPUs if there are any, else CPU cores."""
    notices_ms = ray._private.state.state.get_draining_nodes()
    draining = {node_id: ms / 1000 if ms else math.inf for node_id, ms in notices_ms.items()}
    offers = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
    resource = resource or ("GPU" if any(offer.get("GPU", 0) >= 1 for offer in offers.values()) else "CPU")
    nodes = {
        node_id: Node(num_gpus=int(offer[resource]), gpu=_gpu_of(offer) if resource == "GPU" else OTHER)
        for node_id, offer in offers.items()
        if offer.get(resource, 0) >= 1 and node_id not in draining
    }
    return Slots(resource=resource, nodes=nodes, draining=draining)


def _gpu_of(offer: dict[str, float]) -> GpuType:
    """Ray offers a resource named after the type of a node's GPUs, such as "accelerator_type:H200"."""
    return next((gpu_type(name) for name in offer if name.startswith("accelerator_type:")), OTHER)
