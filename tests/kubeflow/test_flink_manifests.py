"""Flink's cluster files: against the schemas of Kubernetes, each other, their guide, and the Beam that is installed."""

import importlib.metadata
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from apache_beam.options import pipeline_options
from kubernetes import utils

from configs import reading, schema
from tests import manifests

ROOT = Path(__file__).parents[2]
FLINK = ROOT / "kubeflow" / "manifests" / "flink"
MAIN, WORKERS, FIRST = "flink-main-container", "workers", "job-server-jar"
VOLUME = schema.Config().kubeflow.volume

Pods = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def session() -> list[dict[str, Any]]:
    return manifests.built(FLINK / "session")


@pytest.fixture(scope="module")
def operator() -> dict[str, Any]:
    return manifests.named(manifests.built(FLINK / "operator"), "FlinkDeployment", "finetune-flink")


@pytest.fixture(scope="module")
def guide() -> str:
    return (ROOT / "docs" / "flink.md").read_text()


@pytest.fixture(scope="module")
def flink(guide: str) -> schema.Flink:
    """Of the guide's configuration."""
    (block,) = (block.split("```")[0] for block in guide.split("```yaml\n")[1:])
    config = reading.parse(block, "guide", {})
    assert config.beam.runner == "flink"
    assert config.beam.flink is not None
    return config.beam.flink


def pods_of(session: list[dict[str, Any]]) -> Pods:
    found = manifests.pods(session)
    return {
        "job manager": found["Deployment/finetune-flink"],
        "task manager": found["Deployment/finetune-flink-taskmanager"],
    }


def pods_of_operator(operator: dict[str, Any]) -> Pods:
    keys = {"job manager": "jobManager", "task manager": "taskManager"}
    return {name: operator["spec"][key]["podTemplate"]["spec"] for name, key in keys.items()}


def containers(pod: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in (*pod.get("initContainers", ()), *pod["containers"])}


def flink_conf(session: list[dict[str, Any]]) -> dict[str, str]:
    (data,) = (one["data"] for one in session if one["kind"] == "ConfigMap")
    lines = [line for line in data["flink-conf.yaml"].splitlines() if line and not line.startswith("#")]
    found = dict(line.split(": ", 1) for line in lines)
    assert len(found) == len(lines), "a key twice"
    return found


def mounts(container: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["mountPath"]: one for one in container["volumeMounts"]}


def test_the_session_cluster_is_valid_and_keeps_to_the_restricted_standard(session: list[dict[str, Any]]) -> None:
    for manifest in session:
        manifests.validate(manifest)
    assert {name: manifests.breaches(pod) for name, pod in pods_of(session).items()} == {
        "job manager": [],
        "task manager": [],
    }


def test_so_do_the_pods_that_the_operator_is_asked_for(operator: dict[str, Any]) -> None:
    for pod in pods_of_operator(operator).values():
        manifests.validate({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": pod})
        assert manifests.breaches(pod) == []
    (account,) = (one for one in manifests.built(FLINK / "operator") if one["kind"] == "ServiceAccount")
    manifests.validate(account)
    assert operator["spec"]["serviceAccount"] == account["metadata"]["name"]


def test_both_say_the_same_of_flink(session: list[dict[str, Any]], operator: dict[str, Any]) -> None:
    spec = operator["spec"]
    of_operator = {
        # What the operator sets itself: names and ports that are its own, and memory from the resources.
        "jobmanager.rpc.address": operator["metadata"]["name"],
        "jobmanager.rpc.port": "6123",
        "blob.server.port": "6124",
        "taskmanager.rpc.port": "6122",
        "jobmanager.memory.process.size": spec["jobManager"]["resource"]["memory"],
        "taskmanager.memory.process.size": spec["taskManager"]["resource"]["memory"],
    }
    assert not of_operator.keys() & spec["flinkConfiguration"].keys()
    # Earlier versions of the operator take nothing but text.
    assert {type(value) for value in spec["flinkConfiguration"].values()} == {str}
    assert flink_conf(session) == of_operator | spec["flinkConfiguration"]


def test_both_make_the_same_pods(session: list[dict[str, Any]], operator: dict[str, Any]) -> None:
    ours, theirs = pods_of(session), pods_of_operator(operator)
    # These the operator fills in itself.
    filled = {"image", "args", "ports", "resources", "startupProbe", "livenessProbe", "readinessProbe"}
    for name, pod in ours.items():
        other = theirs[name]
        assert pod["securityContext"] == other["securityContext"]
        assert [one for one in pod["volumes"] if one["name"] != "configuration"] == other["volumes"]
        main, other_main = containers(pod)[MAIN], containers(other)[MAIN]
        assert mounts(main).keys() - mounts(other_main).keys() == {"/opt/flink/conf"}
        assert {key: main[key] for key in main.keys() - filled - {"volumeMounts"}} == {
            key: other_main[key] for key in other_main.keys() - {"volumeMounts"}
        }
        assert main["image"] == operator["spec"]["image"]
        for key in (WORKERS, FIRST):
            assert containers(pod).get(key) == containers(other).get(key)
    replicas = manifests.named(session, "Deployment", "finetune-flink-taskmanager")["spec"]["replicas"]
    assert replicas == operator["spec"]["taskManager"]["replicas"]
    for name, key in (("job manager", "jobManager"), ("task manager", "taskManager")):
        asked = utils.parse_quantity(containers(ours[name])[MAIN]["resources"]["requests"]["cpu"])
        assert float(asked) == operator["spec"][key]["resource"]["cpu"]


def test_memory_and_ports_are_those_of_flink_s_configuration(session: list[dict[str, Any]]) -> None:
    conf, pods = flink_conf(session), pods_of(session)
    for name, key in (("job manager", "jobmanager"), ("task manager", "taskmanager")):
        resources = containers(pods[name])[MAIN]["resources"]
        # Flink's m are Kubernetes' Mi.
        process = conf[f"{key}.memory.process.size"] + "i"
        assert resources["requests"]["memory"] == resources["limits"]["memory"] == process.replace("mi", "Mi")
    ports = {one["name"]: one["containerPort"] for pod in pods.values() for one in containers(pod)[MAIN]["ports"]}
    assert ports == {
        "rpc": int(conf["jobmanager.rpc.port"]),
        "blob": int(conf["blob.server.port"]),
        "rest": 8081,
        "taskmanager-rpc": int(conf["taskmanager.rpc.port"]),
    }
    services = {one["metadata"]["name"]: one["spec"] for one in session if one["kind"] == "Service"}
    assert {port["name"]: port["port"] for port in services[conf["jobmanager.rpc.address"]]["ports"]} == {
        "rpc": ports["rpc"],
        "blob": ports["blob"],
    }
    labels = manifests.named(session, "Deployment", "finetune-flink")["spec"]["template"]["metadata"]["labels"]
    other = manifests.named(session, "Deployment", "finetune-flink-taskmanager")["spec"]["template"]["metadata"]["labels"]
    for service in services.values():
        assert service["selector"].items() <= labels.items()
        assert not service["selector"].items() <= other.items()
        assert all(port["targetPort"] == port["name"] for port in service["ports"])


def test_the_guide_s_configuration_names_what_the_cluster_has(session: list[dict[str, Any]], flink: schema.Flink) -> None:
    host, port = flink.master.split(":")
    (rest,) = manifests.named(session, "Service", host)["spec"]["ports"]
    assert (rest["name"], rest["port"]) == ("rest", int(port))
    workers = containers(pods_of(session)["task manager"])[WORKERS]
    host, port = flink.worker_pool.split(":")
    assert host == "localhost", "the pool is in the same pod"
    assert f"--service_port={port}" in workers["command"]
    assert [one["containerPort"] for one in workers["ports"]] == [int(port)]


def test_the_jar_goes_from_beam_s_image_to_the_volume_the_task_managers_and_the_runs_and_not_to_the_job_manager(
    session: list[dict[str, Any]], flink: schema.Flink
) -> None:
    pods = pods_of(session)
    found = containers(pods["task manager"])
    claims = {
        one["name"]: one["persistentVolumeClaim"]["claimName"]
        for one in pods["task manager"]["volumes"]
        if "persistentVolumeClaim" in one
    }
    (name,) = claims
    assert claims[name] == VOLUME.claim
    for whole in (found[FIRST], found[WORKERS]):
        assert mounts(whole)[VOLUME.path]["name"] == name
        assert not mounts(whole)[VOLUME.path].get("readOnly")
    assert f"jar={flink.job_server_jar}\n" in found[FIRST]["command"][-1]
    # Of the volume, Flink's half sees the jar alone.
    (jar,) = (one for one in mounts(found[MAIN]).values() if one["name"] == name)
    assert f"{VOLUME.path}/{jar['subPath']}" == flink.job_server_jar
    assert jar["readOnly"]
    assert re.fullmatch(r"/opt/flink/lib/[^/]+\.jar", jar["mountPath"])
    (job_manager,) = pods["job manager"]["containers"]
    assert "initContainers" not in pods["job manager"]
    assert all(one["name"] in {"configuration", "scratch"} for one in job_manager["volumeMounts"])


def test_the_versions_are_those_of_the_beam_that_is_installed(
    session: list[dict[str, Any]], operator: dict[str, Any], guide: str
) -> None:
    beam = importlib.metadata.version("apache-beam")
    found = containers(pods_of(session)["task manager"])
    flink_version, tag = re.fullmatch(r"apache/beam_flink(.+)_job_server:(.+)", found[FIRST]["image"]).groups()
    assert tag == beam
    assert flink_version in pipeline_options.FlinkRunnerOptions.PUBLISHED_FLINK_VERSIONS
    assert found[MAIN]["image"].startswith(f"flink:{flink_version}-")
    assert operator["spec"]["flinkVersion"] == f"v{flink_version.replace('.', '_')}"
    assert f"org.apache.beam:beam-runners-flink-{flink_version}-job-server:{beam}" in guide
    for folder in ("session", "operator"):
        assert "registry.example/finetune:1" in str(manifests.built(FLINK / folder))


def test_what_the_guide_s_commands_name_is_there(session: list[dict[str, Any]], guide: str) -> None:
    commands = "\n".join(re.findall(r"```sh\n(.*?)```", guide, re.DOTALL))
    there = {f"{one['kind'].lower()}/{one['metadata']['name']}" for one in session} | {"flinkdeployment/finetune-flink"}
    named = set(re.findall(r"\b(?:deployment|svc|flinkdeployment)/[\w-]+", commands))
    assert named
    assert {one.replace("svc/", "service/") for one in named} <= there
    assert set(re.findall(r"--container ([\w-]+)", guide)) <= {MAIN, WORKERS, FIRST}
    for folder in re.findall(r"--kustomize kubeflow/manifests/flink/(\w+)", commands):
        assert (FLINK / folder / "kustomization.yaml").exists()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda pod: containers(pod)[WORKERS].update(comand=["python"]),
        lambda pod: containers(pod)[WORKERS]["resources"]["limits"].update(memory=["4Gi"]),
        lambda pod: containers(pod)[MAIN].pop("name"),
    ],
)
def test_a_pod_of_the_operator_that_is_wrong_is_found(spoil: Callable[[dict[str, Any]], Any]) -> None:
    operator = manifests.named(manifests.built(FLINK / "operator"), "FlinkDeployment", "finetune-flink")
    pod = pods_of_operator(operator)["task manager"]
    spoil(pod)
    with pytest.raises(Exception, match=r"comand|memory|name"):
        manifests.validate({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": pod})
