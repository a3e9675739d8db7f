"""What the compiler writes, against golden files: `python -m tests.kubeflow.test_compiler` writes them anew."""

import itertools
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from kfp import components

from cli import main
from configs import reading, schema
from kubeflow import compiler, groups, parameters, tasks
from pipeline.pipeline import create_pipeline

GOLDEN = Path(__file__).parent / "golden"
IMAGE = "finetune:1"
NIGHTLY = """
name: nightly
data: {source: "/mnt/pictures/{SPAN}", num_spans: 7}
tuning: {trials: 3}
evaluation: {min_accuracy: 0.9, max_accuracy_drop: null, min_recall: 0.6, fail_when_refused: true}
beam: {runner: FlinkRunner, args: ["--flink_master=flink:8081"]}
kubeflow:
  volumes: [{claim: pictures, path: /mnt/pictures}]
  secrets: [{name: metadata, variables: {url: FINETUNE_METADATA_URL}}]
  default: {accelerator: nvidia.com/gpu, retries: 1}
  nodes:
    Trainer: {accelerators: 2, memory: 32Gi, timeout_seconds: 36000, cache: false, node_selector: {pool: gpu},
              tolerations: [{key: nvidia.com/gpu, operator: Equal, value: present, effect: NoSchedule}]}
"""
CONFIGS = {
    "images": "data: {source: /mnt/finetune/pictures}",
    "one_per_node": "data: {source: /mnt/finetune/pictures}\nkubeflow: {tasks: one_per_node}",
    "digits": "data: {source: /mnt/finetune/digits}",
    "nightly": NIGHTLY,
}


def config_of(name: str) -> schema.Config:
    if name != "digits":
        return reading.parse(CONFIGS[name], name, {})
    return reading.load("configs/digits.yaml", ("data.source=/mnt/finetune/digits",))


def compiled(name: str, folder: Path) -> Path:
    path = folder / f"{name}.yaml"
    compiler.compile_pipeline(config_of(name), IMAGE, path)
    return path


@pytest.mark.parametrize("name", CONFIGS)
def test_the_pipeline_is_as_reviewed(name: str, tmp_path: Path) -> None:
    path = compiled(name, tmp_path)
    components.load_component_from_file(str(path))
    assert path.read_text() == (GOLDEN / f"{name}.yaml").read_text(), "python -m tests.kubeflow.test_compiler, and review"


def executors(name: str) -> tuple[dict, dict]:
    """Containers and Kubernetes' side of a golden pipeline, by each node in them."""
    spec, platform = yaml.safe_load_all((GOLDEN / f"{name}.yaml").read_text())
    containers = spec["deploymentSpec"]["executors"]
    sides = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    by_node = {node: key for key, one in containers.items() for node in nodes_of(one["container"])}
    return (
        {node: containers[key]["container"] for node, key in by_node.items()},
        {node: sides[key] for node, key in by_node.items()},
    )


def nodes_of(container: dict) -> list[str]:
    return [word for before, word in itertools.pairwise(container["args"]) if before == "--node"]


def grouped(*settings: str, nodes: str = "ABCDE") -> list[str]:
    config = reading.load(None, settings)
    return ["".join(group.nodes) for group in groups.groups(config, nodes)]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ([], ["ABCDE"]),
        (["kubeflow.nodes={C: {memory: 9Gi}}"], ["AB", "C", "DE"]),
        (["kubeflow.nodes={A: {timeout_seconds: 9}, B: {retries: 0}, E: {cpu: '2'}}"], ["A", "B", "CD", "E"]),
        (["kubeflow.nodes={C: {node_selector: {pool: gpu}}}"], ["AB", "C", "DE"]),
        # The cache is by node in any case, and what all get divides nobody.
        (["kubeflow.nodes={C: {cache: false}}"], ["ABCDE"]),
        (["kubeflow.default={memory: 9Gi, timeout_seconds: 60, tolerations: [{key: x}]}"], ["ABCDE"]),
        (["kubeflow.tasks=one_per_node"], ["A", "B", "C", "D", "E"]),
    ],
)
def test_nodes_without_needs_of_their_own_share_a_pod(settings: list[str], expected: list[str]) -> None:
    assert grouped(*settings) == expected


def test_an_accelerator_for_all_is_for_the_pods_of_what_computes_alone() -> None:
    nodes = ["Transform", "Tuner", "Trainer", "Resolver", "Evaluator", "ServingCheck", "Pusher"]
    config = reading.parse("kubeflow: {default: {accelerator: nvidia.com/gpu}}", "test", {})
    found = groups.groups(config, nodes)
    expected = [("Transform",), ("Tuner",), ("Trainer",), ("Resolver",), ("Evaluator",), ("ServingCheck", "Pusher")]
    assert [group.nodes for group in found] == expected


def test_where_a_refusal_fails_a_run_the_pod_with_the_gate_s_table_ends_well() -> None:
    nodes = ["Trainer", "Evaluator", "ServingCheck", "Pusher"]
    config = reading.load(None, ["evaluation.fail_when_refused=true"])
    assert [group.nodes for group in groups.groups(config, nodes)] == [tuple(nodes[:3]), ("Pusher",)]


def test_a_pod_for_all_has_what_the_greediest_needs_and_time_for_all() -> None:
    config = reading.parse("", "test", {"kubeflow.default": {"timeout_seconds": 100, "retries": 1}})
    light = tasks.of_pod(config, ["SchemaGen", "DataGate"], {"StatisticsGen"})
    heavy = tasks.of_pod(config, ["SchemaGen", "StatisticsGen", "DataGate"], {"StatisticsGen"})
    assert (light.memory, light.timeout_seconds, light.retries) == ("2Gi", 200, 1)
    assert (heavy.memory, heavy.timeout_seconds) == ("8Gi", 300)
    assert tasks.settings(config, "DataGate").timeout_seconds == 100  # in the pod


def test_a_pipeline_without_needs_is_two_pods_with_the_outputs_of_all_nodes() -> None:
    spec, _ = yaml.safe_load_all((GOLDEN / "images.yaml").read_text())
    separate, _ = yaml.safe_load_all((GOLDEN / "one_per_node.yaml").read_text())
    found = [nodes_of(one["container"]) for one in spec["deploymentSpec"]["executors"].values()]
    every = [nodes_of(one["container"]) for one in separate["deploymentSpec"]["executors"].values()]
    assert len(found) == 2
    assert sorted(found[0] + found[1]) == sorted(node for (node,) in every)

    def outputs_of(given: dict) -> set[str]:
        declared = (one.get("outputDefinitions", {}) for one in given["components"].values())
        return {key for one in declared for kind in ("parameters", "artifacts") for key in one.get(kind, {})}

    told = {"up_to_date", "metrics", "confusion", "gate", "blessing", "model_uri", "report"}
    assert outputs_of(spec) == outputs_of(separate) == told


@pytest.mark.parametrize("name", ["images", "nightly", "digits"])
def test_nodes_run_after_those_that_they_need(name: str) -> None:
    needs = {"UpToDate": set()}
    separate, _ = yaml.safe_load_all((GOLDEN / "one_per_node.yaml").read_text())
    for task in separate["components"]["comp-condition-1"]["dag"]["tasks"].values():
        node = task["taskInfo"]["name"]
        needs[node] = set(task.get("dependentTasks", []))
    spec, _ = yaml.safe_load_all((GOLDEN / f"{name}.yaml").read_text())
    dag = spec["components"]["comp-condition-1"]["dag"]["tasks"]
    executors_ = spec["deploymentSpec"]["executors"]

    def nodes(key: str) -> list[str]:
        return nodes_of(executors_[spec["components"][dag[key]["componentRef"]["name"]]["executorLabel"]]["container"])

    def before(key: str) -> set[str]:
        return {one for other in dag[key].get("dependentTasks", []) for one in {*nodes(other), *before(other)}}

    for key in dag:
        done = {node.lower() for node in before(key)}
        for node in nodes(key):
            assert needs.get(node, set()) <= done, node
            done.add(node.lower())


def test_only_what_computes_gets_the_gpu_and_what_a_node_is_given_is_its_own() -> None:
    containers, sides = executors("nightly")
    gpus = {node: one["resources"]["accelerator"] for node, one in containers.items() if "accelerator" in one["resources"]}
    assert {node: gpu["resourceCount"] for node, gpu in gpus.items()} == {"Evaluator": "1", "Trainer": "2", "Tuner": "1"}
    assert {gpu["resourceType"] for gpu in gpus.values()} == {"nvidia.com/gpu"}
    uncached = {node for node, one in containers.items() if "--no-cache" in one["args"]}
    assert uncached == {"Trainer", "UpToDate"}
    assert containers["Trainer"]["resources"]["resourceMemoryLimit"] == "32Gi"
    assert sides["Trainer"]["nodeSelector"] == {"labels": {"pool": "gpu"}}
    assert sides["Trainer"]["tolerations"][0]["effect"] == "NoSchedule"
    assert "tolerations" not in sides["Evaluator"]
    for side in sides.values():
        assert [mount["mountPath"] for mount in side["pvcMount"]] == ["/mnt/finetune", "/mnt/pictures"]
        assert side["secretAsEnv"][0]["keyToEnv"] == [{"envVar": "FINETUNE_METADATA_URL", "secretKey": "url"}]


@pytest.mark.parametrize("name", CONFIGS)
def test_no_container_runs_as_root(name: str) -> None:
    containers, sides = executors(name)
    assert {"UpToDate", "Trainer", "Pusher"} <= containers.keys()
    for node in containers:
        assert sides[node]["securityContext"]["runAsNonRoot"] is True, node
        assert int(sides[node]["securityContext"]["runAsUser"]) > 0, node


@pytest.mark.parametrize("name", CONFIGS)
def test_lost_pods_are_replaced_however_long_all_of_a_task_may_take(name: str) -> None:
    week = 7 * 24 * 3600
    spec, platform = yaml.safe_load_all((GOLDEN / f"{name}.yaml").read_text())
    sides = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    found = {}
    for dag in (spec["root"]["dag"], *(one["dag"] for one in spec["components"].values() if "dag" in one)):
        for task in dag["tasks"].values():
            component = spec["components"][task["componentRef"]["name"]]
            if "executorLabel" in component:
                policy, side = task["retryPolicy"], sides[component["executorLabel"]]
                longest = int(side.get("activeDeadlineSeconds", week))
                window = float(policy["backoffMaxDuration"].removesuffix("s"))
                assert window > longest * (1 + policy["maxRetryCount"]), task["taskInfo"]["name"]
                found[component["executorLabel"]] = longest
    assert found.keys() == sides.keys()
    if name == "nightly":
        # More than the 36000 that the node itself has, or the pod would end before the node can say why.
        assert 36_000 < found["exec-trainer"] < week


def test_the_validator_in_a_pod_is_told_its_namespace(tmp_path: Path) -> None:
    validator = "serving.infra_validator={platform: kubernetes}"
    compiler.compile_pipeline(reading.load(None, ("data.source=/mnt/p", validator)), IMAGE, tmp_path / "p.yaml")
    _, platform = yaml.safe_load_all((tmp_path / "p.yaml").read_text())
    sides = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    told = {name: side["fieldPathAsEnv"] for name, side in sides.items() if "fieldPathAsEnv" in side}
    assert told == {"exec-imageexamplegentorunreport": [{"fieldPath": "metadata.namespace", "name": "KFP_NAMESPACE"}]}


def test_parameters_have_types_defaults_and_meanings() -> None:
    spec, _ = yaml.safe_load_all((GOLDEN / "nightly.yaml").read_text())
    found = spec["root"]["inputDefinitions"]["parameters"]
    assert found["data_source"]["defaultValue"] == "/mnt/pictures/{SPAN}"
    assert (found["data_num_spans"]["defaultValue"], found["data_num_spans"]["parameterType"]) == (7, "NUMBER_INTEGER")
    assert found["evaluation_fail_when_refused"]["parameterType"] == "BOOLEAN"
    assert "evaluation_max_accuracy_drop" not in found, "a bound that is off"
    assert found["evaluation_min_accuracy"]["description"].startswith("evaluation.min_accuracy. Lowest accuracy")
    assert all(one["description"].strip() for one in found.values())


def test_values_of_a_run_become_the_configuration() -> None:
    text = config_of("nightly").model_dump_json()
    config = parameters.with_values(
        text, {"training_batch_size": 16.0, "data_source": "/mnt/{SPAN}", "training_phases_1_epochs": 3.0}
    )
    assert (config.training.batch_size, config.data.source, config.training.phases[1].epochs) == (16, "/mnt/{SPAN}", 3)
    assert parameters.with_values(text, {}) == config_of("nightly")
    with pytest.raises(schema.ConfigError, match=r"parameters of the run: training\.batch_size = 1\.5"):
        parameters.with_values(text, {"training_batch_size": 1.5})


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("kubeflow.parameters=[training.epochs]", "unknown key training.epochs"),
        ("kubeflow.parameters=[training.phases.²]", "unknown key training.phases.²"),
        ("kubeflow.parameters=[evaluation.min_recall]", "evaluation.min_recall = None: a parameter needs"),
        ("kubeflow.nodes={Trainr: {}}", "unknown node Trainr; there are ImageExampleGen"),
        ("kubeflow.default.memory=lots", "kubeflow.default.memory = 'lots'"),
    ],
)
def test_a_configuration_that_can_not_be_compiled_is_refused(setting: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(schema.ConfigError, match=said.replace(".", r"\.")):
        compiler.compile_pipeline(reading.load(None, ("data.source=/mnt/p", setting)), IMAGE, tmp_path / "p.yaml")


@pytest.mark.parametrize("source", [[], ["--data", "photos"]])
def test_pictures_that_no_container_would_see_are_refused(source: list[str]) -> None:
    done = CliRunner().invoke(main, ["kubeflow", "compile", "--image", IMAGE, *source])
    assert done.exit_code == 2
    assert "as the containers see them, e.g. --data /mnt/finetune/photos" in done.stderr


def test_the_schema_is_named_as_the_containers_see_it_and_need_not_be_here(tmp_path: Path) -> None:
    words = ["kubeflow", "compile", "--image", IMAGE, "--data", "/mnt/p", "--output", str(tmp_path / "p.yaml"), "--set"]
    done = CliRunner().invoke(main, [*words, "data.schema_file=/mnt/finetune/schema.pbtxt"])
    assert done.exit_code == 0, done.output
    assert "/mnt/finetune/schema.pbtxt" in (tmp_path / "p.yaml").read_text()
    refused = CliRunner().invoke(main, [*words, "data.schema_file=schema.pbtxt"])
    assert refused.exit_code == 2
    assert "as the containers see it, e.g. /mnt/finetune/schema.pbtxt" in refused.stderr


def flink_settings(**changed: str) -> list[str]:
    given = {"master": "flink:8081", "job_server_jar": "/mnt/finetune/beam.jar", "worker_pool": "localhost:50000"} | changed
    settings = ["beam.runner=flink", *(f"beam.flink.{key}={value}" for key, value in given.items())]
    return [word for setting in settings for word in ("--set", setting)]


def test_flink_and_the_jar_for_it_are_named_as_the_containers_see_them_and_need_not_be_there(tmp_path: Path) -> None:
    words = ["kubeflow", "compile", "--image", IMAGE, "--data", "/mnt/p", "--output", str(tmp_path / "p.yaml")]
    done = CliRunner().invoke(main, [*words, *flink_settings()])
    assert done.exit_code == 0, done.output
    spec, _ = yaml.safe_load_all((tmp_path / "p.yaml").read_text())
    arguments = [one["container"]["args"] for one in spec["deploymentSpec"]["executors"].values()]
    carried = [reading.parse(one[one.index("--config") + 1], "task", {}) for one in arguments]
    assert {(one.beam.runner, one.beam.flink.job_server_jar) for one in carried if one.beam.flink} == {
        ("flink", "/mnt/finetune/beam.jar")
    }


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"job_server_jar": "job-server.jar"}, "as the containers see it, e.g. /mnt/finetune/flink/beam-job-server.jar"),
        ({"master": "localhost:8081"}, "beam.flink.master = localhost:8081: for a container that is itself"),
        ({"master": "127.0.0.1:8081"}, "e.g. finetune-flink-rest:8081"),
    ],
)
def test_flink_that_no_container_would_find_is_refused(changed: dict[str, str], said: str, tmp_path: Path) -> None:
    words = ["kubeflow", "compile", "--image", IMAGE, "--data", "/mnt/p", "--output", str(tmp_path / "p.yaml")]
    done = CliRunner().invoke(main, [*words, *flink_settings(**changed)])
    assert done.exit_code == 2
    assert said in done.stderr
    assert not (tmp_path / "p.yaml").exists()


def test_transform_computes_no_statistics() -> None:
    made = create_pipeline(config_of("images"), pipeline_root="root", serving_dir="serving", work_dir="work")
    (transform,) = (one for one in made.components if one.id == "Transform")
    assert not [name for name in transform.outputs if "stats" in name or "anomalies" in name]


def test_a_schema_that_lies_where_the_nodes_run_makes_its_results_stale_when_it_changes(tmp_path: Path) -> None:
    def fingerprint() -> str | None:
        config = reading.load(None, ("data.source=/mnt/p", f"data.schema_file={tmp_path}/schema.pbtxt"))
        made = create_pipeline(config, pipeline_root="root", serving_dir="serving", work_dir="work")
        (schema_gen,) = (one for one in made.components if one.id == "SchemaGen")
        return schema_gen.exec_properties.get("schema_fingerprint")

    assert fingerprint() is None
    found = set()
    for content in ("one", "two"):
        (tmp_path / "schema.pbtxt").write_text(content)
        found.add(fingerprint())
    assert len(found - {None}) == 2


def test_a_configuration_that_is_too_large_is_refused(tmp_path: Path) -> None:
    recalls = {f"label{number}": 0.5 for number in range(10_000)}
    config = reading.parse("data: {source: /mnt/p}", "test", {"evaluation.min_recall_of": recalls})
    with pytest.raises(compiler.CompileError, match="bytes, 20000 are possible"):
        compiler.compile_pipeline(config, IMAGE, tmp_path / "p.yaml")


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for one in CONFIGS:
        print(compiled(one, GOLDEN))
