"""Kubernetes manifests: built as `kubectl apply --kustomize` would, checked against the schemas and what pods may do."""

import subprocess
import sysconfig
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from kubernetes import utils

VERSION = "1.31"
"""Of Kubernetes, whose schemas count."""
KUBECTL = Path(sysconfig.get_path("scripts"), "kubectl")

_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


def built(folder: Path) -> list[dict[str, Any]]:
    """Build a kustomization."""
    done = subprocess.run([KUBECTL, "kustomize", folder], check=True, capture_output=True, text=True)
    return list(yaml.safe_load_all(done.stdout))


def validate(manifest: dict[str, Any]) -> None:
    """Check a manifest; unknown keys are errors.

    Raises:
      kubernetes_validate.ValidationError: it is wrong.
    """
    kubernetes_validate.validate(manifest, VERSION, strict=True)


def named(found: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    """Return the one manifest of a kind with a name."""
    (manifest,) = (one for one in found if (one["kind"], one["metadata"]["name"]) == (kind, name))
    return manifest


def pods(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the `spec` of the pods that workloads make, by `Kind/name`."""
    specs = {f"{one['kind']}/{one['metadata']['name']}": one["spec"] for one in found if "spec" in one}
    # A CronJob makes jobs, and these make pods.
    templates = {name: spec.get("jobTemplate", {}).get("spec", spec).get("template") for name, spec in specs.items()}
    return {name: template["spec"] for name, template in templates.items() if template}


def breaches(pod: dict[str, Any]) -> list[str]:
    """Return what in a pod the standard `restricted` forbids, a line each.

    https://kubernetes.io/docs/concepts/security/pod-security-standards/ without what only Windows, SELinux and sysctls have.

    Args:
      pod: its `spec`.
    """
    found = [key for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key)]
    for volume in pod.get("volumes", ()):
        kinds = volume.keys() - {"name"}
        # A volume that names no kind is an emptyDir.
        found += [f"volume {volume['name']}: {kind}" for kind in sorted(kinds - _VOLUMES)]
    for container in (*pod.get("initContainers", ()), *pod["containers"], *pod.get("ephemeralContainers", ())):
        found += [f"{container['name']}: {what}" for what in _breaches_of(container, pod.get("securityContext", {}))]
    return found


def _breaches_of(container: dict[str, Any], of_pod: dict[str, Any]) -> Iterator[str]:
    own = container.get("securityContext", {})
    # What a container says goes before what its pod says.
    effective = of_pod | own
    capabilities = own.get("capabilities", {})
    if effective.get("runAsNonRoot") is not True:
        yield "runAsNonRoot"
    if effective.get("runAsUser") == 0:
        yield "runAsUser"
    if effective.get("seccompProfile", {}).get("type") not in {"RuntimeDefault", "Localhost"}:
        yield "seccompProfile"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation"
    if own.get("privileged"):
        yield "privileged"
    if "ALL" not in capabilities.get("drop", ()):
        yield "capabilities.drop"
    if set(capabilities.get("add", ())) - {"NET_BIND_SERVICE"}:
        yield "capabilities.add"
    if own.get("procMount", "Default") != "Default":
        yield "procMount"
    if any(port.get("hostPort") for port in container.get("ports", ())):
        yield "hostPort"


def requested(found: list[dict[str, Any]], resource: str) -> Decimal:
    """Return what all pods together ask for of `cpu`, in cores, or `memory`, in bytes."""
    total = Decimal(0)
    for one in found:
        for pod in pods([one]).values():
            # Containers run together, after one initial container at a time.
            together = sum((_requested(container, resource) for container in pod["containers"]), Decimal(0))
            first = max((_requested(container, resource) for container in pod.get("initContainers", ())), default=together)
            total += one["spec"].get("replicas", 1) * max(together, first)
    return total


def _requested(container: dict[str, Any], resource: str) -> Decimal:
    """A container's request; its limit, which Kubernetes takes, if it has none."""
    resources = container["resources"]
    return utils.parse_quantity({**resources.get("limits", {}), **resources.get("requests", {})}[resource])


def rights(found: list[dict[str, Any]], account: str) -> dict[str, set[str]]:
    """Return the verbs, by resource, that roles give to a service account."""
    given: dict[str, set[str]] = {}
    for binding in (one for one in found if one["kind"] == "RoleBinding"):
        if any((subject["kind"], subject["name"]) == ("ServiceAccount", account) for subject in binding["subjects"]):
            for rule in named(found, binding["roleRef"]["kind"], binding["roleRef"]["name"])["rules"]:
                for resource in rule["resources"]:
                    given.setdefault(resource, set()).update(rule["verbs"])
    return given
