"""The Ray cluster that a run works on, and what its nodes offer."""

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil  # type: ignore[import-untyped]
import ray
import structlog

from lynx_batch import exits
from lynx_batch.config import ClusterConfig
from lynx_batch.errors import ConfigError, HeadLost
from lynx_batch.execution.head import LOCAL_MAX_SILENCE_S, MAX_SILENCE_S, Head, check_reachable
from lynx_batch.planning.cost import OTHER, GpuType, gpu_type
from lynx_batch.planning.layout import Node

log = structlog.get_logger()

CONNECT_TIMEOUT_S = 10.0
REACH_TIMEOUT_S = 2.0
AWAIT_EVERY_S = 2.0

INIT_TIMEOUT_S = 45.0
"""Ray raises within 40 s of the head's death where it raises at all, and ends the process after 60 s where it does not."""

NO_LOCAL_NODE = "cluster.address='local': the Ray of this run has lost its only node"


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
        ConfigError: If no cluster answers at `config.address`, or it will not have us.
        HeadLost: If Ray fails while it starts, or later.
    """
    if not config.is_local:
        _refuse_unreachable(config.address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # workers have an environment of their own, so none of those would be used that Ray starts ahead, one for each core
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    try:
        with _not_without_its_head(config.address), _keeping_our_sigterm():
            _init(config)
        yield _await_slots(config)
    except ray.exceptions.RayError as error:
        raise HeadLost(f"cluster.address={config.address!r}: Ray failed: {error}") from error
    finally:
        ray.shutdown()


@contextmanager
def _not_without_its_head(address: str) -> Iterator[None]:
    """Ends this process, with exit code 4, if the head dies while `ray.init` goes on and that raises nothing.

    Such a call neither returns nor can be interrupted; after 60 s Ray ends the process, as if it were faulty.
    """
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(AWAIT_EVERY_S):
            if _is_head_gone(address) and not is_over.wait(INIT_TIMEOUT_S):
                told = f"error: cluster.address={address!r}: the head of the Ray cluster died while this run connected to it"
                print(f"{told}. Run the same command again to go on.", file=sys.stderr, flush=True)
                os._exit(exits.STOPPED)

    watching = threading.Thread(target=watch, name="ray-start", daemon=True)
    watching.start()
    try:
        yield
    finally:
        is_over.set()
        watching.join()


@contextmanager
def _keeping_our_sigterm() -> Iterator[None]:
    """Ray puts a handler of its own in place of ours, which exits; for that long, its exit is the interrupt that ours would be."""
    ours = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as end:
        raise KeyboardInterrupt from end
    finally:
        signal.signal(signal.SIGTERM, ours)


def _is_head_gone(address: str) -> bool:
    if address == "local":
        children = psutil.Process().children()
        return any(child.name() == "gcs_server" and child.status() == psutil.STATUS_ZOMBIE for child in children)
    try:
        _refuse_unreachable(address)
    except ConfigError:
        return True
    return False


def _init(config: ClusterConfig) -> None:
    """Connects this process, if need be to a Ray that it starts. Ray raises any exception here, even a bare one."""
    place = f"cluster.address={config.address!r}"
    local_options = {"include_dashboard": False, "object_store_memory": LOCAL_OBJECT_STORE_BYTES}
    try:
        ray.init(
            address=config.address,
            namespace="lynx-batch",
            log_to_driver=False,
            configure_logging=False,
            **(local_options if config.is_local else {}),
        )
    except (ValueError, ray.exceptions.AuthenticationError) as error:
        raise ConfigError(
            f"{place}: must be 'local', 'auto' or host:port of a cluster that lets us in: {error}"
        ) from error
    except Exception as error:
        if isinstance(error, ConnectionError) and not config.is_local:
            raise ConfigError(f"{place}: no Ray cluster answers there: {error}") from error
        raise HeadLost(f"{place}: Ray failed: {error}") from error


def _await_slots(config: ClusterConfig) -> Slots:
    """The cluster's slots as soon as it has any, else none after a while; a local one that has none will never have any."""
    slots, ends_s = find_slots(), time.monotonic() + config.ready_within_s
    if slots.nodes:
        return slots
    if config.is_local:
        raise HeadLost(NO_LOCAL_NODE)
    log.warning("first_node_awaited", within_s=config.ready_within_s)
    while not slots.nodes and time.monotonic() < ends_s:
        time.sleep(AWAIT_EVERY_S)
        slots = find_slots()
    return slots


def _refuse_unreachable(address: str) -> None:
    """Asks once whether anybody answers at a `host:port`; Ray itself would go on asking for minutes."""
    if not address.rpartition(":")[2].isdigit():
        return
    try:
        check_reachable(address, CONNECT_TIMEOUT_S)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cluster.address={address!r}: no Ray cluster answers there: {error}") from error


def find_head(*, is_local: bool) -> Head:
    """The head of the connected cluster; a local one has but one node, so that nothing works without that, either."""
    gcs = ray.get_runtime_context().gcs_address
    if not is_local:
        return Head(gcs, max_silence_s=MAX_SILENCE_S)
    return Head(gcs, *map(_raylet, ray.nodes()), max_silence_s=LOCAL_MAX_SILENCE_S)


def node_answers(node_id: str) -> bool:
    """Whether Ray's daemon on a node is there: the cluster notices some seconds late that it is not."""
    node = next((node for node in ray.nodes() if node["NodeID"] == node_id), None)
    try:
        if node is not None:
            check_reachable(_raylet(node), REACH_TIMEOUT_S)
    except OSError:
        return False
    return node is not None


def _raylet(node: dict[str, Any]) -> str:
    return f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"


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
