"""The files of `cluster/` say what KubeRay, Ray's launcher and the image builder need, and agree with each other."""

import json
import re
import shlex
import tomllib
from collections.abc import Iterable
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.testing import CliRunner

from lynx_batch.cli import app
from lynx_batch.config import load_run_config
from tests.models import ROOT

CLUSTER = ROOT / "cluster"
LOCK = CLUSTER / "requirements.txt"

RAY_DRAIN_ENV = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
RAY_SCHEMA = Path(str(find_spec("ray").origin)).parent / "autoscaler" / "ray-schema.json"


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load((CLUSTER / name).read_text())


@pytest.fixture
def job() -> dict[str, Any]:
    return load("rayjob.yaml")


@pytest.fixture
def head(job: dict[str, Any]) -> dict[str, Any]:
    return job["spec"]["rayClusterSpec"]["headGroupSpec"]


@pytest.fixture
def worker(job: dict[str, Any]) -> dict[str, Any]:
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    return group


def pod(group: dict[str, Any]) -> dict[str, Any]:
    return group["template"]["spec"]


def container(group: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod(group)["containers"]
    return container


def pinned_version(package: str) -> str:
    return re.search(rf"^{package}==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]


def test_the_job_has_the_fields_that_kuberay_needs(job: dict[str, Any], worker: dict[str, Any]) -> None:
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job["metadata"].keys() & {"name", "generateName"}
    assert worker["groupName"]
    assert worker["minReplicas"] <= worker["replicas"] <= worker["maxReplicas"]


def test_the_job_ends_with_its_cluster_and_is_not_repeated_by_kuberay(job: dict[str, Any]) -> None:
    assert job["spec"]["backoffLimit"] == 0
    assert job["spec"]["shutdownAfterJobFinishes"] is True


def test_the_cluster_runs_the_pinned_ray_with_token_authentication(job: dict[str, Any]) -> None:
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == pinned_version("ray")
    assert cluster["authOptions"] == {"mode": "token"}


def test_the_head_takes_no_work_and_no_gpu(head: dict[str, Any]) -> None:
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert "nvidia.com/gpu" not in container(head)["resources"]["limits"]


def test_the_workers_have_the_gpus_that_they_tell_ray_of(worker: dict[str, Any]) -> None:
    resources = container(worker)["resources"]
    assert int(resources["limits"]["nvidia.com/gpu"]) >= 1
    assert resources["limits"] == resources["requests"]
    assert worker["rayStartParams"]["num-gpus"] == resources["limits"]["nvidia.com/gpu"]


def test_prometheus_finds_the_port_on_which_ray_exports(head: dict[str, Any], worker: dict[str, Any]) -> None:
    (endpoint,) = load("podmonitor.yaml")["spec"]["podMetricsEndpoints"]
    for group in (head, worker):
        ports = {port["name"]: str(port["containerPort"]) for port in container(group)["ports"]}
        assert ports[endpoint["port"]] == group["rayStartParams"]["metrics-export-port"]


def test_a_worker_has_time_to_drain_before_it_is_killed(worker: dict[str, Any]) -> None:
    drain_s = {entry["name"]: entry["value"] for entry in container(worker)["env"]}[RAY_DRAIN_ENV]
    assert pod(worker)["terminationGracePeriodSeconds"] > float(drain_s)


def test_every_mount_has_its_volume(head: dict[str, Any], worker: dict[str, Any]) -> None:
    for group in (head, worker):
        mounts = {mount["name"] for mount in container(group)["volumeMounts"]}
        assert mounts == {volume["name"] for volume in pod(group)["volumes"]}


def test_the_jobs_command_is_one_that_the_command_line_knows(job: dict[str, Any], head: dict[str, Any]) -> None:
    program, command, run_file, *options = shlex.split(job["spec"]["entrypoint"])
    assert (program, options) == ("lynx-batch", ["--address", "auto"])
    assert any(run_file.startswith(mount["mountPath"]) for mount in container(head)["volumeMounts"])
    result = CliRunner().invoke(app, [command, str(ROOT / "nowhere.yaml"), *options])
    assert (result.exit_code, "nowhere.yaml" in result.output) == (2, True)


def test_the_weights_are_mounted_where_the_run_file_expects_them(head: dict[str, Any], worker: dict[str, Any]) -> None:
    model = load_run_config(ROOT / "jobs" / "campaign.yaml", {}).model
    for group in (head, worker):
        mounts = [mount["mountPath"] for mount in container(group)["volumeMounts"]]
        assert Path(model.base).parent.as_posix() in mounts
    assert "LYNX_BATCH_MODELS=/models" in (CLUSTER / "Containerfile").read_text()


def test_nobody_is_root(head: dict[str, Any], worker: dict[str, Any]) -> None:
    assert pod(head)["securityContext"]["runAsNonRoot"] is True
    assert pod(worker)["securityContext"]["runAsNonRoot"] is True
    assert re.search(r"^USER ubuntu$", (CLUSTER / "Containerfile").read_text(), re.MULTILINE)


def test_the_launcher_file_obeys_rays_own_schema() -> None:
    jsonschema.validate(load("ray-up.yaml"), json.loads(RAY_SCHEMA.read_text()))


def test_the_launcher_starts_spot_workers_beside_a_head_without_work() -> None:
    config = load("ray-up.yaml")
    types = config["available_node_types"]
    workers = [kind for name, kind in types.items() if name != config["head_node_type"]]
    assert types[config["head_node_type"]]["resources"] == {"CPU": 0}
    assert all(kind["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"} for kind in workers)
    assert sum(kind["min_workers"] for kind in workers) <= config["max_workers"]


def test_the_launchers_cluster_has_token_authentication_too() -> None:
    config = load("ray-up.yaml")
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert "~/.ray/auth_token" in config["file_mounts"]


def test_one_image_of_this_version_is_used_everywhere(head: dict[str, Any], worker: dict[str, Any]) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    images = {container(head)["image"], container(worker)["image"], load("ray-up.yaml")["docker"]["image"]}
    (image,) = images
    assert image.endswith(f"lynx-batch:{version}")
    assert f"--tag {image} " in (CLUSTER / "Containerfile").read_text()


def test_what_the_image_copies_exists() -> None:
    copies = re.findall(r"^COPY (.+)$", (CLUSTER / "Containerfile").read_text(), re.MULTILINE)
    sources = [source for copy in copies for source in copy.split()[:-1]]
    assert {"pyproject.toml", "lynx_batch", "lynx_model"} <= set(sources)
    assert all((ROOT / source).exists() for source in sources)


def test_the_image_installs_nothing_without_a_hash() -> None:
    installs = re.findall(r"pip install (.+)$", (CLUSTER / "Containerfile").read_text(), re.MULTILINE)
    packages, project = map(shlex.split, installs)
    assert {"--require-hashes", "--only-binary"} <= set(packages)
    assert packages[-2:] == ["--requirement", LOCK.relative_to(ROOT).as_posix()]
    assert {"--no-deps", "--no-build-isolation", "--no-index"} <= set(project)


@pytest.fixture(scope="module")
def locked() -> dict[str, list[str]]:
    """The requirements of the lock file, and the hashes of each."""
    entries = LOCK.read_text().replace("\\\n", " ").splitlines()
    return {requirement: hashes for requirement, *hashes in map(str.split, entries)}


def test_every_package_of_the_image_has_hashes_and_comes_from_no_named_place(locked: dict[str, list[str]]) -> None:
    for requirement, hashes in locked.items():
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[^\s;]+", requirement)
        assert hashes, requirement
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", each) for each in hashes), requirement


def versions(requirements: Iterable[str]) -> dict[str, str]:
    """What exactly is asked for, by the name of the package."""
    parsed = map(Requirement, requirements)
    return {canonicalize_name(each.name): str(each.specifier).removeprefix("==") for each in parsed}


def test_the_image_has_the_versions_of_the_constraints(locked: dict[str, list[str]]) -> None:
    pinned = versions((ROOT / "constraints.txt").read_text().splitlines())
    assert versions(locked).items() <= pinned.items()


def test_the_image_has_all_that_the_project_asks_for(locked: dict[str, list[str]]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"].values()
    found = versions(locked)
    for text in [*project["build-system"]["requires"], *project["project"]["dependencies"], *chain(*extras)]:
        asked = Requirement(text)
        assert asked.specifier.contains(found[canonicalize_name(asked.name)]), text
