"""A run on a cluster without any GPU: Ray's own autoscaler brings the nodes that it asks for, and lets them go."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import heads
from tests.autoscaling import AutoscaledCluster, autoscaled_cluster
from tests.builders import row
from tests.jobs import Job, wait_until
from tests.models import MODEL

pytestmark = [pytest.mark.ray, pytest.mark.slow(s=200)]

SHORT, LONG = 2, 900  # steps; the second takes 15 s of one core of 2026
SPOT = {"ray.io/accelerator-type": "A100", "ray.io/market-type": "spot"}
TYPES = {
    "spot": {"resources": {"CPU": 1, "GPU": 1}, "labels": SPOT, "max_workers": 2},
    "steady": {
        "resources": {"CPU": 1, "GPU": 1},
        "labels": {"ray.io/accelerator-type": "A100", "ray.io/market-type": "on-demand"},
        "max_workers": 2,
    },
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[AutoscaledCluster]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in heads.ENVIRONMENT.items():
            patch.setenv(name, value)
        with autoscaled_cluster(TYPES) as cluster:
            yield cluster


@pytest.fixture
def make_job(tmp_path: Path, face_pack: Path, cluster: AutoscaledCluster) -> Callable[..., Job]:
    def make(rows: list[dict[str, object]], **node_type: object) -> Job:
        paths = [str(MODEL), str(face_pack), str(tmp_path), str(Path(str(rows[0]["subject_uri"])).parent)]
        machines = {"address": cluster.address, "shared_paths": paths, "node_types": [node_type]}
        return Job(folder=tmp_path, face_pack=face_pack, rows=rows, settings={"cluster": machines})

    return make


def test_nodes_come_for_the_clips_of_a_run_and_each_goes_once_no_clip_waits_for_it(
    make_job: Callable[..., Job], cluster: AutoscaledCluster
) -> None:
    rows = [row(num_inference_steps=SHORT, priority=1), row(num_inference_steps=LONG)]
    job = make_job(rows, gpu="A100", gpus=1, max=3, spot=True, usd_per_hour=1.5)
    assert cluster.look().nodes == {}

    driver = job.start()
    wait_until(lambda: cluster.look().nodes == {"spot": 2}, driver)
    wait_until(lambda: job.num_commits() == 1, driver)
    wait_until(lambda: cluster.look().nodes == {"spot": 1}, driver)
    assert job.num_commits() == 1, "the long clip is still being rendered"
    _, stderr = driver.communicate(timeout=job.deadline_s)
    wait_until(lambda: cluster.look().nodes == {})

    assert driver.returncode == 0, stderr
    assert [r["outcome"] for r in job.metadata()] == ["rendered"] * 2
    assert max(seen.num_asked for _, seen in cluster.log) == 2, "as many as there are clips"
    assert not any("steady" in seen.nodes for _, seen in cluster.log)


def test_a_run_for_which_no_node_comes_in_time_says_which_labels_it_asked_for(
    make_job: Callable[..., Job], cluster: AutoscaledCluster
) -> None:
    ended = make_job([row()], gpu="H200", gpus=8, max=1).run("--set", "cluster.ready_within_s=2")
    assert ended.exit_code == 4, ended.stderr
    assert "no node of the type 8xH200 came within cluster.ready_within_s=2" in ended.stdout
    assert "select: ray.io/accelerator-type: H200, ray.io/market-type: !spot" in ended.stdout
    wait_until(lambda: cluster.look().num_asked == 0)


def test_a_killed_driver_leaves_nothing_asked_for(make_job: Callable[..., Job], cluster: AutoscaledCluster) -> None:
    job = make_job([row()], gpu="H200", gpus=8, max=1)
    driver = job.start()
    wait_until(lambda: cluster.look().num_asked > 0, driver)
    driver.kill()
    driver.communicate()
    wait_until(lambda: cluster.look().num_asked == 0)
    assert cluster.look().nodes == {}
