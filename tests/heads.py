"""Heads of Ray that tests start, each ended by its own process id."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.jobs import wait_until
from tests.web import can_connect, free_port

ENVIRONMENT = {"RAY_prestart_worker_first_driver": "0"}  # each idle worker costs 2 s of a core, and nobody would use it


@dataclass(frozen=True, kw_only=True)
class Head:
    """A head that serves any number of runs, one after the other or at once."""

    process: psutil.Process
    address: str


@contextmanager
def ray_head(*options: str, **env: str) -> Iterator[Head]:
    """A head with these options of `ray start`. Its workers have the environment of this process, and `env`."""
    with tempfile.TemporaryDirectory(prefix="lynx-", ignore_cleanup_errors=True) as folder:
        port = free_port()
        ports = ("port", port), ("dashboard-agent-listen-port", free_port()), ("ray-client-server-port", free_port())
        command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats"]
        command += ["--include-dashboard=false", f"--temp-dir={folder}", f"--object-store-memory={100 * 2**20}"]
        command += [*(f"--{name}={number}" for name, number in ports), *options]
        environment = {**os.environ, **ENVIRONMENT, **env}
        started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
        try:
            wait_until(lambda: can_connect(f"127.0.0.1:{port}"))
            yield Head(process=psutil.Process(started.pid), address=f"127.0.0.1:{port}")
        finally:
            started.terminate()
            started.wait(60)
