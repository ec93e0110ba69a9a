"""The rules of Kubernetes' Pod Security Standard "restricted", and what this project asks of its pods beyond that.

Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/, the version of Kubernetes 1.35. Rules about Windows are left
out: our pods run on Linux.
"""

from collections.abc import Iterator
from typing import Any

VOLUMES = {
    *(
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    )
}
SAFE_SYSCTLS = {
    *("kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start"),
    *("net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range", "net.ipv4.ip_local_reserved_ports"),
    *("net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl"),
    *("net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"),
}
SELINUX_TYPES = {None, "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
PROFILES = {"RuntimeDefault", "Localhost"}
PROBES = ("livenessProbe", "readinessProbe", "startupProbe")


def broken_rules(pod: dict[str, Any]) -> list[str]:
    """What the specification of a pod breaks of "restricted": nothing, if it may run."""
    broken = [*_broken_by_pod(pod)]
    for container in _containers(pod):
        broken += [f"{container['name']}: {rule}" for rule in _broken_by(container, pod.get("securityContext", {}))]
    return broken


def open_containers(pod: dict[str, Any]) -> list[str]:
    """Containers that may write to their root file system."""
    return [
        container["name"]
        for container in _containers(pod)
        if not container.get("securityContext", {}).get("readOnlyRootFilesystem")
    ]


def _containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod["containers"], *pod.get("initContainers", []), *pod.get("ephemeralContainers", [])]


def _broken_by_pod(pod: dict[str, Any]) -> Iterator[str]:
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(name):
            yield name
    for volume in pod.get("volumes", []):
        yield from (f"volume of type {kind}" for kind in volume.keys() - {"name"} - VOLUMES)
    context = pod.get("securityContext", {})
    for sysctl in context.get("sysctls", []):
        if sysctl["name"] not in SAFE_SYSCTLS:
            yield f"sysctl {sysctl['name']}"
    yield from _broken_by_either(context)


def _broken_by(container: dict[str, Any], of_pod: dict[str, Any]) -> Iterator[str]:
    context = container.get("securityContext", {})
    both = of_pod | context  # a container's value takes the place of its pod's
    capabilities = context.get("capabilities", {})
    if context.get("privileged"):
        yield "privileged"
    if context.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation"
    if "ALL" not in capabilities.get("drop", []):
        yield "capabilities.drop"
    if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield "capabilities.add"
    if both.get("runAsNonRoot") is not True:
        yield "runAsNonRoot"
    if both.get("seccompProfile", {}).get("type") not in PROFILES:
        yield "seccompProfile"
    if context.get("procMount", "Default") != "Default":
        yield "procMount"
    if any(port.get("hostPort") for port in container.get("ports", [])):
        yield "hostPort"
    handlers = [container.get(probe, {}) for probe in PROBES] + list(container.get("lifecycle", {}).values())
    if any(handler.get(kind, {}).get("host") for handler in handlers for kind in ("httpGet", "tcpSocket")):
        yield "host of a probe"
    yield from _broken_by_either(context)


def _broken_by_either(context: dict[str, Any]) -> Iterator[str]:
    """What neither a pod nor a container may say."""
    selinux = context.get("seLinuxOptions", {})
    if context.get("runAsUser") == 0:
        yield "runAsUser"
    if selinux.get("type") not in SELINUX_TYPES or selinux.get("user") or selinux.get("role"):
        yield "seLinuxOptions"
    if context.get("appArmorProfile", {}).get("type", "RuntimeDefault") not in PROFILES:
        yield "appArmorProfile"
