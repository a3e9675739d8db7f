"""The steps of an acceptance, in their order; each says what it saw, and raises where that is wrong."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from kubeflow import status
from modules import weights
from tests.acceptance import Step
from tests.cluster.cluster import MOUNT, ROOT, Cluster, every, relative, run
from tests.e2e.conftest import CONFIG, finetune, write_some_digits

_RESTRICTED = {
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "runAsGroup": 1000,
    "seccompProfile": {"type": "RuntimeDefault"},
}
_LONG_TRAINING = 30
"""Epochs, so that there is time to disturb it."""
_OUTLIVING_TRAINING = 200
"""Epochs, so that it lasts longer than the container of a pod that was deleted by force."""


def all_of(cluster: Cluster) -> Iterator[Step]:
    """Yield the steps."""
    acceptance = Acceptance(cluster)
    for step, needed in (
        (acceptance.image_is_there, True),
        (acceptance.manifests_are_applied, True),
        (acceptance.pictures_are_copied, True),
        (acceptance.a_run_publishes, True),
        (acceptance.manifests_and_pods_keep_to_restricted, False),
        (acceptance.the_same_again_is_over_after_one_task, False),
        (acceptance.more_pictures_train_a_newer_version, False),
        (acceptance.a_refused_model_is_red_and_changes_nothing, False),
        (acceptance.training_goes_on_after_its_process_and_its_pod_were_lost, False),
        (acceptance.a_run_is_cancelled, False),
        (acceptance.a_change_of_schedule_ends_no_run, False),
        (acceptance.a_missing_service_account_is_named, False),
        (acceptance.the_live_version_answers, False),
    ):
        yield step.__name__.replace("_", "-"), step, needed


class Acceptance:
    """What is done to a cluster.

    Args:
      cluster: under test.
    """

    def __init__(self, cluster: Cluster):
        self.cluster = cluster
        self.name = cluster.name
        self.pipeline = str(cluster.folder / "pipeline.yaml")
        self.published = ""
        """The id of the first run."""
        self.task_of: dict[str, str] = {}
        """Key of each node's task."""

    def image_is_there(self) -> None:
        if self.cluster.load:
            run("sh", "-c", self.cluster.load, seconds=1800)
        print(f"  image {self.cluster.image}, all names begin with {self.name}")

    def manifests_are_applied(self) -> None:
        cluster = self.cluster
        if cluster.host_path:
            self._make_volumes(cluster.host_path)
        folder = self._overlay()
        cluster.undo(lambda: cluster.kubectl("delete", "pvc", f"data-{self.name}-finetune-metadata-0", "--ignore-not-found"))
        cluster.undo(lambda: cluster.kubectl("delete", "--kustomize", folder, "--ignore-not-found", "--wait"))
        cluster.kubectl("apply", "--kustomize", folder)
        cluster.kubectl("wait", "--for=condition=complete", f"job/{self.name}-finetune-volume", "--timeout=300s")
        print(f"  {cluster.kubectl('logs', f'job/{self.name}-finetune-volume').strip()}")
        cluster.kubectl("rollout", "status", f"statefulset/{self.name}-finetune-metadata", "--timeout=300s")
        print("  the database for ML Metadata is ready")

    def _make_volumes(self, host_path: str) -> None:
        """Volumes of the node, for the image's user and the database's, with a pod that makes their folders."""
        # The namespace of the runs lets no pod see the node's files.
        self.cluster.undo(lambda: run("kubectl", "delete", "namespace", self.name, "--ignore-not-found"))
        self.cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.name}})
        claims = {f"{self.name}-finetune": 1000, f"data-{self.name}-finetune-metadata-0": 999}
        for claim, user in claims.items():
            volume = {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": claim},
                "spec": {
                    "capacity": {"storage": "20Gi"},
                    "accessModes": ["ReadWriteOnce", "ReadWriteMany"],
                    "persistentVolumeReclaimPolicy": "Retain",
                    "hostPath": {"path": f"{host_path}/{claim}", "type": "DirectoryOrCreate"},
                    "claimRef": {"namespace": self.cluster.namespace, "name": claim},
                },
            }
            self.cluster.apply(volume)
            self.cluster.undo(lambda claim=claim: self.cluster.kubectl("delete", "pv", claim, "--ignore-not-found"))
            self._as_root(f"{claim}-owner", host_path, f"mkdir -p /host/{claim} && chown {user}:{user} /host/{claim}")
            self.cluster.undo(lambda claim=claim: self._as_root(f"{claim}-gone", host_path, f"rm -rf /host/{claim}"))

    def _as_root(self, name: str, host_path: str, script: str) -> None:
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": self.name},
            "spec": {
                "restartPolicy": "Never",
                "containers": [
                    {
                        "name": "main",
                        "image": self.cluster.image,
                        "command": ["sh", "-c", script],
                        "securityContext": {"runAsUser": 0},
                        "volumeMounts": [{"name": "host", "mountPath": "/host"}],
                    }
                ],
                "volumes": [{"name": "host", "hostPath": {"path": host_path, "type": "DirectoryOrCreate"}}],
            },
        }
        there = ("kubectl", "--namespace", self.name)
        run(*there, "apply", "--filename", "-", stdin=yaml.safe_dump(pod))
        run(*there, "wait", "--for=jsonpath={.status.phase}=Succeeded", f"pod/{name}", "--timeout=180s")
        run(*there, "delete", "pod", name)

    def _overlay(self) -> str:
        """A kustomization of the manifests under names of their own."""
        folder = self.cluster.folder / "manifests"
        folder.mkdir(exist_ok=True)
        password = "with/a#few@signs:?"
        probe = f"/v1/models/{self.name}/metadata"
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namePrefix": f"{self.name}-",
            "resources": [relative(ROOT / self.cluster.manifests, folder)],
            "generatorOptions": {"disableNameSuffixHash": True},
            "secretGenerator": [
                {
                    "name": "finetune-metadata",
                    "literals": [
                        f"password={password}",
                        f"url=mysql://finetune:{password}@{self.name}-finetune-metadata:3306/metadata",
                    ],
                }
            ],
            "labels": [{"pairs": {"accepted-by": self.name}, "includeSelectors": True}],
            "patches": [
                {
                    "target": {"kind": "Deployment", "name": "tensorflow-serving"},
                    "patch": yaml.safe_dump(
                        [
                            {
                                "op": "replace",
                                "path": f"/spec/template/spec/containers/0/{kind}/httpGet/path",
                                "value": probe,
                            }
                            for kind in ("readinessProbe", "startupProbe")
                        ]
                    ),
                },
                {
                    "target": {"kind": "ConfigMap", "name": "tensorflow-serving-[^b].*"},
                    "patch": yaml.safe_dump(
                        [{"op": "replace", "path": "/data/SERVING_DIR", "value": f"{MOUNT}/{self.name}/serving"}]
                    ),
                },
            ],
        }
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return str(folder)

    def manifests_and_pods_keep_to_restricted(self) -> None:
        namespace = f"{self.name}-restricted"
        self.cluster.undo(lambda: run("kubectl", "delete", "namespace", namespace, "--ignore-not-found"))
        labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
        self.cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}})
        folder = str(self.cluster.folder / "manifests")
        done = run("kubectl", "apply", "--kustomize", folder, "--namespace", namespace)
        assert "would violate PodSecurity" not in done.err, done.err
        for _ in every(2, 60):
            pods = run("kubectl", "get", "pods", "--namespace", namespace, "--output", "name").out.split()
            if len(pods) == 3:
                break
        assert len(pods) == 3, f"pods that were let in: {pods}"
        print("  the volume's job, the database and TensorFlow Serving are let into a restricted namespace")
        self._pods_keep_to_restricted(self.published)

    def pictures_are_copied(self) -> None:
        cluster = self.cluster
        cluster.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": f"{self.name}-files"},
                "spec": {
                    "securityContext": _RESTRICTED,
                    "containers": [
                        {
                            "name": "files",
                            "image": cluster.image,
                            "command": ["sleep", "14400"],
                            "resources": {"requests": {"cpu": "1m", "memory": "16Mi"}},
                            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                            "volumeMounts": [{"name": "volume", "mountPath": MOUNT}],
                        }
                    ],
                    "volumes": [{"name": "volume", "persistentVolumeClaim": {"claimName": f"{self.name}-finetune"}}],
                },
            }
        )
        cluster.undo(
            lambda: cluster.kubectl("delete", "pod", f"{self.name}-files", "--ignore-not-found", "--grace-period=1")
        )
        cluster.kubectl("wait", "--for=condition=ready", f"pod/{self.name}-files", "--timeout=300s")
        write_some_digits(cluster.folder / "all", cluster.folder / "photos")
        self._copy(str(cluster.folder / "photos"), "photos")
        # Keras's own format under a name that means another one.
        shutil.copy(str(weights.locate("imagenet")), cluster.folder / "weights.h5")
        self._copy(str(cluster.folder / "weights.h5"), "weights.h5")
        print(f"  {cluster.in_pod('sh', '-c', f'find {MOUNT}/photos -type f | wc -l; ls -l {MOUNT}').out.strip()}")

    def _copy(self, path: str, name: str) -> None:
        self.cluster.kubectl("cp", path, f"{self.cluster.namespace}/{self.name}-files:{MOUNT}/{name}")

    def a_run_publishes(self) -> None:
        config = yaml.safe_load(CONFIG)
        config |= {
            "name": self.name,
            "data": {"source": f"{MOUNT}/photos", "splits": {"train": 6, "eval": 1, "test": 3}},
            "model": {"weights": f"{MOUNT}/weights.h5"},
            # A picture more or less decides nothing here; that a worse model is refused has a step of its own.
            "evaluation": config["evaluation"] | {"max_accuracy_drop": 0.1},
            # So that a long training is one.
            "training": config["training"] | {"early_stopping": {"patience": None}},
            "kubeflow": {
                "volume": {"claim": f"{self.name}-finetune", "path": MOUNT},
                "tasks": self.cluster.tasks_setting,
                "default": {"cpu": "50m", "memory": "3Gi", "retry_seconds": 5},
                "secrets": [
                    {"name": f"{self.name}-finetune-metadata", "variables": {"url": "FINETUNE_METADATA_URL"}},
                ],
            },
        }
        path = self.cluster.folder / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        compiled = ["compile", "--config", str(path), "--image", self.cluster.image, "--output", self.pipeline]
        done = finetune("kubeflow", *compiled)
        assert done.code == 0, done.err
        spec, _ = yaml.safe_load_all(Path(self.pipeline).read_text())
        self.task_of = {node: key for key, nodes in status.nodes_of(spec).items() for node in nodes}
        print(f"  {len(set(self.task_of.values()))} tasks for {len(self.task_of)} nodes, UpToDate among them")
        self.cluster.undo(self.cluster.forget_runs)
        run_id, out = self._run()
        assert "verdict        published" in out, out
        assert f"version        {self.cluster.live()}" in out
        assert self._agrees(run_id, out)[self.task_of["Trainer"]] == ["Succeeded"]
        # Every task had an account that may do no more than it needs.
        rights = self.cluster.kubectl("auth", "can-i", "create", "pods", "--as", self._account(), check=False).strip()
        assert rights == "no", f"may the account create pods? {rights}"
        self.published = run_id

    def _account(self) -> str:
        return f"system:serviceaccount:{self.cluster.namespace}:{self.name}-finetune"

    def _submit(self, **parameters: Any) -> str:
        given = [word for key, value in parameters.items() for word in ("--parameter", f"{key}={value}")]
        account = ["--service-account", f"{self.name}-finetune"]
        return self.cluster.finetune("submit", "--pipeline", self.pipeline, *account, *given).out.strip()

    def _run(self, code: int = 0, **parameters: Any) -> tuple[str, str]:
        """Run to the end; return the id and what was printed."""
        run_id = self._submit(**parameters)
        return run_id, self._follow(run_id, code)

    def _follow(self, run_id: str, code: int = 0) -> str:
        done = self.cluster.finetune("status", run_id, "--follow", check=False)
        assert done.code == code, f"ended with {done.code}, not {code}"
        again = self.cluster.finetune("status", run_id, check=False)
        assert again.code == code, "status says something else the second time"
        return again.out + again.err

    def _agrees(self, run_id: str, out: str) -> dict[str, list[str]]:
        """Check a status against the pods; return those, by task."""
        pods = self.cluster.tasks(run_id)
        words = (line.split() for line in out.splitlines())
        said = {one[0]: one[1] for one in words if len(one) > 1 and one[0] in self.task_of}
        assert said.keys() == self.task_of.keys(), "status lists all nodes"
        for key, phases in pods.items():
            states = [state for node, state in said.items() if self.task_of[node] == key]
            ended = [state for state in states if state in {"done", "cached"}]
            if phases[-1] == "Succeeded":
                assert ended == states, f"{key}: status says {states}, its pods {phases}"
            else:
                # One of its nodes did not end well, and those behind it never began.
                rest = states[len(ended) :]
                assert states[: len(ended)] == ended, f"{key}: status says {states}, its pods {phases}"
                assert rest[0] in {"failed", "cancelled"}, f"{key}: status says {states}, its pods {phases}"
                assert set(rest[1:]) <= {"skipped"}, f"{key}: status says {states}, its pods {phases}"
        for node, state in said.items():
            assert state not in {"done", "cached"} or self.task_of[node] in pods, f"{node} is {state}, and has no pod"
        print(f"  kubectl says the same of {len(pods)} tasks")
        return pods

    def _pods_keep_to_restricted(self, run_id: str) -> None:
        """Have the server judge copies of a run's pods in the restricted namespace."""
        listed = json.loads(
            self.cluster.kubectl("get", "pods", "--selector", f"pipeline/runid={run_id}", "--output", "json")
        )
        for pod in listed["items"]:
            spec = pod["spec"] | {"serviceAccountName": "default", "serviceAccount": "default"}
            spec.pop("nodeName", None)
            for container in [*spec["containers"], *spec.get("initContainers", [])]:
                mounts = [m for m in container["volumeMounts"] if "serviceaccount" not in m["mountPath"]]
                container["volumeMounts"] = mounts
            spec["volumes"] = [one for one in spec["volumes"] if not one["name"].startswith("kube-api-access")]
            copy = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "copy"}, "spec": spec}
            place = ["--namespace", f"{self.name}-restricted", "--dry-run=server", "--filename", "-"]
            done = run("kubectl", "create", *place, stdin=json.dumps(copy), check=False)
            assert done.code == 0, done.err
        print(f"  the {len(listed['items'])} pods of the run would be let into a restricted namespace")

    def the_same_again_is_over_after_one_task(self) -> None:
        before = self.cluster.live()
        run_id, out = self._run()
        assert self._agrees(run_id, out) == {"uptodate": ["Succeeded"]}
        assert "verdict        up to date" in out
        assert self.cluster.live() == before

    def more_pictures_train_a_newer_version(self) -> None:
        before = self.cluster.live()
        more = self.cluster.folder / "more"
        for label in "01234":
            (more / label).mkdir(parents=True)
            for path in sorted((self.cluster.folder / "all" / label).iterdir())[80:120]:
                shutil.copy(path, more / label)
        self._copy(f"{more}/.", "photos")
        run_id, out = self._run()
        assert self.task_of["Trainer"] in self._agrees(run_id, out)
        assert "verdict        published" in out
        assert self.cluster.live() > before
        print(f"  version {before}, then {self.cluster.live()}")

    def a_refused_model_is_red_and_changes_nothing(self) -> None:
        before = self.cluster.live()
        worse = {"training_batch_size": 256, "training_phases_0_epochs": 1, "training_phases_1_epochs": 0}
        bounds = {"evaluation_min_accuracy": 1.0, "evaluation_fail_when_refused": "true"}
        run_id, out = self._run(code=1, **worse, **bounds)
        assert self._agrees(run_id, out)[self.task_of["Pusher"]] == ["Failed"]
        assert "verdict        refused" in out
        assert "evaluation.min_accuracy" in out
        assert self.cluster.live() == before

    def training_goes_on_after_its_process_and_its_pod_were_lost(self) -> None:
        cluster = self.cluster
        before = cluster.live()
        run_id = self._submit(training_phases_0_epochs=_OUTLIVING_TRAINING)
        pod = cluster.pod_of(run_id, self.task_of["Trainer"])
        cluster.wait_for_log(pod, f"head epoch 3/{_OUTLIVING_TRAINING}")
        kill = (
            "import os, pathlib\n"
            "for one in pathlib.Path('/proc').glob('[0-9]*/cmdline'):\n"
            "    if b'\\0-m\\0kubeflow.node_process\\0' in one.read_bytes(): os.kill(int(one.parent.name), 9)"
        )
        cluster.kubectl("exec", pod, "--container", "main", "--", "python3", "-c", kill)
        cluster.wait_for_log(pod, "this may pass, tried again in 5 s")
        cluster.wait_for_log(pod, "training goes on where it was interrupted")
        print(f"  {pod}: the process was killed, and training goes on in the same pod")
        cluster.wait_for_log(pod, f"head epoch 5/{_OUTLIVING_TRAINING}")
        uid = cluster.uid_of(pod)
        cluster.kubectl("delete", "pod", pod, "--grace-period=0", "--force")
        started = time.monotonic()
        done = cluster.finetune("status", run_id, "--follow", check=False)
        if done.code:
            print("  the server did not replace the pod; finetune kubeflow retry")
            cluster.finetune("retry", run_id)
            done = cluster.finetune("status", run_id, "--follow", check=False)
        assert done.code == 0, "the run did not end well"
        print(f"  ended {time.monotonic() - started:.0f} s after its pod was deleted")
        assert "verdict        published" in done.out, done.out
        # Argo gives the pod that takes its place the very same name.
        assert cluster.uid_of(pod) != uid, "no pod took the place of the one that was deleted"
        logs = cluster.kubectl("logs", pod, "--container", "main")
        goes_on = next((line for line in logs.splitlines() if "training goes on where it was interrupted" in line), None)
        assert goes_on is not None, "it did not go on"
        assert f"head epoch 1/{_OUTLIVING_TRAINING}" not in logs, "it began anew"
        print(f"  a new {pod} took its place: {goes_on.partition(': ')[2]}")
        assert cluster.live() > before

    def a_run_is_cancelled(self) -> None:
        run_id = self._submit(data_num_spans=1, training_phases_1_epochs=3)
        self.cluster.pod_of(run_id, "uptodate")
        self.cluster.finetune("cancel", run_id)
        out = self._follow(run_id, code=1)
        assert "run            cancelled" in out, out

    def a_change_of_schedule_ends_no_run(self) -> None:
        cluster, name = self.cluster, f"{self.name}-nightly"
        schedule = ["schedule", "--pipeline", self.pipeline, "--name", name, "--service-account", f"{self.name}-finetune"]
        # The last training is what this configuration would find cached.
        same = ["--parameter", f"training_phases_0_epochs={_LONG_TRAINING}"]
        cluster.finetune(*schedule, "--every", "20", *same)
        run_id = self._first_of(name)
        changed = cluster.finetune(*schedule, "--every", "86400")
        assert f"is disabled, and goes when its run {run_id} ends" in changed.err, changed.err
        out = self._follow(run_id)
        # What it started stays, though the schedule that was replaced is removed.
        assert self._agrees(run_id, out)["uptodate"] == ["Succeeded"]
        left = self._recurring(name)
        assert [one.status for one in left] == ["ENABLED"], left
        assert left[0].trigger.periodic_schedule.interval_second == "86400"
        cluster.finetune("change-schedule", "disable", name)
        assert [one.status for one in self._recurring(name)] == ["DISABLED"]
        unsure = cluster.finetune("change-schedule", "delete", name, check=False)
        assert unsure.code == 2
        cluster.finetune("change-schedule", "delete", name, "--yes")
        assert not self._recurring(name)

    def _recurring(self, name: str) -> list[Any]:
        with self.cluster.server() as server:
            listed = server.pages(server.api.list_recurring_runs, "recurring_runs", namespace=self.cluster.namespace)
            return [one for one in listed if one.display_name == name]

    def _first_of(self, name: str) -> str:
        """The id of the first run of a schedule, once it runs."""
        (recurring,) = self._recurring(name)
        for _ in every(3, 180):
            with self.cluster.server() as server:
                runs = server.pages(
                    server.api.list_runs,
                    "runs",
                    experiment_id=recurring.experiment_id,
                    namespace=self.cluster.namespace,
                )
                for one in runs:
                    if one.recurring_run_id == recurring.recurring_run_id:
                        return one.run_id
        raise AssertionError(f"{name} started nothing in 3 minutes")

    def a_missing_service_account_is_named(self) -> None:
        submit = ["submit", "--pipeline", self.pipeline, "--service-account", f"{self.name}-nobody"]
        run_id = self.cluster.finetune(*submit).out.strip()
        done = self.cluster.finetune("status", run_id, "--follow", check=False)
        assert done.code == 1
        assert f"{self.name}-nobody" in done.err, done.err

    def the_live_version_answers(self) -> None:
        cluster, serving = self.cluster, f"{MOUNT}/{self.name}/serving"
        done = cluster.in_pod(
            "sh", "-c", f"finetune predict --model {serving} $(find {MOUNT}/photos/3 -name '*.png' | sort | head -5)"
        )
        labels = [json.loads(line)["label"] for line in done.out.splitlines()]
        print(f"  five pictures of 3 are called {labels}")
        assert labels.count("3") >= 3
        verified = cluster.in_pod("finetune", "models", "verify", str(cluster.live()), "--serving-dir", serving)
        print(f"  {verified.out.strip()}")
        if cluster.serving:
            cluster.kubectl("rollout", "status", f"deployment/{self.name}-tensorflow-serving", "--timeout=300s")
            endpoint = f"grpc://{self.name}-tensorflow-serving:8500/{self.name}"
            print(f"  {cluster.in_pod('finetune', 'serve-check', '--endpoint', endpoint, '--model', serving).out}")
