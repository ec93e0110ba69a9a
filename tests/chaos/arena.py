"""Where faults are injected: two Ray nodes with two pretended GPUs each, an S3 server behind a gate, and a small job."""

import hashlib
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import s3fs
from ray.cluster_utils import Cluster
from typer.testing import CliRunner

from lynx_batch import storage
from lynx_batch.cli import app
from lynx_batch.ledger.commits import read_commits
from lynx_batch.ledger.editions import list_editions
from lynx_batch.ledger.events import AttemptEvent, EventKind
from lynx_batch.ledger.leftovers import find_leftovers
from lynx_batch.ledger.metadata import read_metadata
from lynx_batch.ledger.numbering import list_tries
from lynx_batch.ledger.tries import read_each
from lynx_batch.output import TRIES
from tests import crashes, heads
from tests.builders import COLLINS, HOPPER, row
from tests.chaos.gate import Gate, opened
from tests.jobs import Job
from tests.seaweed import SeaweedServer
from tests.stores import CREDENTIALS, create_bucket

NUM_NODES, GPUS_PER_NODE = 2, 2
NUM_CLIPS = 6
NUM_STEPS = 60
MAX_RUNS = 3
RUN_TIMEOUT_S = 300
SETTLE_TIMEOUT_S = 60
BUCKET = "chaos"
ENDED_WELL = (0, 3)
BEST_OF_TWO = {"likeness": {"min_face_share": 0.0}, "technical": False, "num_frames": 2, "best_of": 2}


class Arena:
    """Lives through many trials; each leaves it whole."""

    def __init__(self, folder: Path, face_pack: Path, gate: Gate, server: SeaweedServer, cluster: Cluster) -> None:
        self.folder, self.face_pack, self.gate, self.server, self._cluster = folder, face_pack, gate, server, cluster
        self.nodes: list[Any] = []
        self.repair()

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    @property
    def scratch(self) -> Path:
        """Where drivers and workers keep their temporary files; onnxruntime has a hidden one there."""
        return self.folder / "tmp"

    def workers(self, node: Any | None = None) -> list[psutil.Process]:
        """The processes of the ranks on one node, or on all."""
        return [worker for one in ([node] if node else self.nodes) for worker in _workers_of(_raylet(one))]

    def busy_node(self) -> Any:
        return next(node for node in self.nodes if self.workers(node))

    def drain_node(self, node: Any, seconds: float) -> None:
        """Gives notice that the node will be gone after some seconds."""
        deadline = ["--reason=DRAIN_NODE_REASON_PREEMPTION", f"--deadline-remaining-seconds={seconds:.0f}"]
        ray_command = str(Path(sys.executable).with_name("ray"))
        where = ["--address", self.address, "--node-id", node.node_id, "--reason-message", "spot notice"]
        subprocess.run([ray_command, "drain-node", *where, *deadline], check=True, capture_output=True)

    def kill_node(self, node: Any) -> None:
        raylet = _raylet(node)
        for process in [raylet, *raylet.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._forget(node)

    def kill_raylet(self, node: Any) -> None:
        """Its workers notice, and end by themselves."""
        _raylet(node).kill()
        self._forget(node)

    def _forget(self, node: Any) -> None:
        self.nodes.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)

    def repair(self) -> None:
        """Adds nodes in place of those that were lost."""
        while len(self.nodes) < NUM_NODES:
            node = self._cluster.add_node(num_cpus=GPUS_PER_NODE, num_gpus=GPUS_PER_NODE)
            self.nodes.append(node)

    def leftovers(self) -> list[str]:
        """What a run should have given back and has not."""
        placements = ray.util.placement_group_table().values()
        left = [f"placement group {placement['state']}" for placement in placements if placement["state"] != "REMOVED"]
        left += [f"worker {worker.pid}" for worker in self.workers()]
        free = ray.available_resources().get("GPU", 0)
        if free != NUM_NODES * GPUS_PER_NODE:
            left.append(f"{free} of {NUM_NODES * GPUS_PER_NODE} GPUs are free")
        return left + [str(path) for path in self.scratch.glob("[!.]*")]


@contextmanager
def built(face_pack: Path) -> Iterator[Arena]:
    """An arena below a short path, for Ray's sockets; this process stays connected to its cluster, to look on."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True)))
        for part in ("tmp", "store"):
            (folder / part).mkdir()
        server = SeaweedServer(folder / "store")
        server.start()
        stack.callback(server.kill)
        gate = Gate(server.url)
        url = stack.enter_context(opened(gate))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        kernels = {"TORCHINDUCTOR_CACHE_DIR": str(folder / "kernels")}  # torch keeps them in TMPDIR, and means to
        places = {"AWS_ENDPOINT_URL": url, "TMPDIR": str(folder / "tmp"), "RAY_TMPDIR": str(folder), **kernels}
        for key, value in {**CREDENTIALS, **places, **heads.ENVIRONMENT, **crashes.ENVIRONMENT}.items():
            patch.setenv(key, value)
        s3fs.S3FileSystem.clear_instance_cache()
        create_bucket(BUCKET)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        stack.callback(cluster.shutdown)
        ray.init(cluster.address, namespace="lynx-batch", log_to_driver=False, configure_logging=False)
        stack.callback(ray.shutdown)
        yield Arena(folder, face_pack, gate, server, cluster)


@dataclass(kw_only=True)
class Trial:
    """One job with one fault.

    `num_rejected` rows are to be rejected and `num_failed` to fail, because that is what is wrong with them; `breaks` is what
    attempts are to break with, so that no fault goes by unnoticed.
    """

    arena: Arena
    job: Job
    num_rejected: int = 0
    num_failed: int = 0
    breaks: frozenset[str] = frozenset()
    num_runs: int = 0
    seconds: float = 0.0
    told: str = ""
    options: tuple[str, ...] = ()
    driver: subprocess.Popen[str] | None = None
    rivals: list[subprocess.Popen[str]] = field(default_factory=list)
    timers: list[threading.Timer] = field(default_factory=list)

    def photo(self, number: int) -> str:
        return str(self.job.rows[number]["subject_uri"])

    def kill_driver(self) -> None:
        """Returns when Ray has ended its workers, so that none of them does another step."""
        assert self.driver is not None
        self.driver.kill()
        until(lambda: not self.arena.workers())

    def later(self, seconds: float, do: Callable[[], None]) -> None:
        self.timers.append(threading.Timer(seconds, do))
        self.timers[-1].start()

    def start_rival(self) -> None:
        self.rivals.append(self.job.start(*self.options))

    def carry_out(self) -> None:
        """Runs the job until it has come to its end, as whoever watches over it would."""
        started_s = time.monotonic()
        while self._run() not in ENDED_WELL:
            assert self.num_runs < MAX_RUNS, self.told
        for rival in self.rivals:
            _, stderr = rival.communicate(timeout=RUN_TIMEOUT_S)
            assert rival.returncode in ENDED_WELL, stderr
        self.seconds = time.monotonic() - started_s
        for timer in self.timers:
            timer.join()
        self.arena.gate.check()
        self.arena.repair()

    def _run(self) -> int:
        self.num_runs += 1
        self.driver = self.job.start(*self.options)
        try:
            self.told = "".join(self.driver.communicate(timeout=RUN_TIMEOUT_S))
        finally:
            self.driver.kill()
        return self.driver.returncode


def prepare_trial(arena: Arena, folder: Path, name: str, *, is_judged: bool = False) -> Trial:
    """A job of its own, whose photos lie in the bucket, too. A judged one renders two seeds of each clip."""
    arena.gate.disarm()
    arena.repair()
    home = f"s3://{BUCKET}/{name}"
    rows = []
    for number in range(NUM_CLIPS):
        photo = storage.join(home, "photos", f"{number}.jpg")
        storage.upload((COLLINS, HOPPER)[number % 2], photo)
        rows.append(row(photo, seed=None if is_judged else number, prompt=f"A person waves {number}."))
    settings = {"cluster": {"address": arena.address, "gpus_per_group": GPUS_PER_NODE}}
    settings |= {"quality": BEST_OF_TWO} if is_judged else {}
    output = storage.join(home, "out")
    steps = NUM_STEPS // 2 if is_judged else NUM_STEPS
    job = Job(folder=folder, face_pack=arena.face_pack, rows=rows, steps=steps, settings=settings, output=output)
    return Trial(arena=arena, job=job)


def assert_whole(trial: Trial) -> None:
    """Nothing is lost, doubled, left over or to be done again, and no fault of a machine was held against a clip."""
    output = trial.job.output
    rows = newest_rows(output)
    assert [r["row"] for r in rows] == list(range(NUM_CLIPS))
    assert [r["outcome"] for r in rows].count("rejected") == trial.num_rejected
    assert [r["outcome"] for r in rows].count("failed") == trial.num_failed
    assert num_lost(trial) == 0
    assert num_doubled(trial) == 0
    assert max(r["attempts"] for r in rows) <= 1
    assert {event.error_type for event in retries(trial)} >= trial.breaks
    for file in find_leftovers(output):  # what `prune` does once the heartbeat of a killed driver has grown old
        storage.delete(file.uri)
    verified = CliRunner().invoke(app, ["verify", output])
    assert verified.exit_code == 0, verified.output
    again = CliRunner().invoke(app, ["render", str(trial.job.folder / "run.yaml")])
    assert "0 to render" in again.output, again.output
    until(lambda: not trial.arena.leftovers(), lambda: str(trial.arena.leftovers()))


def assert_judged(trial: Trial) -> None:
    """Each clip has its two tries, and the commits are those of tries."""
    output = trial.job.output
    tries = [record for _, record in read_each(output, list_tries(storage.join(output, TRIES)))]
    assert Counter(t.clip_id for t in tries) == dict.fromkeys(list_editions(output).in_force, 2)
    committed = {c.attempt for c in read_commits(output, list_editions(output).in_force)}
    assert committed <= {t.commit.attempt for t in tries}


def num_lost(trial: Trial) -> int:
    """Rows that were neither given up nor are a clip whose committed object is there, whole."""
    output = trial.job.output
    whole = {c.clip_id for c in read_commits(output, list_editions(output).in_force) if _is_there(output, c)}
    rows = newest_rows(output)
    return NUM_CLIPS - sum(r["outcome"] in ("rejected", "failed") or r["clip_id"] in whole for r in rows)


def num_doubled(trial: Trial) -> int:
    """Clips of which the store took more than one commit."""
    counts = trial.arena.gate.num_commits
    home = trial.job.output.removeprefix("s3:/")
    return sum(count > 1 for path, count in counts.items() if path.startswith(home + "/"))


def retries(trial: Trial) -> list[AttemptEvent]:
    """The attempts that failed so that the same run made another."""
    return [event for event in trial.job.events() if event.kind is EventKind.RETRIED]


def newest_rows(output: str) -> list[dict[str, Any]]:
    rows = read_metadata(output).to_pylist()
    newest = max((r["run"] for r in rows), default="")
    return sorted((r for r in rows if r["run"] == newest), key=lambda r: r["row"])


def _is_there(output: str, commit: Any) -> bool:
    content = storage.read_bytes(storage.join(output, commit.clip_uri))
    return hashlib.sha256(content).hexdigest() == commit.sha256


def until(is_true: Callable[[], bool], story: Callable[[], str] = str) -> None:
    """Raises AssertionError with its `story` if it never becomes true."""
    deadline_s = time.monotonic() + SETTLE_TIMEOUT_S
    while not is_true():
        assert time.monotonic() < deadline_s, story()
        time.sleep(0.1)


def _raylet(node: Any) -> psutil.Process:
    (info,) = node.all_processes["raylet"]
    return psutil.Process(info.process.pid)


def _workers_of(raylet: psutil.Process) -> list[psutil.Process]:
    return [process for process in raylet.children(recursive=True) if _title(process).startswith("ray::Worker")]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""
