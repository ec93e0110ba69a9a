"""A Ray head with an autoscaler, whose nodes are processes of this machine: Ray's own fake provider of nodes."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FAKE_HEAD_NODE_TYPE
from ray.autoscaler.v2.sdk import get_cluster_status

from tests.jobs import wait_until
from tests.web import can_connect, free_port

BIN = Path(sys.executable).parent
PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
NO_COMMANDS = ("setup_commands", "head_setup_commands", "worker_setup_commands", "initialization_commands")
NO_COMMANDS += ("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files")
NO_SETTINGS = ("file_mounts", "auth")
IDLE_S = 2.0
LOOK_EVERY_S = 0.5
OBJECT_STORE_BYTES = 100 * 2**20


@dataclass(frozen=True, slots=True)
class Seen:
    """What the autoscaler knew at a moment: how many nodes of each type are there, and what is asked for."""

    nodes: dict[str, int]
    num_asked: int


@dataclass(kw_only=True)
class AutoscaledCluster:
    """A head without slots, to which nodes come. `log` holds what changed, and after how many seconds."""

    address: str
    started_s: float = field(default_factory=time.monotonic)
    log: list[tuple[float, Seen]] = field(default_factory=list)
    _looked_s: float = float("-inf")

    def look(self) -> Seen:
        """As it is now, or was `LOOK_EVERY_S` ago: asking takes the head's time, too."""
        now_s = time.monotonic()
        if self.log and now_s - self._looked_s < LOOK_EVERY_S:
            return self.log[-1][1]
        self._looked_s = now_s
        return self._ask()

    def _ask(self) -> Seen:
        status = get_cluster_status(self.address)
        nodes: dict[str, int] = {}
        for node in (*status.active_nodes, *status.idle_nodes):
            if node.ray_node_type_name != FAKE_HEAD_NODE_TYPE:
                nodes[node.ray_node_type_name] = nodes.get(node.ray_node_type_name, 0) + 1
        asked = status.resource_demands.placement_group_demand
        seen = Seen(nodes, sum(count.count for demand in asked for count in demand.bundles_by_count))
        if not self.log or self.log[-1][1] != seen:
            self.log.append((time.monotonic() - self.started_s, seen))
            print(f"{self.log[-1][0]:6.1f} s  {seen}")
        return seen


@contextmanager
def autoscaled_cluster(types: Mapping[str, Mapping[str, Any]]) -> Iterator[AutoscaledCluster]:
    """A head of its own, ended by its own process id; its nodes end with it. `types` are those of Ray's cluster file."""
    with tempfile.TemporaryDirectory(prefix="lynx-", ignore_cleanup_errors=True) as folder:
        address = f"{ray.util.get_node_ip_address()}:{free_port()}"
        config = Path(folder, "cluster.json")
        config.write_text(json.dumps(_cluster_file(address, types)))
        options = {
            "port": address.rpartition(":")[2],
            "dashboard-agent-listen-port": free_port(),
            "ray-client-server-port": free_port(),
            "include-dashboard": "false",
            "num-cpus": 0,
            "num-gpus": 0,
            "object-store-memory": OBJECT_STORE_BYTES,
            "temp-dir": f"{folder}/ray",
            "autoscaling-config": config,
        }
        command = [str(BIN / "ray"), "start", "--head", "--block", "--disable-usage-stats"]
        command += [f"--{name}={value}" for name, value in options.items()]
        head = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=_environment())
        try:
            wait_until(lambda: can_connect(address))
            yield AutoscaledCluster(address=address)
        finally:
            head.terminate()
            head.wait(60)


def _cluster_file(address: str, types: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    head_type = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    nodes = {name: {"node_config": {}, "min_workers": 0, **each} for name, each in types.items()}
    for each in nodes.values():
        each["resources"] = {"object_store_memory": OBJECT_STORE_BYTES, **each["resources"]}
    provider = {"type": "external", "module": PROVIDER, "head_node_id": FAKE_HEAD_NODE_ID, "gcs_address": address}
    return {
        "cluster_name": "fake",
        "provider": {**provider, "launch_multiple": True},
        "max_workers": sum(each["max_workers"] for each in types.values()),
        "idle_timeout_minutes": IDLE_S / 60,
        "upscaling_speed": 1.0,
        "available_node_types": {FAKE_HEAD_NODE_TYPE: head_type, **nodes},
        "head_node_type": FAKE_HEAD_NODE_TYPE,
        **{key: [] for key in NO_COMMANDS},
        **{key: {} for key in NO_SETTINGS},
    }


def _environment() -> dict[str, str]:
    return {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_NODE_TYPE_NAME": FAKE_HEAD_NODE_TYPE,
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    }
