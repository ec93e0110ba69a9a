"""The Ray cluster of a run: connecting to it, and the slots that its nodes offer."""

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
from lynx_batch.execution.labels import MARKET_TYPE, SPOT, gpu_of, is_spot
from lynx_batch.planning.cost import OTHER
from lynx_batch.planning.layout import Node

log = structlog.get_logger()

CONNECT_TIMEOUT_S = 10.0
REACH_TIMEOUT_S = 2.0
CHECK_EVERY_S = 2.0

INIT_TIMEOUT_S = 45.0
"""When the head dies, Ray either raises within 40 s or ends the process after 60 s."""

NO_LOCAL_NODE = "cluster.address='local': the Ray of this run has lost its only node"


LOCAL_OBJECT_STORE_BYTES = 128 * 2**20  # pixels never pass through Ray, so a small store is enough


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """Where workers can run: on GPUs, or on CPU cores in a cluster without GPUs. `nodes` are keyed by Ray's node id.

    `draining`: nodes that are still alive but will be taken away, with the time in seconds since 1970.
    """

    resource: str
    nodes: dict[str, Node]
    draining: dict[str, float]

    def bundle(self) -> dict[str, float]:
        """What one worker takes from its node. With a GPU it asks for no CPU, because a node may have fewer cores than GPUs."""
        return {self.resource: 1}


@contextmanager
def connected(config: ClusterConfig) -> Iterator[Slots]:
    """Connects to the cluster for the duration of a run; yields its slots.

    `address: local` always starts its own Ray and ends it, even on a machine that belongs to a cluster. If the cluster has no
    slots yet, this waits for them: a head answers minutes before its first GPU node joins. With `config.node_types` it does not wait.

    Raises:
        ConfigError: If no cluster answers at `config.address`, or it does not accept us.
        HeadLost: If Ray fails, now or later.
    """
    if not config.is_local:
        _check_address(config.address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray would start one idle worker per core. We could use none of them, because ours need their own runtime environment
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    try:
        with _exiting_if_head_dies(config.address), _our_sigterm_kept():
            _init(config)
        warn_if_on_spot()
        yield _await_slots(config)
    except ray.exceptions.RayError as error:
        raise HeadLost(f"cluster.address={config.address!r}: Ray failed: {error}") from error
    finally:
        ray.shutdown()


@contextmanager
def _exiting_if_head_dies(address: str) -> Iterator[None]:
    """Ends this process with exit code 4 if the head dies during `ray.init` and that does not raise.

    Such a call neither returns nor can be interrupted, and after 60 s Ray would crash the process.
    """
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(CHECK_EVERY_S):
            if _is_head_gone(address) and not is_over.wait(INIT_TIMEOUT_S):
                problem = (
                    f"cluster.address={address!r}: the head of the Ray cluster died while this run connected to it"
                )
                print(f"error: {problem}. Run the same command again to continue.", file=sys.stderr, flush=True)
                os._exit(exits.STOPPED)

    watching = threading.Thread(target=watch, name="ray-start", daemon=True)
    watching.start()
    try:
        yield
    finally:
        is_over.set()
        watching.join()


@contextmanager
def _our_sigterm_kept() -> Iterator[None]:
    """Restores our SIGTERM handler after `ray.init`, which installs its own. Until then, an exit by Ray's handler counts as an interrupt."""
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
        _check_address(address)
    except ConfigError:
        return True
    return False


def _init(config: ClusterConfig) -> None:
    """Connects this process to Ray, and starts Ray first if the address is local. Ray may raise any exception here, even a bare one."""
    setting = f"cluster.address={config.address!r}"
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
            f"{setting}: must be 'local', 'auto' or host:port of a cluster that accepts our token: {error}"
        ) from error
    except Exception as error:
        if isinstance(error, ConnectionError) and not config.is_local:
            raise ConfigError(f"{setting}: no Ray cluster answers there: {error}") from error
        raise HeadLost(f"{setting}: Ray failed: {error}") from error


def _await_slots(config: ClusterConfig) -> Slots:
    """Waits up to `config.ready_within_s` for the cluster's first node; returns empty slots if none comes.

    If the run asks for its nodes, it needs none to start. A local cluster without a node has lost it, so that raises HeadLost.
    """
    if config.node_types:
        return find_slots("GPU")
    slots, ends_s = find_slots(), time.monotonic() + config.ready_within_s
    if slots.nodes:
        return slots
    if config.is_local:
        raise HeadLost(NO_LOCAL_NODE)
    log.warning("first_node_awaited", within_s=config.ready_within_s)
    while not slots.nodes and time.monotonic() < ends_s:
        time.sleep(CHECK_EVERY_S)
        slots = find_slots()
    return slots


def _check_address(address: str) -> None:
    """Raises ConfigError if nothing listens at a `host:port`. Ray itself would keep trying for minutes."""
    if not address.rpartition(":")[2].isdigit():
        return
    try:
        check_reachable(address, CONNECT_TIMEOUT_S)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cluster.address={address!r}: no Ray cluster answers there: {error}") from error


def find_head(*, is_local: bool) -> Head:
    """The head of the connected cluster. A local one cannot work without its only node either, so that must answer too."""
    gcs = ray.get_runtime_context().gcs_address
    if not is_local:
        return Head(gcs, max_silence_s=MAX_SILENCE_S)
    return Head(gcs, *map(_raylet, ray.nodes()), max_silence_s=LOCAL_MAX_SILENCE_S)


def node_answers(node_id: str) -> bool:
    """Whether the Ray daemon of a node answers now. The cluster itself notices a lost node some seconds late."""
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
    """The slots of the cluster's nodes that are alive and not draining: of `resource` if given, else GPUs if any, else CPU cores."""
    notices_ms = ray._private.state.state.get_draining_nodes()
    draining = {node_id: ms / 1000 if ms else math.inf for node_id, ms in notices_ms.items()}
    offers = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    resource = resource or ("GPU" if any(_num_of("GPU", node) for node in offers.values()) else "CPU")
    nodes = {
        node_id: Node(
            num_gpus=_num_of(resource, node), gpu=gpu_of(node) if resource == "GPU" else OTHER, is_spot=is_spot(node)
        )
        for node_id, node in offers.items()
        if _num_of(resource, node) and node_id not in draining
    }
    return Slots(resource=resource, nodes=nodes, draining=draining)


def _num_of(resource: str, node: dict[str, Any]) -> int:
    return int(node["Resources"].get(resource, 0))


def warn_if_on_spot() -> None:
    """Warns if the driver itself runs on a spot machine: with it, the whole run would end."""
    own = ray.get_runtime_context().get_node_id()
    if any(is_spot(node) for node in ray.nodes() if node["NodeID"] == own):
        log.warning("driver_on_spot", node=own, advice=f"run it on a node without the label {MARKET_TYPE}: {SPOT}")
