"""The cluster files, built by kubectl, against the schemas of Kubernetes and its standard for pods."""

import json
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import utils

import cli
from configs import reading, schema
from kubeflow import folders
from tests import manifests

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "kubeflow" / "manifests"
GUIDE = ROOT / "docs" / "kubeflow.md"
FOLDERS = [
    CLUSTER,
    CLUSTER / "one-machine",
    CLUSTER / "metadata",
    CLUSTER / "clean",
    CLUSTER / "flink" / "session",
    ROOT / "serving" / "manifests" / "kubernetes",
]
SECRET = "finetune-metadata"

Pod = dict[str, Any]


def relative(folder: Path) -> str:
    return str(folder.relative_to(ROOT))


@pytest.fixture(scope="module")
def guide() -> str:
    return GUIDE.read_text()


@pytest.mark.parametrize("folder", [CLUSTER, CLUSTER / "one-machine"], ids=relative)
def test_the_cluster_files_are_valid_and_hang_together_with_what_is_compiled(folder: Path) -> None:
    found = manifests.built(folder)
    for manifest in found:
        manifests.validate(manifest)
    kinds = [manifest["kind"] for manifest in found]
    assert (kinds.count("ServiceAccount"), kinds.count("Role"), kinds.count("RoleBinding")) == (1, 1, 1)
    by_kind = {manifest["kind"]: manifest for manifest in found}
    account = by_kind["ServiceAccount"]["metadata"]["name"]
    assert [subject["name"] for subject in by_kind["RoleBinding"]["subjects"]] == [account]
    assert by_kind["RoleBinding"]["roleRef"]["name"] == by_kind["Role"]["metadata"]["name"]
    volume = schema.Config().kubeflow.volume
    manifests.named(found, "PersistentVolumeClaim", volume.claim)
    pods = manifests.pods(found)
    for owner in ("Job/finetune-volume", "Deployment/tensorflow-serving"):
        claims = {
            one["name"]: one["persistentVolumeClaim"]["claimName"]
            for one in pods[owner]["volumes"]
            if "emptyDir" not in one and "configMap" not in one
        }
        assert set(claims.values()) == {volume.claim}
        mounts = [mount for container in pods[owner]["containers"] for mount in container["volumeMounts"]]
        assert {mount["mountPath"] for mount in mounts if mount["name"] in claims} == {volume.path}
    server = next(one for one in found if one["kind"] == "ConfigMap" and "SERVING_DIR" in one["data"])
    assert server["data"]["SERVING_DIR"] == f"{volume.path}/{schema.Config().name}/serving"


def test_what_cleans_has_the_volume_the_store_and_the_configuration_that_the_guide_names() -> None:
    (job,) = manifests.built(CLUSTER / "clean")
    manifests.validate(job)
    pod = manifests.pods([job])["CronJob/finetune-clean"]
    (container,) = pod["containers"]
    mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    volume = schema.Config().kubeflow.volume
    claims = {
        one["name"]: one["persistentVolumeClaim"]["claimName"] for one in pod["volumes"] if "persistentVolumeClaim" in one
    }
    assert {mounts[name]: claim for name, claim in claims.items()} == {volume.path: volume.claim}
    (config,) = (one for one in pod["volumes"] if "configMap" in one)
    assert (
        f"create configmap {config['configMap']['name']} --from-file=photos.yaml"
        in (ROOT / "docs" / "operating.md").read_text()
    )
    command = cli.main.commands[container["args"][0]]
    assert (
        command.make_context("clean", container["args"][1:]).params["config_path"] == f"{mounts[config['name']]}/photos.yaml"
    )
    (variable,) = container["env"]
    assert variable["name"] == folders.METADATA_VARIABLE
    assert variable["valueFrom"]["secretKeyRef"] == {"name": SECRET, "key": "url"}


def test_every_service_finds_its_pods_by_labels_and_names_of_ports() -> None:
    found = manifests.built(CLUSTER)
    services = {one["metadata"]["name"]: one["spec"] for one in found if one["kind"] == "Service"}
    assert services.keys() == {SECRET, "tensorflow-serving"}
    templates = [one["spec"]["template"] for one in found if "template" in one.get("spec", {})]
    for name, service in services.items():
        chosen = [
            template
            for template in templates
            if service["selector"].items() <= template.get("metadata", {}).get("labels", {}).items()
        ]
        assert len(chosen) == 1, name
        offered = {port["name"] for container in chosen[0]["spec"]["containers"] for port in container["ports"]}
        assert {port["targetPort"] for port in service["ports"]} <= offered
    assert manifests.named(found, "StatefulSet", SECRET)["spec"]["serviceName"] in services


@pytest.mark.parametrize("folder", FOLDERS, ids=relative)
def test_all_pods_keep_to_the_restricted_standard(folder: Path) -> None:
    found = manifests.pods(manifests.built(folder))
    assert found
    assert {name: manifests.breaches(pod) for name, pod in found.items()} == {name: [] for name in found}


def test_the_pods_that_the_guide_starts_keep_to_it_too(guide: str) -> None:
    started = [json.loads(one)["spec"] for one in re.findall(r"--overrides='(.*?)'", guide, re.DOTALL)]
    assert len(started) == guide.count("kubectl run ") > 0
    for pod in started:
        assert manifests.breaches(pod) == []
        manifests.validate({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": pod})


def serving_pod() -> Pod:
    deployment = yaml.safe_load((ROOT / "serving" / "manifests" / "kubernetes" / "deployment.yaml").read_text())
    return deployment["spec"]["template"]["spec"]


def without(*keys: str) -> Callable[[Pod], Any]:
    return lambda pod: [pod["securityContext"].pop(key) for key in keys]


def of_container(**settings: Any) -> Callable[[Pod], Any]:
    return lambda pod: pod["containers"][0]["securityContext"].update(settings)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (without("runAsNonRoot"), ["first-version: runAsNonRoot", "server: runAsNonRoot"]),
        (without("seccompProfile"), ["first-version: seccompProfile", "server: seccompProfile"]),
        (lambda pod: pod.pop("securityContext"), None),
        (lambda pod: pod["securityContext"].update(runAsUser=0), ["first-version: runAsUser", "server: runAsUser"]),
        (lambda pod: pod.update(hostNetwork=True), ["hostNetwork"]),
        (lambda pod: pod.update(hostPID=True), ["hostPID"]),
        (lambda pod: pod["volumes"].append({"name": "v", "hostPath": {"path": "/"}}), ["volume v: hostPath"]),
        (lambda pod: pod["volumes"].append({"name": "v", "nfs": {"server": "s", "path": "/"}}), ["volume v: nfs"]),
        (lambda pod: pod["containers"][0]["ports"][0].update(hostPort=8500), ["server: hostPort"]),
        (lambda pod: pod["initContainers"][0]["securityContext"].pop("capabilities"), ["first-version: capabilities.drop"]),
        (lambda pod: pod["containers"][0].pop("securityContext"), None),
        (of_container(runAsNonRoot=False), ["server: runAsNonRoot"]),
        (of_container(runAsUser=0), ["server: runAsUser"]),
        (of_container(seccompProfile={"type": "Unconfined"}), ["server: seccompProfile"]),
        (of_container(allowPrivilegeEscalation=True), ["server: allowPrivilegeEscalation"]),
        (of_container(allowPrivilegeEscalation=None), ["server: allowPrivilegeEscalation"]),
        (of_container(privileged=True), ["server: privileged"]),
        (of_container(capabilities={"drop": ["NET_RAW"]}), ["server: capabilities.drop"]),
        (of_container(capabilities={"drop": ["ALL"], "add": ["SYS_ADMIN"]}), ["server: capabilities.add"]),
        (of_container(capabilities={"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}), []),
    ],
)
def test_a_pod_that_does_not_keep_to_it_is_found(spoil: Callable[[Pod], Any], said: list[str] | None) -> None:
    pod = serving_pod()
    assert manifests.breaches(pod) == []
    spoil(pod)
    found = manifests.breaches(pod)
    assert found == said if said is not None else found


def test_before_there_is_a_model_it_all_fits_on_one_small_machine() -> None:
    found = manifests.built(CLUSTER / "one-machine")
    assert set(manifests.pods(found)) == {
        "Deployment/tensorflow-serving",
        "Job/finetune-volume",
        "StatefulSet/finetune-metadata",
    }
    assert 0 < manifests.requested(found, "cpu") <= Decimal("0.1")
    assert 0 < manifests.requested(found, "memory") <= 2**30
    claim = manifests.named(found, "PersistentVolumeClaim", schema.Config().kubeflow.volume.claim)["spec"]
    assert claim["accessModes"] == ["ReadWriteOnce"]
    large = manifests.named(manifests.built(CLUSTER), "PersistentVolumeClaim", schema.Config().kubeflow.volume.claim)["spec"]
    assert large["accessModes"] == ["ReadWriteMany"]
    small, other = (utils.parse_quantity(one["resources"]["requests"]["storage"]) for one in (claim, large))
    assert small <= 10 * 2**30 < other


def test_what_pods_ask_for_is_the_most_that_they_need_at_once() -> None:
    def container(cpu: str) -> dict[str, Any]:
        return {"resources": {"requests": {"cpu": cpu}, "limits": {"cpu": "7"}}}

    pod = {"initContainers": [container("300m"), container("100m")], "containers": [container("100m"), container("150m")]}
    one = {"kind": "Deployment", "metadata": {"name": "a"}, "spec": {"replicas": 2, "template": {"spec": pod}}}
    unsaid = {"containers": [{"resources": {"limits": {"cpu": "1"}}}]}
    other = {"kind": "Job", "metadata": {"name": "b"}, "spec": {"template": {"spec": unsaid}}}
    assert manifests.requested([one, other], "cpu") == Decimal("1.6")


def test_runs_may_look_at_pods_and_only_the_infra_validator_s_folder_lets_them_make_some() -> None:
    account = "finetune"
    base = manifests.built(CLUSTER)
    may = manifests.rights(base, account)
    assert may["pods"] == {"get"}
    assert may.keys() == {"workflowtaskresults", "workflows", "pods", "configmaps", "secrets"}
    assert not {verb for verbs in may.values() for verb in verbs} & {"*", "delete", "deletecollection", "list", "watch"}
    for manifest in base:
        for rule in manifest.get("rules", ()):
            # Of what may hold secrets, only what has this name.
            assert "resourceNames" in rule or not {"secrets", "configmaps"} & set(rule["resources"])
    validator = manifests.built(CLUSTER / "infra-validator")
    for manifest in validator:
        manifests.validate(manifest)
    may_more = manifests.rights(validator, account)
    assert {"create", "delete", "get"} <= may_more["pods"]
    assert may_more.keys() == {"pods", "pods/log"}
    assert "*" not in may_more["pods"]
    for kustomization in sorted(CLUSTER.rglob("kustomization.yaml")):
        found = manifests.rights(manifests.built(kustomization.parent), account)
        makes_pods = bool(found.get("pods", set()) & {"create", "delete", "patch", "update", "*"})
        assert makes_pods == (kustomization.parent.name == "infra-validator"), kustomization


def test_rights_of_other_accounts_and_unbound_roles_do_not_count() -> None:
    found = manifests.built(CLUSTER)
    assert manifests.rights(found, "default") == {}
    assert manifests.rights([one for one in found if one["kind"] != "RoleBinding"], "finetune") == {}


@pytest.mark.parametrize("file", [GUIDE, CLUSTER / "metadata" / "kustomization.yaml"], ids=relative)
def test_the_secret_that_is_made_by_hand_has_what_the_database_and_the_pipeline_read(file: Path) -> None:
    # Comments and line ends are no part of the command.
    text = re.sub(r"\\\n#?\s*", "", file.read_text())
    (command,) = re.findall(rf"kubectl create secret generic {SECRET} .*", text)
    secret = dict(re.findall(r"--from-literal=(\w+)=(\S+)", command))
    found = manifests.built(CLUSTER)
    (database,) = manifests.pods(found)[f"StatefulSet/{SECRET}"]["containers"]
    values = {one["name"]: one.get("value") for one in database["env"]}
    read = {one["name"]: one["valueFrom"]["secretKeyRef"] for one in database["env"] if "valueFrom" in one}
    assert {one["name"] for one in read.values()} == {SECRET}
    assert secret.keys() == {"url", *(one["key"] for one in read.values())}
    address = folders.metadata_address(secret["url"])
    (port,) = manifests.named(found, "Service", address.host)["spec"]["ports"]
    assert (address.scheme, address.port) == ("mysql", port["port"])
    assert (address.user, address.path) == (values["MARIADB_USER"], f"/{values['MARIADB_DATABASE']}")
    assert address.password == secret[read["MARIADB_PASSWORD"]["key"]]


def test_the_configuration_of_the_guide_is_one_that_compiles(guide: str) -> None:
    blocks = [block.split("```")[0] for block in guide.split("```yaml\n")[1:]]
    configs = [reading.parse(block, "guide", {}) for block in blocks]
    assert configs[0].name == schema.Config().name
    read = [secret.variables for config in configs for secret in config.kubeflow.secrets if secret.name == SECRET]
    assert read
    assert all(variables == {"url": folders.METADATA_VARIABLE} for variables in read)
