"""The cluster files, built by kubectl, against the schemas of Kubernetes."""

from pathlib import Path

import yaml

from configs import reading, schema
from tests import manifests

ROOT = Path(__file__).parents[2]


def test_the_cluster_files_are_valid_and_hang_together_with_what_is_compiled() -> None:
    found = manifests.built(ROOT / "kubeflow" / "manifests")
    for manifest in found:
        manifests.validate(manifest)
    by_kind = {manifest["kind"]: manifest for manifest in found}
    account = by_kind["ServiceAccount"]["metadata"]["name"]
    assert [subject["name"] for subject in by_kind["RoleBinding"]["subjects"]] == [account]
    assert by_kind["RoleBinding"]["roleRef"]["name"] == by_kind["Role"]["metadata"]["name"]
    volume = schema.Config().kubeflow.volume
    assert by_kind["PersistentVolumeClaim"]["metadata"]["name"] == volume.claim
    for owner in ("Job", "Deployment"):
        spec = by_kind[owner]["spec"]["template"]["spec"]
        claims = {
            one["name"]: one["persistentVolumeClaim"]["claimName"]
            for one in spec["volumes"]
            if "emptyDir" not in one and "configMap" not in one
        }
        assert set(claims.values()) == {volume.claim}
        mounts = [mount for container in spec["containers"] for mount in container["volumeMounts"]]
        assert {mount["mountPath"] for mount in mounts if mount["name"] in claims} == {volume.path}
    server = next(one for one in found if one["kind"] == "ConfigMap" and "SERVING_DIR" in one["data"])
    assert server["data"]["SERVING_DIR"] == f"{volume.path}/{schema.Config().name}/serving"


def test_the_configuration_of_the_guide_is_one_that_compiles() -> None:
    guide = (ROOT / "kubeflow" / "manifests" / "README.md").read_text()
    blocks = [block.split("```")[0] for block in guide.split("```yaml\n")[1:]]
    assert len(blocks) == 2
    for block in blocks:
        reading.parse(block, "guide", {})
    assert yaml.safe_load(blocks[0])["name"] == schema.Config().name
