"""Groups on a real Ray cluster whose nodes join, die and are drained during a run."""

import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DRAIN_NODE_REASON_PREEMPTION

from lynx_batch.config import ClusterConfig, load_run_config
from lynx_batch.execution.cluster import connected
from lynx_batch.execution.group import Group
from lynx_batch.execution.placement import Placements
from lynx_batch.execution.progress import Progress
from lynx_batch.execution.run import render
from lynx_batch.planning import upkeep
from lynx_batch.preparation.model import check_model
from lynx_batch.preparation.selection import Selection
from tests import heads
from tests.builders import row
from tests.jobs import Job, decode, wait_until, worker_settings

pytestmark = [pytest.mark.ray, pytest.mark.slow]

MANY_STEPS = 300  # 5 s of one core of 2026
NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head without slots: tests add the nodes that they need."""
    for name, value in heads.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with tempfile.TemporaryDirectory(prefix="lynx-", ignore_cleanup_errors=True) as folder:
        head = {**NODE, "num_cpus": 0, "include_dashboard": False, "temp_dir": folder}
        cluster = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=False)
        yield cluster
        cluster.shutdown()


@pytest.fixture
def make_job(tmp_path: Path, face_pack: Path) -> Callable[..., Job]:
    def make(num_rows: int, steps: int = 2, **cluster: object) -> Job:
        rows = [row(seed=seed) for seed in range(num_rows)]
        return Job(folder=tmp_path, face_pack=face_pack, rows=rows, steps=steps, settings={"cluster": cluster})

    return make


def states_of_placement_groups(cluster: Cluster) -> list[str]:
    return [entry["state"] for entry in cluster.global_state.placement_group_table().values()]


def states_of_actors(cluster: Cluster) -> list[str]:
    return [entry["State"] for entry in cluster.global_state.actor_table(None).values()]


def ray_jobs(cluster: Cluster) -> int:
    return len(cluster.global_state.job_table())


def groups_of(job: Job) -> set[str]:
    return {event.group for event in job.events()}


def drain(cluster: Cluster, node: Any, within_s: float) -> None:
    deadline_ms = int((time.time() + within_s) * 1000)
    gcs = GcsClient(address=cluster.gcs_address)
    is_accepted, reason = gcs.drain_node(node.node_id, DRAIN_NODE_REASON_PREEMPTION, "spot", deadline_ms)
    assert is_accepted, reason


@pytest.mark.slow(s=200)
def test_a_clip_on_a_node_that_is_drained_continues_elsewhere_with_the_same_picture(
    make_job: Callable[..., Job], cluster: Cluster, tmp_path: Path
) -> None:
    job, doomed = make_job(2, steps=MANY_STEPS), cluster.add_node(**NODE)
    process = job.start("--address", cluster.address)
    wait_until(lambda: job.num_commits() >= 1, process)
    cluster.add_node(**NODE)
    drain(cluster, doomed, within_s=upkeep.SAVE_S)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr

    saved = [event for event in job.events() if "saved after" in (event.error or "")]
    assert [event.error_type for event in saved] == ["NodeDrained"]
    assert [r["attempts"] for r in job.metadata()] == [1, 1]
    assert list(Path(job.output, "resume").iterdir()) == []
    assert set(states_of_placement_groups(cluster)) == {"REMOVED"}

    resumed = {r["clip_id"]: decode(Path(job.output) / r["clip_uri"]) for r in job.metadata()}
    job.output = str(tmp_path / "undisturbed")
    only = "--where", f"row == {saved[0].row}"
    assert job.run("--output", job.output, "--address", cluster.address, *only).exit_code == 0
    for r in job.metadata():
        difference = decode(Path(job.output) / r["clip_uri"]).astype(np.int16) - resumed[str(r["clip_id"])]
        assert abs(difference).max() <= 2, "what x264 may differ by"


def test_a_run_waits_for_its_first_node_even_one_with_fewer_cores_than_gpus(
    make_job: Callable[..., Job], cluster: Cluster
) -> None:
    job = make_job(1, gpus_per_group=2)
    process = job.start("--address", cluster.address)
    wait_until(lambda: ray_jobs(cluster) == 1, process)
    cluster.add_node(**NODE, num_gpus=2)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert "first_node_awaited" in stderr


@pytest.mark.slow(s=170)
def test_a_run_uses_new_nodes_and_survives_the_loss_of_others(make_job: Callable[..., Job], cluster: Cluster) -> None:
    job, first = make_job(12, steps=MANY_STEPS // 2), cluster.add_node(**NODE)
    process = job.start("--address", cluster.address)
    wait_until(lambda: job.num_commits() >= 1, process)
    cluster.add_node(**NODE)
    wait_until(lambda: len(groups_of(job)) == 2, process)
    cluster.remove_node(first, allow_graceful=False)
    _, stderr = process.communicate(timeout=300)

    assert process.returncode == 0, stderr
    assert [r["attempts"] for r in job.metadata()] == [1] * 12
    assert set(states_of_placement_groups(cluster)) == {"REMOVED"}


@pytest.mark.only_chaos
def test_the_loss_of_a_node_with_all_its_loading_groups_is_one_fault(
    make_job: Callable[..., Job], cluster: Cluster
) -> None:
    job, doomed = make_job(6), cluster.add_node(**{**NODE, "num_cpus": 4})
    process = job.start("--address", cluster.address)
    wait_until(lambda: states_of_actors(cluster).count("ALIVE") == 4, process)
    cluster.add_node(**NODE)
    cluster.remove_node(doomed, allow_graceful=False)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert stderr.count('"group_lost"') >= 4


@pytest.mark.only_chaos
def test_a_run_whose_groups_no_longer_fit_any_node_says_so_and_stops(
    make_job: Callable[..., Job], cluster: Cluster
) -> None:
    wide = cluster.add_node(**{**NODE, "num_cpus": 2})
    job = make_job(40, steps=MANY_STEPS // 4, gpus_per_group=2)
    process = job.start("--address", cluster.address, "--set", "retry.give_up_after_s=20")
    wait_until(lambda: job.num_commits() >= 1, process)
    cluster.add_node(**NODE)
    cluster.remove_node(wide, allow_graceful=False)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 4, stderr
    assert "no node has room for a group that the waiting clips need" in stdout


def test_a_group_that_ends_is_replaced_in_the_same_placement(make_job: Callable[..., Job], cluster: Cluster) -> None:
    cluster.add_node(**NODE)
    job = make_job(2, max_clips_per_group=1)
    result = job.run("--address", cluster.address)
    assert result.exit_code == 0, result.stderr
    assert groups_of(job) == {"g0", "g1"}
    assert states_of_placement_groups(cluster) == ["REMOVED"], "there was only one"


@pytest.mark.only_chaos
def test_a_group_that_misses_the_model_is_a_fault_of_its_machine_once_another_was_ready(
    tmp_path: Path, face_pack: Path
) -> None:
    pack, hidden = tmp_path / "pack", tmp_path / "hidden"
    shutil.copytree(face_pack, pack)
    cluster = {"cluster": {"max_clips_per_group": 1, "max_groups": 1}}
    job = Job(folder=tmp_path, face_pack=pack, rows=[row(seed=0), row(seed=1)], settings=cluster)
    was_loading: list[bool] = []

    def hide_the_pack_from_the_second_group(progress: Progress) -> None:
        if progress.num_rendered and not was_loading:
            pack.rename(hidden)
        if progress.num_rendered:
            was_loading.append(progress.num_groups_loading > 0)
        if hidden.exists() and was_loading[-2:] == [True, False]:
            hidden.rename(pack)

    config = load_run_config(job.folder / "run.yaml", {})
    summary = render(
        config, Selection(), is_unsafe_allowed=False, announce=lambda _: None, watch=hide_the_pack_from_the_second_group
    )
    assert not summary.stopped_by
    assert groups_of(job) == {"g0", "g2"}


def test_a_group_that_is_not_ready_in_time_ends_the_run_and_says_so(make_job: Callable[..., Job]) -> None:
    result = make_job(1, ready_within_s=0.01).run()
    assert result.exit_code == 4
    assert "none was ever ready" in result.stdout
    assert "not ready after cluster.ready_within_s=0.01; its placement group is" in result.stdout


@pytest.mark.slow(s=90)
def test_a_stuck_group_is_ended_and_its_clip_rendered_by_another(
    make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    # many times what the clip takes: the other group must not be late
    monkeypatch.setattr(upkeep, "UNPREDICTED_CLIP_S", 20.0)
    job, stopped = make_job(1, steps=MANY_STEPS // 4, max_groups=1), list[psutil.Process]()

    def stop_the_first_worker(progress: Progress) -> None:
        if progress.running and not stopped:
            children = psutil.Process().children(recursive=True)
            stopped.extend(child for child in children if any("ray::Worker" in part for part in child.cmdline()))
            for worker in stopped:
                worker.send_signal(signal.SIGSTOP)

    config = load_run_config(job.folder / "run.yaml", {})
    summary = render(
        config, Selection(), is_unsafe_allowed=False, announce=lambda text: None, watch=stop_the_first_worker
    )

    assert not summary.stopped_by
    assert [r["attempts"] for r in job.metadata()] == [1]
    lost = [event for event in job.events() if event.error_type == "GroupLost"]
    assert ["20 s without an answer" in str(event.error) for event in lost] == [True]
    assert not any(worker.is_running() for worker in stopped)


def test_placement_groups_are_always_removed(make_job: Callable[..., Job], cluster: Cluster) -> None:
    cluster.add_node(**{**NODE, "num_cpus": 2})
    config = load_run_config(make_job(1).folder / "run.yaml", {"cluster.address": cluster.address})
    settings = worker_settings(config, check_model(config), run_id=f"{datetime.now(UTC):%H%M%S}")
    with connected(config.cluster) as slots:
        placements = Placements(slots)
        for number in range(20):
            placement = placements.take(1 + number % 2)
            group = Group(f"g{number}", settings, placement, ClusterConfig())
            group.end()
            placements.release(placement)
        placements.remove_all()
        wait_until(lambda: set(states_of_placement_groups(cluster)) == {"REMOVED"})
        wait_until(lambda: ray.available_resources().get("CPU", 0) == 2)
    assert len(states_of_placement_groups(cluster)) <= 20
