"""The files of `cluster/kuberay/` say what Kubernetes and KubeRay need, pass Pod Security "restricted", and agree with each other."""

import copy
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from lynx_batch.cli import app
from lynx_batch.config import load_run_config
from lynx_batch.execution.labels import selector_of
from lynx_batch.preparation.node_types import node_types_of
from tests.models import ROOT
from tests.pod_security import broken_rules, open_containers

KUBERAY = ROOT / "cluster" / "kuberay"
CRDS = ROOT.parent / "shared" / "reference" / "kuberay"
KUBERNETES = "1.37"

TOKEN_FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount"
RAY_DRAIN_ENV = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
KUBERAY_METRICS_PORT = "metrics"
"""The name of the port that KubeRay adds to each pod, and on which it makes Ray export."""

Document = dict[str, Any]
Change = Callable[[Any], object]


def load(name: str) -> list[Document]:
    return [*yaml.safe_load_all((KUBERAY / name).read_text())]


def patched(document: Any, patch: list[Document]) -> Any:
    """`document` changed by a JSON patch (RFC 6902), as `kubectl patch --type json` does it."""
    changed = copy.deepcopy(document)
    for change in patch:
        *parents, last = change["path"].removeprefix("/").split("/")
        target = changed
        for parent in parents:
            target = target[int(parent) if isinstance(target, list) else parent]
        assert (last in target) == (change["op"] == "replace"), change
        target[last] = change["value"]
    return changed


JOB = load("rayjob.yaml")[0]
CRON_JOB = load("raycronjob.yaml")[0]
QUEUED_JOB = patched(JOB, load("kueue.yaml")[0])
JOB_SPECS = {"rayjob": JOB["spec"], "raycronjob": CRON_JOB["spec"]["jobTemplate"], "kueue": QUEUED_JOB["spec"]}
OTHERS = [
    document for file in sorted(KUBERAY.glob("*.yaml")) if file.stem not in JOB_SPECS for document in load(file.name)
]

HEAD = JOB["spec"]["rayClusterSpec"]["headGroupSpec"]
(WORKER,) = JOB["spec"]["rayClusterSpec"]["workerGroupSpecs"]


def pod(group: Document) -> Document:
    return group["template"]["spec"]


def container(group: Document) -> Document:
    (container,) = pod(group)["containers"]
    return container


def pods(spec: Document) -> Iterator[tuple[str, Document]]:
    """The pods of a run, with the containers that KubeRay adds to them."""
    cluster = spec["rayClusterSpec"]
    yield "submitter", spec["submitterPodTemplate"]["spec"]
    head = copy.deepcopy(pod(cluster["headGroupSpec"]))
    if cluster["enableInTreeAutoscaling"]:
        options = cluster["autoscalerOptions"]
        kept = {key: options[key] for key in ("securityContext", "volumeMounts", "resources")}
        head["containers"].append({"name": "autoscaler", **kept})
    yield "head", head
    for group in cluster["workerGroupSpecs"]:
        worker = copy.deepcopy(pod(group))
        worker["initContainers"] = [{**container(group), "name": "wait-gcs-ready"}]
        yield f"worker {group['groupName']}", worker


def all_pods() -> Iterator[Any]:
    for name, spec in JOB_SPECS.items():
        for role, each in pods(spec):
            yield pytest.param(each, id=f"{name}, {role}")
    (weights,) = [document["spec"]["template"]["spec"] for document in OTHERS if document["kind"] == "Job"]
    yield pytest.param(weights, id="weights")


each_pod = pytest.mark.parametrize("spec", [*all_pods()])
A_POD: Document = dict(pods(JOB["spec"]))["head"]


def strict(schema: Any) -> Any:
    """The schema, but a field that it does not name is an error. Kubernetes would drop such a field."""
    if isinstance(schema, list):
        return [*map(strict, schema)]
    if not isinstance(schema, dict):
        return schema
    inner = {key: strict(value) for key, value in schema.items()}
    return inner | {"additionalProperties": False} if isinstance(schema.get("properties"), dict) else inner


@pytest.fixture(scope="module")
def schemas() -> dict[str, Draft202012Validator]:
    """KubeRay's schema of each kind of job, as its version `v1`."""
    if not CRDS.is_dir():
        pytest.skip(
            "KubeRay's schemas are no part of the project: needs ../shared/reference/kuberay beside the checkout"
        )
    found = {}
    for file in CRDS.glob("ray.io_ray*job*.yaml"):
        resource = yaml.load(file.read_text(), yaml.CSafeLoader)["spec"]
        (schema,) = [each["schema"]["openAPIV3Schema"] for each in resource["versions"] if each["name"] == "v1"]
        found[resource["names"]["kind"]] = Draft202012Validator(strict(schema))
    return found


@pytest.mark.parametrize("document", [JOB, CRON_JOB, QUEUED_JOB], ids=JOB_SPECS.keys())
def test_the_jobs_obey_the_schemas_of_kuberay(document: Document, schemas: dict[str, Draft202012Validator]) -> None:
    assert document["apiVersion"] == "ray.io/v1"
    assert document["metadata"].keys() & {"name", "generateName"}
    schemas[document["kind"]].validate(document)


@pytest.mark.parametrize(
    "change",
    [
        lambda spec: spec.update(backofLimit=0),
        lambda spec: spec.update(preRunningDeadlineSeconds=0),
        lambda spec: spec["rayClusterSpec"].pop("headGroupSpec"),
        lambda spec: spec["rayClusterSpec"]["authOptions"].update(mode="secret"),
        lambda spec: pod(spec["rayClusterSpec"]["headGroupSpec"])["securityContext"].update(fsGroup="1000"),
        lambda spec: container(spec["rayClusterSpec"]["headGroupSpec"])["securityContext"].update(readonlyRoot=True),
    ],
)
def test_the_schemas_find_errors(change: Change, schemas: dict[str, Draft202012Validator]) -> None:
    wrong = copy.deepcopy(JOB)
    change(wrong["spec"])
    assert not schemas["RayJob"].is_valid(wrong)


@pytest.mark.parametrize("document", OTHERS, ids=lambda document: f"{document['kind']} {document['metadata']['name']}")
def test_all_other_documents_obey_the_schemas_of_kubernetes(document: Document) -> None:
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("Job", lambda job: job["spec"].pop("template")),
        ("Job", lambda job: job["spec"]["template"]["spec"].update(containers=None)),
        ("PersistentVolumeClaim", lambda claim: claim["spec"].update(storageClass="shared-files")),
        ("PriorityClass", lambda priority: priority.update(value="-1")),
        ("Secret", lambda secret: secret["stringData"].update(AWS_REGION=2)),
        ("ServiceAccount", lambda account: account.update(automountServiceAccountToken="no")),
    ],
)
def test_errors_in_them_are_found(kind: str, change: Change) -> None:
    wrong = copy.deepcopy(next(document for document in OTHERS if document["kind"] == kind))
    change(wrong)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES, strict=True)


@each_pod
def test_every_pod_passes_pod_security_restricted(spec: Document) -> None:
    assert broken_rules(spec) == []


@each_pod
def test_every_pod_has_a_root_file_system_that_cannot_be_written(spec: Document) -> None:
    assert open_containers(spec) == []


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda pod: pod.update(hostNetwork=True), "hostNetwork"),
        (lambda pod: pod.update(hostPID=True), "hostPID"),
        (lambda pod: pod.update(hostIPC=True), "hostIPC"),
        (lambda pod: pod["volumes"].append({"name": "v", "hostPath": {"path": "/"}}), "volume of type hostPath"),
        (lambda pod: pod["volumes"].append({"name": "v", "nfs": {"path": "/"}}), "volume of type nfs"),
        (lambda pod: pod["securityContext"].update(sysctls=[{"name": "kernel.shmmax"}]), "sysctl kernel.shmmax"),
        (lambda pod: pod["securityContext"].update(runAsUser=0), "runAsUser"),
        (lambda pod: pod["securityContext"].update(runAsNonRoot=False), "ray-head: runAsNonRoot"),
        (lambda pod: pod["securityContext"].pop("runAsNonRoot"), "ray-head: runAsNonRoot"),
        (lambda pod: pod["securityContext"].pop("seccompProfile"), "ray-head: seccompProfile"),
        (lambda pod: pod["securityContext"].update(seccompProfile={"type": "Unconfined"}), "ray-head: seccompProfile"),
        (lambda pod: pod["securityContext"].update(appArmorProfile={"type": "Unconfined"}), "appArmorProfile"),
        (lambda pod: pod["securityContext"].update(seLinuxOptions={"user": "root"}), "seLinuxOptions"),
        (lambda pod: pod["containers"][0].pop("securityContext"), "ray-head: allowPrivilegeEscalation"),
        (lambda pod: pod["containers"][0].pop("securityContext"), "ray-head: capabilities.drop"),
        (lambda pod: pod["containers"][0]["ports"][0].update(hostPort=6379), "ray-head: hostPort"),
        (
            lambda pod: pod["containers"][0].update(livenessProbe={"httpGet": {"host": "metadata"}}),
            "ray-head: host of a probe",
        ),
        (lambda pod: pod["containers"][1]["securityContext"].update(privileged=True), "autoscaler: privileged"),
        (
            lambda pod: pod["containers"][1]["securityContext"].update(allowPrivilegeEscalation=True),
            "autoscaler: allowPrivilegeEscalation",
        ),
        (
            lambda pod: pod["containers"][1]["securityContext"]["capabilities"].update(add=["SYS_PTRACE"]),
            "autoscaler: capabilities.add",
        ),
        (
            lambda pod: pod["containers"][1]["securityContext"]["capabilities"].update(drop=["NET_RAW"]),
            "autoscaler: capabilities.drop",
        ),
        (lambda pod: pod["containers"][1]["securityContext"].update(procMount="Unmasked"), "autoscaler: procMount"),
        (lambda pod: pod["containers"][1]["securityContext"].update(runAsNonRoot=False), "autoscaler: runAsNonRoot"),
        (lambda pod: pod.update(initContainers=[{"name": "init"}]), "init: capabilities.drop"),
    ],
)
def test_a_pod_that_breaks_a_rule_of_restricted_is_found(change: Change, rule: str) -> None:
    wrong = copy.deepcopy(A_POD)
    change(wrong)
    assert rule in broken_rules(wrong)


def test_a_container_that_may_write_to_its_root_is_found() -> None:
    wrong = copy.deepcopy(A_POD)
    del wrong["containers"][1]["securityContext"]["readOnlyRootFilesystem"]
    assert open_containers(wrong) == ["autoscaler"]


@each_pod
def test_a_token_for_kubernetes_is_mounted_for_the_autoscaler_alone(spec: Document) -> None:
    assert spec["automountServiceAccountToken"] is False
    holders = [
        each["name"] for each in spec["containers"] if TOKEN_FOLDER in {m["mountPath"] for m in each["volumeMounts"]}
    ]
    assert set(holders) <= {"autoscaler"}


@each_pod
def test_every_mount_has_its_volume(spec: Document) -> None:
    mounts = {mount["name"] for each in spec["containers"] for mount in each["volumeMounts"]}
    volumes = {volume["name"] for volume in spec["volumes"]}
    assert mounts <= volumes
    assert volumes - mounts <= {"kubernetes-token"}, "only with Kueue, where no autoscaler uses it"


@each_pod
def test_a_pod_says_how_much_of_the_nodes_disk_it_uses(spec: Document) -> None:
    for each in spec["containers"]:
        resources = each["resources"]
        assert resources["requests"] == resources["limits"]
        assert "ephemeral-storage" in resources["limits"]


def test_what_the_program_and_ray_write_to_are_volumes() -> None:
    """Found by rendering with a read-only root file system. KubeRay adds /dev/shm."""
    for group in (HEAD, WORKER):
        mounts = {mount["mountPath"]: mount["name"] for mount in container(group)["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod(group)["volumes"]}
        assert all(volumes[mounts[path]].keys() & {"emptyDir", "ephemeral"} for path in ("/tmp", "/home/ubuntu"))


def test_the_job_ends_with_its_cluster_and_is_not_repeated_by_kuberay() -> None:
    for spec in JOB_SPECS.values():
        assert spec["backoffLimit"] == 0
        assert spec["shutdownAfterJobFinishes"] is True
        assert 0 < spec["preRunningDeadlineSeconds"] < spec["activeDeadlineSeconds"]


def test_the_run_of_every_night_is_the_run_but_for_its_deadline() -> None:
    nightly = CRON_JOB["spec"]["jobTemplate"]
    assert nightly == JOB["spec"] | {"activeDeadlineSeconds": nightly["activeDeadlineSeconds"]}
    assert nightly["activeDeadlineSeconds"] < 24 * 3600, "it has ended when the next one begins"


def test_a_queued_run_waits_for_kueue_and_does_not_scale() -> None:
    assert "kueue.x-k8s.io/queue-name" in QUEUED_JOB["metadata"]["labels"]
    assert QUEUED_JOB["spec"]["suspend"] is True
    assert QUEUED_JOB["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"] is False
    (workers,) = QUEUED_JOB["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert workers["replicas"] == workers["maxReplicas"]


def test_the_cluster_runs_the_pinned_ray_with_token_authentication() -> None:
    cluster = JOB["spec"]["rayClusterSpec"]
    assert f"\nray=={cluster['rayVersion']}\n" in (ROOT / "constraints.txt").read_text()
    assert cluster["authOptions"] == {"mode": "token"}


def test_the_head_takes_no_work_and_no_gpu() -> None:
    assert HEAD["rayStartParams"]["num-cpus"] == "0"
    assert "nvidia.com/gpu" not in container(HEAD)["resources"]["limits"]


def test_all_workers_come_when_they_are_asked_for_and_may_go() -> None:
    assert (WORKER["replicas"], WORKER["minReplicas"]) == (0, 0)
    cluster = JOB["spec"]["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"] is True
    assert (cluster["autoscalerOptions"]["version"], cluster["autoscalerOptions"]["idleTimeoutSeconds"]) == ("v2", 600)


def test_the_run_file_asks_for_the_workers_of_the_files_by_their_labels() -> None:
    (asked,) = node_types_of(load_run_config(ROOT / "jobs" / "campaign.yaml", {}).cluster)
    launched = yaml.safe_load((ROOT / "cluster" / "ray-up.yaml").read_text())["available_node_types"]["h100"]
    assert selector_of(asked) == WORKER["labels"] == launched["labels"]
    assert asked.max_nodes == WORKER["maxReplicas"] == launched["max_workers"]
    assert str(asked.num_gpus) == container(WORKER)["resources"]["limits"]["nvidia.com/gpu"]


def test_the_head_is_on_a_machine_that_is_not_taken_away() -> None:
    assert HEAD["labels"] == {"ray.io/market-type": "on-demand"}
    assert pod(HEAD)["nodeSelector"] != pod(WORKER)["nodeSelector"]


def test_prometheus_finds_the_port_that_kuberay_adds() -> None:
    monitor = yaml.safe_load((ROOT / "cluster" / "podmonitor.yaml").read_text())
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == KUBERAY_METRICS_PORT


def test_a_worker_has_time_to_drain_before_it_is_killed() -> None:
    drain_s = {entry["name"]: entry["value"] for entry in container(WORKER)["env"]}[RAY_DRAIN_ENV]
    assert pod(WORKER)["terminationGracePeriodSeconds"] > float(drain_s)


def test_the_jobs_command_is_one_that_the_command_line_knows() -> None:
    program, command, run_file, *options = shlex.split(JOB["spec"]["entrypoint"])
    assert (program, options) == ("lynx-batch", ["--address", "auto"])
    assert any(run_file.startswith(mount["mountPath"]) for mount in container(HEAD)["volumeMounts"])
    result = CliRunner().invoke(app, [command, str(ROOT / "nowhere.yaml"), *options])
    assert (result.exit_code, "nowhere.yaml" in result.output) == (2, True)


def test_the_weights_are_fetched_to_where_the_run_file_expects_them() -> None:
    model = load_run_config(ROOT / "jobs" / "campaign.yaml", {}).model
    folder = Path(model.base).parent.as_posix()
    (weights,) = [document["spec"]["template"]["spec"] for document in OTHERS if document["kind"] == "Job"]
    for each in (container(HEAD), container(WORKER), weights["containers"][0]):
        assert folder in [mount["mountPath"] for mount in each["volumeMounts"]]
    assert f"LYNX_BATCH_MODELS={folder}\n" in (ROOT / "cluster" / "Containerfile").read_text()
    for command in re.findall(r"lynx-batch [^&]+", weights["containers"][0]["command"][-1]):
        assert CliRunner().invoke(app, [*shlex.split(command)[1:], "--help"]).exit_code == 0


def test_what_a_run_names_is_what_the_setup_makes() -> None:
    made = {(document["kind"], document["metadata"]["name"]) for document in OTHERS}
    named = {
        ("PersistentVolumeClaim", v["persistentVolumeClaim"]["claimName"])
        for v in pod(WORKER)["volumes"]
        if "persistentVolumeClaim" in v
    }
    named |= {("Secret", source["secretRef"]["name"]) for source in container(WORKER)["envFrom"]}
    named |= {
        ("ServiceAccount", pod(WORKER)["serviceAccountName"]),
        ("PriorityClass", pod(WORKER)["priorityClassName"]),
    }
    assert named < made
