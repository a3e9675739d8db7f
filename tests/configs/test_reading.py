from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from configs import reading, schema

READY_MADE = sorted((Path(schema.__file__).parent).glob("*.yaml"))


@pytest.mark.parametrize("path", READY_MADE, ids=lambda path: path.name)
def test_ready_made_configurations_are_valid(path: Path) -> None:
    assert reading.load(path).name == path.stem


def test_what_is_shown_reads_back_as_the_same_configuration(tmp_path: Path) -> None:
    config = reading.load(READY_MADE[0], ("data.source=pictures",))
    path = tmp_path / "shown.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert reading.load(path) == config


@given(
    batch_size=st.integers(1, 4096),
    dropout=st.floats(0, 0.99),
    rate=st.one_of(st.none(), st.floats(1e-9, 10, exclude_min=True)),
    splits=st.tuples(*[st.integers(1, 1000)] * 3),
)
def test_any_valid_configuration_survives_a_round_trip(
    batch_size: int, dropout: float, rate: float | None, splits: tuple[int, int, int]
) -> None:
    phase = {"name": "only", "epochs": 1, "learning_rates": [["head/.*", 0.1], [".*", rate]]}
    values = {
        "data": {"splits": dict(zip(("train", "eval", "test"), splits, strict=True))},
        "training": {"batch_size": batch_size, "phases": [phase]},
        "model": {"dropout": dropout},
    }
    config = schema.Config.model_validate(values)
    assert schema.Config.model_validate(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))) == config


def test_overrides_reach_into_lists_and_the_last_one_wins() -> None:
    config = reading.load(
        None, ("training.phases.1.epochs=7", "evaluation.min_accuracy=0.5", "evaluation.min_accuracy=null")
    )
    assert config.training.phases[1].epochs == 7
    assert config.evaluation.min_accuracy is None


@pytest.mark.parametrize(("word", "read"), [("off", "off"), ("'off'", "off"), ("balanced", "balanced")])
def test_class_weights_may_be_off_without_quotes(word: str, read: str) -> None:
    assert reading.load(None, (f"training.class_weights={word}",)).training.class_weights == read


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.batchsize=1", "did you mean batch_size?"),
        ("training.batch_size=0", "training.batch_size = 0: should be greater than or equal to 1"),
        ("training.phases.9.epochs=1", "a list of 2; expected a number from 0 to 1, found '9'"),
        ("name", "expected KEY=VALUE"),
        ("name.first=x", "name has no keys"),
        ("augmentation.zoom=[1.2, 0.8]", "the lower bound comes first"),
        ("training.phases.0.learning_rates=[['(', 0.1]]", "not a regular expression"),
        ("training.phases.0.learning_rates=[['.*', null]]", "nothing would be trained"),
        ("model.dropout=1", "should be less than 1"),
        ("training.phases.0.warmup_epochs=5", "training.phases.0.warmup_epochs = 5: expected fewer than epochs = 5"),
        ("training.phases.0.learning_rates=[['block6_.*', 0.1], ['.*', null]]", "'block6_.*' matches no variable"),
        ("training.phases.0.learning_rates=[['.*', null], ['head/.*', 0.1]]", "0.1 is never used"),
        ("training.phases.0.learning_rates=[['head/.*', 0.1]]", "no pattern matches block1_conv1/kernel"),
        ("training.phases.0.learning_rates=[['.*', .inf]]", "should be a finite number"),
        ("training.phases.0.layer_decay=0.5", "layer_decay = 0.5: the rules match every block"),
        ("tuning.learning_rate_factor=[10, 0.1]", "the lower bound comes first: [0.1, 10]"),
        ("tuning.dropout=[0.7, 0.2]", "the lower bound comes first: [0.2, 0.7]"),
        ("evaluation.min_accuracy=.nan", "should be"),
        ("model.weights=", "model.weights has no value; write one, or model.weights=null"),
        ("model.weights=  ", "model.weights has no value"),
        *(
            (f"model.weights={empty}", "model.weights has no value")
            for empty in ("#1.h5", "# x", "---", "!!null x", "!!null")
        ),
        ("data.source=my photos #1", "'#1' begins a comment in YAML; put the value in quotes"),
        *(
            (f"{key}=''", f"{key} = '': String should have at least 1 character")
            for key in ("data.source", "data.schema_file")
        ),
        *(
            (f"{key}=''", f"{key} = '': String should have at least 1 character")
            for key in ("model.weights", "serving.base_path")
        ),
        ("training.batch_size=yes", "training.batch_size = True: should be a number"),
        ("model.l2=on", "model.l2 = True: should be a number"),
        ("image.background=[255, no, 0]", "image.background.1 = False: should be a number"),
        ("augmentation.zoom=[yes, 2]", "augmentation.zoom.0 = True: should be a number"),
        ("evaluation.min_recall_of={cat: yes}", "evaluation.min_recall_of.cat = True: should be a number"),
        ("training.seed=010", "010 is read as 8 in YAML; write 8, or put it in quotes"),
        ("training.batch_size=1:30", "1:30 is read as 90 in YAML; write 90, or put it in quotes"),
        ("model.l2=1:30.5", "1:30.5 is read as 90.5 in YAML"),
        ("evaluation.min_recall_of.St. Bernard=0.5", 'write evaluation.min_recall_of={"St. Bernard": 0.5}'),
        ("kubeflow.default.node_selector.kubernetes.io/arch=x", 'kubeflow.default.node_selector={"kubernetes.io/arch": x}'),
        ("evaluation.min_recall_of.a.b.c=0.5", 'write evaluation.min_recall_of={"a.b.c": 0.5}'),
        ("training.phases.²={}", "expected a number from 0 to 1, found '²'"),
        (f"training.phases.{'1' * 5000}.epochs=1", "expected a number from 0 to 1"),
        (
            "beam.runner=flink",
            "runner = flink needs beam.flink.master, beam.flink.job_server_jar and beam.flink.worker_pool",
        ),
        ("beam.flink.master=flink:8081", "beam.flink.worker_pool: is missing"),
        ("beam.flink.master=flink", "beam.flink.master = 'flink': String should match pattern"),
        ("beam.flink.parallelism=0", "beam.flink.parallelism = 0: should be greater than or equal to 1"),
        ("beam.flink.slots=2", "unknown key beam.flink.slots"),
        ("beam.args.0=x", "beam.args is an empty list; set all of it, beam.args=[…]"),
        (f"beam.args={'[' * 3000}", "is nested too deeply"),
        ("data.splits={true: 1}", "the key true is read as True, which is no text; put it in quotes"),
        ("evaluation.min_recall_of={no: 0.5}", "the key no is read as False"),
        ("evaluation.min_recall_of={1: 0.5}", "the key 1 is no text; put it in quotes"),
        ("training.seed=!!int x", "is not a YAML value"),
        ("training.seed=!!timestamp x", "is not a YAML value"),
        ("data.splits={train: 1, train: 2}", "the key train is there twice"),
        ("data.splits={train: }", "the key train has no value"),
        ("kubeflow.nodes.Trainer.memroy=1Gi", "unknown key kubeflow.nodes.Trainer.memroy; did you mean memory?"),
        ("serving.infra_validator.platfrom=docker", "unknown key serving.infra_validator.platfrom; did you mean platform?"),
        ("kubeflow.default.cpu.x=1", "kubeflow.default.cpu has no keys"),
        ("kubeflow.volume.clam=x", "did you mean claim?"),
    ],
)
def test_a_bad_override_is_refused_with_its_key_and_what_is_right(override: str, said: str) -> None:
    with pytest.raises(schema.ConfigError) as error:
        reading.load(None, (override,))
    assert said in str(error.value)
    assert override.partition(".")[0].partition("=")[0] in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ("training.phases.0.epochs=0", "training.phases.1.epochs=0"),
            "--set: training.phases: every phase has epochs = 0: nothing would be trained",
        ),
        (
            ("evaluation.min_accuracy=1", "evaluation.confidence=0.95"),
            "--set: evaluation: min_accuracy = 1 can't be met with confidence = 0.95",
        ),
        (("evaluation.min_top_k_accuracy={3: 1.0}", "evaluation.confidence=0.5"), "min_top_k_accuracy.3 = 1 can't"),
        (("evaluation.min_recall_of={'a': 1.0}", "evaluation.confidence=0.5"), "min_recall_of.a = 1 can't"),
        (
            ("training.early_stopping.monitor=accuracy", "training.early_stopping.min_delta=1"),
            "training.early_stopping.min_delta = 1: accuracy is 0 to 1",
        ),
        (
            ("augmentation.mix=mixup", "training.batch_size=1"),
            "--set: augmentation.mix = mixup mixes the pictures of a batch: training.batch_size must be 2",
        ),
    ],
)
def test_what_can_t_be_met_together_is_refused_with_its_keys(overrides: tuple[str, ...], said: str) -> None:
    with pytest.raises(schema.ConfigError) as error:
        reading.load(None, overrides)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ("training.phases.0.warmup_epochs=4.9",),
        ("training.phases.0.warmup_epochs=3", "training.phases.0.epochs=0"),
        ("training.phases.0.learning_rates=[['head/.*', 0.1]]", "training.phases.0.layer_decay=0.5"),
        ("training.phases.0.learning_rates=[['head/.*', 0.1], ['block[1-3]_.*', null]]", "training.phases.0.layer_decay=1"),
        ("training.phases.0.learning_rates=[['head/.*', 0.1], ['block._.*', null], ['.*', null]]",),
        ("tuning.dropout=[0.3, 0.3]",),
        ("evaluation.min_accuracy=1",),
        ("evaluation.min_accuracy=0.9999", "evaluation.confidence=0.95"),
    ],
)
def test_what_can_just_be_met_is_taken(overrides: tuple[str, ...]) -> None:
    reading.load(None, overrides)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("imagee: {}", "unknown key imagee; did you mean image?"),
        (
            "training: {phases: [{name: a, epochs: 1, learning_rates: [['.*', 1.0]], lr: 1}]}",
            "unknown key training.phases.0.lr",
        ),
        ("serving: {infra_validator: {platfrom: docker}}", "unknown key serving.infra_validator.platfrom; did you mean"),
        ("kubeflow: {nodes: {Trainer: {memroy: 1Gi}}}", "unknown key kubeflow.nodes.Trainer.memroy; did you mean memory?"),
        ("kubeflow: {volumes: [{clam: x, path: /x}]}", "unknown key kubeflow.volumes.0.clam; did you mean claim?"),
        ("model:\n  dropout: 0.1\n  l2: 0\n  dropout: 0.9\n", "line 4: the key dropout is there twice"),
        ("data: {}\nimage: {}\ndata: {}", "line 3: the key data is there twice"),
        ("model:\n  weights:\n", "line 2: the key weights has no value; write one, or null"),
        ("evaluation:\n", "line 1: the key evaluation has no value"),
        ("augmentation: {zoom: [0.8, ]}", "augmentation.zoom"),
        ("beam: {args: [a, , b]}", "not YAML"),
        ("beam:\n  args:\n    - a\n    -\n", "line 4: an item of a list has no value"),
        ("- a", "expected keys"),
        ("a: [", "not YAML"),
        ("[]", "expected keys"),
        ("false", "expected keys"),
        ("0", "expected keys"),
        ('""', "expected keys"),
        ("[" * 3000, "is nested too deeply"),
        ("model: {weights: !!null x}", "line 1: the key weights has no value"),
        ("training:\n  seed: 010\n", "line 2: 010 is read as 8 in YAML"),
        ("training: {batch_size: yes}", "training.batch_size = True: should be a number"),
        ("true: x", "line 1: the key true is read as True, which is no text; put it in quotes"),
        ("1: x", "the key 1 is no text"),
        ("a: !!float x", "not YAML"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(schema.ConfigError, match=r"bad\.yaml") as error:
        reading.load(path)
    assert said in str(error.value)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_file_that_is_not_utf_8_is_told_what_to_do(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes("name: photos # été\n".encode(encoding))
    with pytest.raises(schema.ConfigError, match=r"bad\.yaml: is not UTF-8; save it as UTF-8$"):
        reading.load(path)


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "\ufeffname: images\n", "---\n"])
def test_a_file_without_a_key_is_all_defaults(tmp_path: Path, text: str) -> None:
    (tmp_path / "empty.yaml").write_text(text)
    assert reading.load(tmp_path / "empty.yaml") == schema.Config()


def test_what_is_a_flag_may_be_yes_and_what_is_a_number_may_have_digits_in_groups() -> None:
    config = reading.load(
        None,
        ("training.xla=yes", "data.deduplicate=no", "training.seed=1_000", "model.weights=~", "data.source=2026-13-45"),
    )
    assert (config.training.xla, config.data.deduplicate, config.training.seed) == (True, False, 1000)
    assert config.model.weights is None
    assert config.data.source == "2026-13-45"
    assert reading.load(None, ("data.source='my photos #1'",)).data.source == "my photos #1"


def test_keys_may_be_made_where_any_will_do_and_in_sections_that_are_not_there() -> None:
    config = reading.load(
        None,
        (
            "kubeflow.nodes.Trainer.memory=32Gi",
            "kubeflow.nodes.Trainer.cpu='4'",
            "evaluation.min_recall_of.cat=0.5",
            "serving.infra_validator.platform=docker",
            "kubeflow.default.node_selector.zone=a",
        ),
    )
    assert config.kubeflow.nodes["Trainer"].memory == "32Gi"
    assert config.kubeflow.nodes["Trainer"].cpu == "4"
    assert config.evaluation.min_recall_of == {"cat": 0.5}
    assert config.serving.infra_validator is not None
    assert config.kubeflow.default.node_selector == {"zone": "a"}


def test_a_section_may_take_over_another_and_change_it(tmp_path: Path) -> None:
    path = tmp_path / "merged.yaml"
    path.write_text("kubeflow:\n  default: &all {cpu: '1', memory: 1Gi}\n  nodes:\n    Trainer: {<<: *all, memory: 2Gi}\n")
    config = reading.load(path)
    assert config.kubeflow.nodes["Trainer"].model_dump(exclude_none=True) == {"cpu": "1", "memory": "2Gi"}


def test_a_source_is_taken_as_it_is_written() -> None:
    for name in ("photos 😀", "null", "1e3", "a: b", "{x}", "#x", "'"):
        assert reading.load(None, (), {"data.source": name}).data.source == name


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(schema.ConfigError, match=r"nothing\.yaml: No such file"):
        reading.load(tmp_path / "nothing.yaml")


def test_every_key_has_a_default() -> None:
    assert reading.load() == schema.Config()
