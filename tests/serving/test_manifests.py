"""The manifests, built by kubectl where there is a kustomization, against the schemas of Kubernetes."""

import shlex
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests import manifests

FOLDER = Path(__file__).parents[2] / "serving" / "manifests"


def test_the_kubernetes_manifests_are_valid_and_hang_together() -> None:
    found = manifests.built(FOLDER / "kubernetes")
    kinds = {manifest["kind"]: manifest for manifest in found}
    assert kinds.keys() == {"ConfigMap", "Deployment", "PodDisruptionBudget", "Service"}
    for manifest in found:
        manifests.validate(manifest)
    spec = kinds["Deployment"]["spec"]["template"]["spec"]
    assert kinds["Service"]["spec"]["selector"] == kinds["Deployment"]["spec"]["selector"]["matchLabels"]
    assert spec["securityContext"]["runAsNonRoot"]
    (server,) = spec["containers"]
    assert {port["name"] for port in server["ports"]} == {port["targetPort"] for port in kinds["Service"]["spec"]["ports"]}


def test_a_wrong_manifest_is_found_wrong() -> None:
    (deployment,) = (manifest for manifest in manifests.built(FOLDER / "kubernetes") if manifest["kind"] == "Deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["ports"][0]["containerPort"] = "grpc"
    with pytest.raises(kubernetes_validate.ValidationError, match="grpc"):
        manifests.validate(deployment)


def test_the_compose_file_starts_the_server_on_models_config() -> None:
    (service,) = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"].values()
    assert any("/models.config" in argument for argument in service["command"])
    for volume in service["volumes"]:
        if volume["source"].startswith("."):
            assert (FOLDER / volume["source"]).is_file()
    assert all(shlex.split(argument) for argument in service["command"])


def test_the_containers_of_kserve_would_be_valid_in_a_pod() -> None:
    # The schemas of Kubernetes don't know KServe's own kinds.
    runtime, service = (
        yaml.safe_load(path.read_text()) for path in sorted((FOLDER / "kserve").glob("*.yaml"), reverse=True)
    )
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p"},
        "spec": {"containers": runtime["spec"]["containers"]},
    }
    manifests.validate(pod)
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["modelFormat"] in runtime["spec"]["supportedModelFormats"]
