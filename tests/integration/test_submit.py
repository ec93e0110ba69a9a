"""`submit`, `jobs`, `logs`, `follow` and `cancel` as their user runs them, on a real Ray head that wants a token."""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from lynx_batch.ledger.runs import read_runs
from tests.builders import COLLINS, HOPPER, row
from tests.jobs import DEADLINE_S, Job, Result, wait_until
from tests.models import MODEL
from tests.web import can_connect, free_port

pytestmark = pytest.mark.ray

BIN = Path(sys.executable).parent


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A Ray head. `address` is for drivers, `dashboard` for jobs, and `env` holds the token that it wants."""

    process: psutil.Process
    logs: Path
    address: str
    dashboard: str
    env: dict[str, str]

    def cancel(self, job_id: str, **env: str) -> Result:
        return self.run("cancel", job_id, **env)

    def run(self, *arguments: str, **env: str) -> Result:
        command = [str(BIN / "lynx-batch"), *arguments, "--address", self.dashboard]
        env = {**os.environ, **self.env, **env}
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False, env=env)
        return Result(done.returncode, done.stdout, done.stderr)


@contextmanager
def started_cluster() -> Iterator[Cluster]:
    """A head of its own, ended by its own process id."""
    with tempfile.TemporaryDirectory(prefix="lynx-", ignore_cleanup_errors=True) as folder:
        token, port, dashboard_port = Path(folder, "token"), free_port(), free_port()
        token.write_text("0123456789abcdef" * 4)
        options = {
            "port": port,
            "dashboard-port": dashboard_port,
            "dashboard-agent-listen-port": free_port(),
            "ray-client-server-port": free_port(),
            "num-cpus": 2,
            "temp-dir": f"{folder}/ray",
        }
        command = [str(BIN / "ray"), "start", "--head", "--block", "--disable-usage-stats"]
        command += [f"--{name}={value}" for name, value in options.items()]
        env = {"RAY_AUTH_TOKEN_PATH": str(token)}
        environment = {
            **os.environ,
            **env,
            "RAY_AUTH_MODE": "token",
            "RAY_prestart_worker_first_driver": "0",
            "PATH": f"{BIN}:{os.environ['PATH']}",
        }
        head = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
        dashboard = f"127.0.0.1:{dashboard_port}"
        wait_until(lambda: can_connect(dashboard))
        yield Cluster(
            process=psutil.Process(head.pid),
            logs=Path(folder, "ray", "session_latest", "logs"),
            address=f"127.0.0.1:{port}",
            dashboard=dashboard,
            env=env,
        )
        head.terminate()
        head.wait(60)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Commands have its token, and find out by themselves that it must be sent."""
    with pytest.MonkeyPatch.context() as patch, started_cluster() as cluster:
        patch.delenv("RAY_AUTH_MODE")
        yield cluster


@pytest.fixture
def make_job(tmp_path: Path, face_pack: Path, cluster: Cluster) -> Callable[..., Job]:
    """Jobs whose model and output are shared with the cluster; manifest and photos have to travel."""
    cluster_settings = {"shared_paths": [str(MODEL), str(face_pack), str(tmp_path / "out")], "max_groups": 1}

    def make(rows: list[dict[str, object]], **options: object) -> Job:
        settings = {"cluster": cluster_settings}
        return Job(folder=tmp_path, face_pack=face_pack, rows=rows, settings=settings, env=cluster.env, **options)

    return make


@pytest.mark.slow
def test_a_submitted_run_is_followed_to_its_end_and_never_renders_twice(
    make_job: Callable[..., Job], cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "broken.jpg").write_bytes(HOPPER.read_bytes()[:2000])
    job = make_job([row(), row(HOPPER), row(tmp_path / "broken.jpg")])

    first = job.run("--address", cluster.dashboard, "--follow", "--allow-invalid", command="submit")
    assert first.exit_code == 3, first.stderr
    assert "2 rendered, 1 rejected" in first.stdout
    assert job.num_commits() == 2
    (run,) = (Path(job.output) / "runs").iterdir()
    assert f"job run-{run.name} submitted" in first.stdout
    assert {r["subject_uri"] for r in job.metadata()} == {str(COLLINS), str(HOPPER), str(tmp_path / "broken.jpg")}
    (told,) = read_runs(job.output)
    assert told.record.manifest == str(tmp_path / "manifest.parquet")

    (listed,) = json.loads(cluster.run("jobs", "--json").stdout)["jobs"]
    assert (listed["job"], listed["status"], listed["exit_code"]) == (f"run-{run.name}", "failed", 3)
    assert "2 rendered, 1 rejected" in cluster.run("logs", listed["job"]).stdout
    again = cluster.run("follow", listed["job"])
    assert (again.exit_code, "2 rendered, 1 rejected" in again.stdout) == (3, True)

    second = job.run("--address", cluster.dashboard, "--follow", "--where", "row < 2", command="submit")
    assert second.exit_code == 0, second.stdout
    assert "0 to render, 2 rendered before" in second.stdout


@pytest.mark.slow
def test_a_cancelled_run_says_so_in_its_metadata_and_is_finished_by_the_next(
    make_job: Callable[..., Job], cluster: Cluster
) -> None:
    job = make_job([row(seed=seed) for seed in range(3)], steps=120)
    submitted = job.run("--address", cluster.dashboard, command="submit")
    assert submitted.exit_code == 0, submitted.stderr
    job_id = submitted.stdout.split()[1]
    wait_until(lambda: job.num_commits() >= 1)

    assert cluster.cancel(job_id).stdout == f"job {job_id}: stopped\n"

    (listed,) = (job for job in json.loads(cluster.run("jobs", "--json").stdout)["jobs"] if job["job"] == job_id)
    assert (listed["status"], listed["exit_code"]) == ("stopped", 4)
    assert "stopped: interrupted" in (cluster.logs / f"job-driver-{job_id}.log").read_text(encoding="utf-8")
    counts = Counter(r["outcome"] for r in job.metadata())
    assert counts["abandoned"] >= 1
    assert counts["rendered"] + counts["abandoned"] == 3
    assert job.run("--address", cluster.dashboard, "--follow", command="submit").exit_code == 0
    assert Counter(r["outcome"] for r in job.metadata()) == {"rendered": 3}


def test_nothing_of_a_faulty_run_reaches_the_cluster(make_job: Callable[..., Job]) -> None:
    job = make_job([row(width=100), row(num_frames=10)])
    result = job.run("--address", "127.0.0.1:1", command="submit")
    assert result.exit_code == 2
    assert "row 0: width=100" in result.stderr
    assert "row 1: num_frames=10" in result.stderr
    elsewhere = job.run("--address", "127.0.0.1:1", "--output", "/nowhere/out", command="submit")
    assert elsewhere.exit_code == 2
    assert "output='/nowhere/out': the cluster may not have it" in elsewhere.stderr


def test_who_cannot_be_served_is_told_why(cluster: Cluster) -> None:
    stranger = cluster.cancel("any", RAY_AUTH_TOKEN="f" * 64)
    assert (stranger.exit_code, "wants another token" in stranger.stderr) == (2, True)
    for command in ("cancel", "follow", "logs"):
        unknown = cluster.run(command, "nobody")
        assert (unknown.exit_code, "nobody does not exist" in unknown.stderr) == (2, True), command


@pytest.mark.slow
def test_a_driver_whose_cluster_lost_its_head_says_so_and_keeps_what_is_committed(make_job: Callable[..., Job]) -> None:
    job = make_job([row(seed=seed) for seed in range(6)], steps=8)
    hasty = "from lynx_batch.execution import head; head.MAX_SILENCE_S = 1; from lynx_batch.cli import app; app()"
    with started_cluster() as doomed:
        command = [sys.executable, "-c", hasty, "render", str(job.folder / "run.yaml"), "--address", doomed.address]
        env = {**os.environ, **doomed.env}
        driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
        wait_until(lambda: job.num_commits() >= 1, driver)
        (gcs,) = [child for child in doomed.process.children() if child.name() == "gcs_server"]
        gcs.kill()
        stdout, stderr = driver.communicate(timeout=DEADLINE_S)

    assert driver.returncode == 4, stderr
    assert "stopped: the head of the Ray cluster" in stdout
    counts = Counter(r["outcome"] for r in job.metadata())
    assert counts["abandoned"] >= 1
    assert counts["rendered"] + counts["abandoned"] == 6
