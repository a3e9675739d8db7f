"""The typed configuration: every key, its unit, its default and what is allowed. `configs.reading` reads one."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from configs import endpoints, rules

Text = Annotated[str, Field(min_length=1)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Channel = Annotated[int, Field(ge=0, le=255)]
HostPort = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+:[0-9]{1,5}$")]
_NAMED_GROUP = "(?P<"
LearningRateRule = tuple[str, Annotated[float, Field(gt=0.0)] | None]


class ConfigError(ValueError):
    """A configuration that can't be used; the message names each key, its value and what is allowed."""


def _lower_first(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"the lower bound comes first: [{bounds[1]:g}, {bounds[0]:g}]")
    return bounds


def _of_a_model(endpoint: str) -> str:
    if endpoints.parse(endpoint).version is not None:
        raise ValueError("the version is the one that is published; expected an endpoint without /versions/N")
    return endpoint


class _Section(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class Splits(_Section):
    """Shares of the pictures in each split, where they are not put there by hand: a hash of its pixels decides."""

    train: Annotated[int, Field(ge=1, le=1000)] = 8
    """Parts of the sum that are fitted."""
    eval: Annotated[int, Field(ge=1, le=1000)] = 1
    """Parts of the sum that early stopping watches."""
    test: Annotated[int, Field(ge=1, le=1000)] = 1
    """Parts of the sum that the gate uses, and nothing else."""


class RecordFeatures(_Section):
    """Where the tf.Examples of a TFRecord source hold what is needed."""

    image: Text = "image"
    """Feature with the encoded picture."""
    label: Text = "label"
    """Feature with the label, bytes or int64."""
    split: Text | None = None
    """Feature with the split, train, eval or test; null lets the content decide."""


class Data(_Section):
    """Where the pictures come from, and what is asked of them before anything is trained."""

    source: Text | None = None
    """A folder with one subfolder per class, or with train, eval and test above the classes; a manifest, `.csv` or `.jsonl`,
    with path, label and, if wanted, split; or TFRecords of tf.Examples, e.g. `records/*.tfrecord.gz`.

    `{SPAN}` in it, or `{YYYY}`, `{MM}` and `{DD}`, stands for the latest span. A relative path starts at the working
    directory.
    """
    num_spans: Annotated[int, Field(ge=1, le=10000)] = 1
    """How many of the latest spans are read, a rolling window."""
    splits: Splits = Splits()
    features: RecordFeatures = RecordFeatures()
    group: Text | None = None
    """What says which pictures belong together, those of one patient, product or video, and so are in one split: a column of
    the manifest, a feature of the records, or, with `(?P<group>…)` in it, a regular expression that is searched in each
    path."""
    near_copies: Literal["warn", "same_split", "refuse"] = "warn"
    """What becomes of one photograph that is there more than once, resized, cropped a little or saved again, in several
    splits: it is told, or shares the strictest of these splits, or the data are refused."""
    deduplicate: bool = True
    """Count copies of one picture, equal in all pixels, once; they share a split in any case."""
    shard_megabytes: Annotated[float, Field(gt=0.0, le=10000.0)] = 128
    """About the size of an output file, in 10^6 bytes."""
    schema_file: Text | None = None
    """A TFMD schema (text format) that the data must keep to, e.g. one that an earlier run inferred; null infers it. Runs
    read it where it lies: on Kubeflow, on a volume of the containers."""
    max_rejected_fraction: Fraction = 0.01
    """Share of files that may be unusable before the run fails; what is no picture, by name and content, does not count."""
    min_images_per_class: Annotated[int, Field(ge=1)] = 5
    """Fewest pictures of each class in the train split."""
    unreadable: Literal["refuse", "allow"] = "refuse"
    """Whether a folder, an archive, a manifest or TFRecords may be left out that can't be read to the end, or isn't looked
    into."""
    similar_labels: Literal["refuse", "allow"] = "refuse"
    """Whether labels may differ only by case, blanks or invisible characters."""
    new_labels: Literal["refuse", "allow"] = "refuse"
    """Whether there may be labels that the last accepted data did not have."""
    missing_labels: Literal["refuse", "allow"] = "refuse"
    """Whether labels that the last accepted data had may be gone."""
    max_label_drift: Fraction | None = 0.1
    """Largest Jensen-Shannon divergence of the labels' distribution from that of the last accepted data; null sets none."""
    max_size_drift: Fraction | None = 0.3
    """The same for the distributions of the pictures' heights and widths."""

    @pydantic.field_validator("group")
    @classmethod
    def _pattern_names_the_group(cls, group: str | None) -> str | None:
        if group is not None and _NAMED_GROUP in group:
            try:
                named = re.compile(group).groupindex
            except re.error as error:
                raise ValueError(f"no regular expression: {error}") from None
            if "group" not in named:
                raise ValueError("expected (?P<group>…) around what names the group, e.g. (?P<group>patient[0-9]+)")
        return group

    def grouping(self) -> dict[str, Any]:
        """Return the keyword arguments of `ImageExampleGen` that say what belongs together."""
        is_pattern = self.group is not None and _NAMED_GROUP in self.group
        return (
            {"group_pattern": self.group, "group_name": None}
            if is_pattern
            else {"group_pattern": None, "group_name": self.group}
        )


class Image(_Section):
    """How pictures are read, and the size every one is resized to."""

    height: Annotated[int, Field(ge=32, le=1024)] = 224
    """Pixels; VGG16 needs at least 32."""
    width: Annotated[int, Field(ge=32, le=1024)] = 224
    """Pixels; VGG16 needs at least 32."""
    background: tuple[Channel, Channel, Channel] = (255, 255, 255)
    """What is seen through transparent pixels: red, green and blue, 0 to 255."""
    max_megapixels: Annotated[float, Field(gt=0.0, le=178.0)] = 100
    """Largest picture that is decoded, in 10^6 pixels."""

    def preparation(self) -> dict[str, Any]:
        """Return the keyword arguments of `modules.images.prepare`."""
        return {"background": self.background, "max_pixels": round(self.max_megapixels * 1e6)}


class Augmentation(_Section):
    """Ranges of the random affine map that each training picture gets, and what may follow it."""

    enabled: bool = True
    """Whether training pictures are augmented at all."""
    rotation: Annotated[float, Field(ge=0.0, le=180.0)] = 20.0
    """Largest rotation to either side, in degrees."""
    width_shift: Fraction = 0.2
    """Largest horizontal shift to either side, as a fraction of the width."""
    height_shift: Fraction = 0.2
    """Largest vertical shift to either side, as a fraction of the height."""
    zoom: tuple[Annotated[float, Field(gt=0.0)], Annotated[float, Field(gt=0.0)]] = (0.8, 1.2)
    """Range of the zoom factor of each axis; below 1 the picture grows, above 1 it shrinks."""
    horizontal_flip: bool = True
    """Mirror half of the pictures."""
    rand_augment: Fraction = 0.0
    """Strength of RandAugment, two of Keras's eleven random operations a batch; 0 turns it off."""
    random_erasing: Fraction = 0.0
    """Probability that a random rectangle of a picture is blackened; 0 turns it off."""
    mix: Literal["none", "mixup", "cutmix"] = "none"
    """Mix pictures of a batch, and their labels alike, by MixUp or CutMix."""
    mixup_alpha: Annotated[float, Field(gt=0.0)] = 0.2
    """Of the Beta(alpha, alpha) distribution that MixUp draws the shares from."""

    _in_order = pydantic.field_validator("zoom")(_lower_first)


class Model(_Section):
    """VGG16 without its top, and the head that replaces it."""

    weights: Text | None = "imagenet"
    """`imagenet`, the path of an H5 file for VGG16 without its top, or null for random weights."""
    dense_units: Annotated[int, Field(ge=1, le=65536)] = 256
    """Width of the dense layer before the softmax."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    """Fraction of the dense layer's outputs dropped in training."""
    l2: Annotated[float, Field(ge=0.0)] = 0.0
    """L2 penalty on the head's kernels."""


class EarlyStopping(_Section):
    """When a phase ends before its last epoch; the best epoch's weights are kept in any case."""

    monitor: Literal["loss", "accuracy"] = "loss"
    """What is watched on the eval split."""
    patience: Annotated[int, Field(ge=1)] | None = 3
    """Epochs without a better value before the phase ends; null runs every epoch."""
    min_delta: Annotated[float, Field(ge=0.0)] = 0.0
    """The least change that counts as better."""

    @pydantic.field_validator("min_delta")
    @classmethod
    def _can_be_met(cls, least: float, info: pydantic.ValidationInfo) -> float:
        if least >= 1.0 and info.data.get("monitor") == "accuracy":
            raise ValueError("accuracy is 0 to 1, so no epoch would ever count as better; expected less than 1")
        return least


class Phase(_Section):
    """One stage of training: how long, and which variables learn how fast."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9_-]+$")]
    """In progress, logs and parameters of runs."""
    epochs: Annotated[int, Field(ge=0, le=10000)]
    """Passes over the train split; 0 leaves the phase out."""
    learning_rates: Annotated[tuple[LearningRateRule, ...], Field(min_length=1)]
    """Ordered (pattern, learning rate) pairs; a pattern is a regular expression that must match the whole variable path.

    The first match wins, and null freezes what it matches.
    """
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Fills in the rates of VGG16's blocks that no rule matches: block 5 learns at this factor of the highest rate given,
    block 4 at this factor of block 5's, and so on; null leaves them to the rules."""
    warmup_epochs: Annotated[float, Field(ge=0.0)] = 0.0
    """Epochs in which every group's rate rises from 0, fewer than the phase has."""
    decay: Literal["constant", "cosine"] = "constant"
    """How every group's rate goes on: as it is, or down to 0 at the end of the phase along half a cosine."""
    augmentation: bool = True
    """Whether this phase augments."""
    max_steps: Annotated[int, Field(ge=1)] | None = None
    """Steps after which the phase ends in the middle of an epoch; null sets no limit."""

    @pydantic.field_validator("warmup_epochs")
    @classmethod
    def _ends_within_the_phase(cls, warmup: float, info: pydantic.ValidationInfo) -> float:
        # A phase without epochs is left out of the training.
        if (epochs := info.data.get("epochs")) and warmup >= epochs:
            raise ValueError(f"expected fewer than epochs = {epochs} of its phase, whose rates would never be reached")
        return warmup

    @pydantic.model_validator(mode="after")
    def _rules_can_be_kept(self) -> Phase:
        rules.check(self.learning_rates, self.layer_decay)
        return self


class FeatureCache(_Section):
    """What is kept of the layers that stay frozen: their outputs, computed once a view instead of once an epoch."""

    views: Annotated[int, Field(ge=0, le=1000)] | Literal["auto"] = "auto"
    """Views of each training picture: the second is as it is, the others are augmented; an epoch takes each picture at a
    random point between two of its views.

    `auto` takes one for every four epochs, at least two, as far as they fit. 0 keeps nothing and augments on the fly.
    """
    max_bytes: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    """Room for all views on disk and the state of training; views used longest ago are deleted first.

    `auto` is a quarter of what the disk has free, with what they take already.
    """


class Optimizer(_Section):
    """Options of Adam, for all groups of variables alike."""

    weight_decay: Annotated[float, Field(gt=0.0)] | None = None
    """Decoupled weight decay (AdamW) of the kernels; null turns it off."""
    clip_norm: Annotated[float, Field(gt=0.0)] | None = None
    """Largest global norm of the gradients; null clips nothing."""
    ema_momentum: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Momentum of an exponential moving average of the weights, which is what is evaluated and kept; null keeps none."""


class Training(_Section):
    """How the model is fitted."""

    batch_size: Annotated[int, Field(ge=1, le=4096)] = 32
    """Pictures a step."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 1
    """Seeds initial weights, dropout, shuffling and augmentation."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of each label that is spread over all classes."""
    class_weights: Literal["off", "balanced"] = "off"
    """`balanced` weighs each class by the inverse of its share; `off` weighs all pictures alike."""
    early_stopping: EarlyStopping = EarlyStopping()
    optimizer: Optimizer = Optimizer()
    cache: FeatureCache = FeatureCache()
    precision: Literal["auto", "float32", "mixed_float16", "mixed_bfloat16"] = "auto"
    """What the layers compute in; `auto` is mixed_bfloat16 on GPUs of compute capability from 8.0 and on CPUs that compute
    in bfloat16, and mixed_float16 on GPUs from 7.0. What is exported is float32."""
    xla: Literal["auto"] | bool = "auto"
    """Whether XLA compiles the training step; `auto` does on kept features where it gains, and leaves the rest to Keras."""
    save_seconds: Annotated[float, Field(gt=0.0)] = 60.0
    """Within an epoch, seconds after which the state is saved in the background, so that a run that is killed goes on from
    there; it is saved after each epoch in any case."""
    phases: Annotated[tuple[Phase, ...], Field(min_length=1)] = (
        Phase(name="head", epochs=5, learning_rates=(("head/.*", 1e-3), (".*", None))),
        Phase(
            name="finetune",
            epochs=10,
            decay="cosine",
            learning_rates=(("head/.*", 1e-3), ("block5_.*", 1e-4), (".*", None)),
        ),
    )
    """Stages of training, one after the other."""

    @pydantic.field_validator("phases")
    @classmethod
    def _some_phase_trains(cls, phases: tuple[Phase, ...]) -> tuple[Phase, ...]:
        if not any(phase.epochs for phase in phases):
            raise ValueError("every phase has epochs = 0: nothing would be trained")
        return phases

    @pydantic.field_validator("class_weights", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: object) -> object:
        # YAML 1.1 reads a bare `off` as false.
        return "off" if value is False else value


class Tuning(_Section):
    """The search for learning rates, dropout and dense units before training."""

    trials: Annotated[int, Field(ge=0, le=10000)] = 0
    """Trainings to try, each with all the phases; 0 turns the search off."""
    learning_rate_factor: tuple[Annotated[float, Field(gt=0.0)], Annotated[float, Field(gt=0.0)]] = (0.1, 10.0)
    """Range of the factor that all learning rates are multiplied by, searched on a logarithmic scale."""
    dropout: tuple[Annotated[float, Field(ge=0.0, lt=1.0)], Annotated[float, Field(ge=0.0, lt=1.0)]] = (0.2, 0.7)
    """Range of the dropout."""
    dense_units: Annotated[tuple[Annotated[int, Field(ge=1, le=65536)], ...], Field(min_length=1)] = (128, 256, 512)
    """Choices of the dense layer's width."""

    _in_order = pydantic.field_validator("learning_rate_factor", "dropout")(_lower_first)


class Evaluation(_Section):
    """The gate: a model is published only if it passes every bound that is on, on the test split."""

    min_accuracy: Fraction | None = 0.7
    """Lowest accuracy that passes; null turns this bound off."""
    max_accuracy_drop: Fraction | None = 0.0
    """How far accuracy may fall below that of the model that is live, absolute; null turns this bound off."""
    max_accuracy_drop_relative: Fraction | None = None
    """How far accuracy may fall below that of the model that is live, as a share of that; null turns this bound off."""
    min_recall: Fraction | None = None
    """Lowest recall of every class, the share of its pictures that is recognised; null turns this bound off."""
    unseen_classes: Literal["refuse", "warn"] = "refuse"
    """What of a class that has a lowest recall and no test pictures: the model is refused, or the table says that the class
    was not judged."""
    min_recall_of: dict[str, Fraction] = {}
    """Lowest recall of the classes named here, in the place of `min_recall`."""
    min_top_k_accuracy: dict[Annotated[int, Field(ge=2)], Fraction] = {}
    """Lowest share of pictures whose label is among the k most probable ones, by k."""
    min_examples: Annotated[int, Field(ge=1)] = 10
    """Fewest pictures in the test split on which a model is blessed."""
    confidence: Annotated[float, Field(ge=0.5, lt=1.0)] | None = None
    """Accuracy, recall and top-k must reach their floors with this confidence, e.g. 0.95: what counts is the lower end of
    the Wilson interval. null takes the numbers as they are; below 100 pictures the table shows the interval all the same."""
    max_model_megabytes: Annotated[float, Field(gt=0.0)] | None = None
    """Largest exported model, in millions of bytes; null turns this bound off."""
    max_latency_ms: Annotated[float, Field(gt=0.0)] | None = None
    """Longest median time of one picture through the served graph on one core of the machine that evaluates, without its
    GPUs, in milliseconds; a machine that is busy with something else ends the run, to be tried again. null turns this bound
    off."""
    folds: Annotated[int, Field(ge=2, le=100)] | None = None
    """Cross-validation for few pictures: train so many times, each time without another part of train and eval, on kept
    features of the frozen prefix, and have each picture answered by the model that has not seen it. Gives an accuracy on all
    of them, and the labels that may be wrong. Groups stay together. null does without."""
    min_fold_accuracy: Fraction | None = None
    """Lowest accuracy over the folds that passes; null turns this bound off."""
    fail_when_refused: bool = False
    """On Kubeflow, whether the last step of a run fails where nothing was published; `finetune run` always says so by its
    exit code."""

    @pydantic.model_validator(mode="after")
    def _floors_can_be_met(self) -> Evaluation:
        if self.min_fold_accuracy is not None and self.folds is None:
            raise ValueError(f"min_fold_accuracy = {self.min_fold_accuracy:g} needs folds, e.g. 5")
        floors = {
            "min_accuracy": self.min_accuracy,
            "min_recall": self.min_recall,
            "min_fold_accuracy": self.min_fold_accuracy,
        }
        floors |= {f"min_recall_of.{label}": floor for label, floor in self.min_recall_of.items()}
        floors |= {f"min_top_k_accuracy.{k}": floor for k, floor in self.min_top_k_accuracy.items()}
        for key, floor in floors.items():
            if self.confidence is not None and floor == 1.0:
                raise ValueError(
                    f"{key} = 1 can't be met with confidence = {self.confidence:g}, whose interval always begins below 1"
                )
        return self


class InfraValidator(_Section):
    """TFX's InfraValidator: starts TensorFlow Serving itself with the model before it is published."""

    platform: Literal["docker", "kubernetes"]
    """Where the server is started: with this machine's Docker, or as a pod of the cluster that the run is in."""
    image: Text = "tensorflow/serving:2.19.1"
    """The server's image, with its tag."""


class Serving(_Section):
    """How blessed models are published for TensorFlow Serving."""

    model_name: Text | None = None
    """Of the model at the server; null takes the pipeline's name."""
    base_path: Text | None = None
    """The folder of versions as the server sees it, e.g. `/models`; null: as the machine that publishes does."""
    keep: Annotated[int, Field(ge=2)] | None = None
    """How many versions stay that were not rolled back, the live one always; null deletes none."""
    grace_seconds: Annotated[float, Field(ge=0.0)] = 300.0
    """How long a version stays after it was live; longer than a server takes to read `models.config` again and to load."""
    endpoint: Annotated[str, pydantic.AfterValidator(_of_a_model)] | None = None
    """Of the server, `http://HOST:8501/v1/models/NAME` or `grpc://HOST:8500/NAME`: publishing waits until it serves the new
    version, asks it one picture, and goes back to the version before if it does not; null asks nobody."""
    wait_seconds: Annotated[float, Field(gt=0.0)] = 300.0
    """For the server at `endpoint`."""
    infra_validator: InfraValidator | None = None
    """Besides our own check in a fresh process, try the model in TensorFlow Serving's container."""


class Flink(_Section):
    """A Flink cluster that works for Beam, with a pool of this project's processes beside each task manager."""

    master: HostPort
    """The job manager's REST interface, e.g. `flink:8081`."""
    job_server_jar: Text
    """Path of Beam's job server for the cluster's version of Flink, where the pipeline is started."""
    worker_pool: HostPort
    """Where a task manager finds the pool that starts Python for it, e.g. `localhost:50000` beside it."""
    parallelism: Annotated[int, Field(ge=1, le=32768)] | None = None
    """Tasks at a time; null takes all slots that the cluster has."""
    environment_cache: Annotated[float, Field(ge=0.0, le=86400.0)] = 60.0
    """Seconds that a worker's Python waits for the next stage, so that TensorFlow need not be imported again; 0 ends it
    with each stage. More than 0 needs the jar on the task managers' classpath."""


class Beam(_Section):
    """How the Beam nodes run."""

    runner: Text = "auto"
    """`auto` stays on this machine, in one process for small data and on all cores for large data; `flink` is the cluster
    below; else a Beam runner, e.g. `SparkRunner`, with what it needs in `args`."""
    args: tuple[str, ...] = ()
    """Further pipeline arguments of Beam, e.g. `--job_server_timeout=600`; what is in ours as well holds as it is here."""
    flink: Flink | None = None
    """The cluster for `runner: flink`."""

    @pydantic.model_validator(mode="after")
    def _flink_is_named(self) -> Beam:
        if self.runner == "flink" and self.flink is None:
            raise ValueError("runner = flink needs beam.flink.master, beam.flink.job_server_jar and beam.flink.worker_pool")
        return self


class Toleration(_Section):
    """Lets a node's pod onto machines with a taint."""

    key: str
    """Of the taint."""
    operator: Literal["Equal", "Exists"] = "Exists"
    """Whether the value counts."""
    value: str | None = None
    """Of the taint, for `Equal`."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Of the taint; null tolerates all."""


class Task(_Section):
    """What the container of a node gets and how often it is tried; what is not set comes from `default`, then from us."""

    cpu: Annotated[str, Field(pattern=r"^[0-9.]+m?$")] | None = None
    """Cores that are asked for, e.g. `2` or `500m`; null asks for 1 for CrossValidator, Tuner, Trainer and nodes on Beam,
    else for 250m."""
    memory: Annotated[str, Field(pattern=r"^[0-9.]+([EPTGMK]i?)?$")] | None = None
    """Asked for, and the most it may take, e.g. `8Gi`, which null is for the same nodes; else 2Gi."""
    accelerator: Text | None = None
    """Resource name of what trains, e.g. `nvidia.com/gpu`; null asks for none."""
    accelerators: Annotated[int, Field(ge=1, le=16)] | None = None
    """How many of them."""
    node_selector: dict[str, str] | None = None
    """Labels of the machines that may take it."""
    tolerations: tuple[Toleration, ...] | None = None
    """Taints that it may be put on."""
    retries: Annotated[int, Field(ge=0, le=20)] | None = None
    """How often it is tried again: in its pod where what ended it may pass, and in a new pod where the pod was lost; null
    takes 2."""
    retry_seconds: Annotated[int, Field(ge=1)] | None = None
    """Before the first time; twice as long before each next one, an hour at most. null takes 30."""
    timeout_seconds: Annotated[int, Field(ge=1)] | None = None
    """Longest time of a node in one pod, with all attempts; null sets none."""
    cache: bool | None = None
    """Whether a result with the same inputs, parameters and code is taken as it is, as null does."""


class Secret(_Section):
    """Keys of a Kubernetes secret that containers find in their environment."""

    name: Text
    """Of the secret."""
    variables: dict[str, str]
    """Names of environment variables, by key of the secret."""


class Volume(_Section):
    """A persistent volume claim that containers find in a folder."""

    claim: Text
    """Name of the claim."""
    path: Annotated[str, Field(pattern=r"^/.+")]
    """Folder in the containers."""


class Kubeflow(_Section):
    """How the pipeline runs on Kubeflow Pipelines."""

    tasks: Literal["grouped", "one_per_node"] = "grouped"
    """`grouped` runs nodes for which nothing is set of their own, but `cache`, one after the other in one pod and one
    process; a node with resources, a place, attempts or a time of its own in `nodes`, or with the accelerator of `default`,
    has a pod of its own. `one_per_node` gives every node one."""
    volume: Volume = Volume(claim="finetune", path="/mnt/finetune")
    """For artifacts, kept features, the state of training and the versions that are served, in a folder by the pipeline's
    name; nodes of one run need it at once (ReadWriteMany), unless all are on one machine."""
    pipeline_root: Text | None = None
    """For artifacts, e.g. on an object store; null takes the volume."""
    volumes: tuple[Volume, ...] = ()
    """Further ones, such as one with the pictures."""
    secrets: tuple[Secret, ...] = ()
    """For the environment; `FINETUNE_METADATA_URL` names the metadata store."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When the image is pulled."""
    parameters: tuple[str, ...] = (
        "data.source",
        "data.num_spans",
        "data.new_labels",
        "training.batch_size",
        "evaluation.min_accuracy",
        "evaluation.max_accuracy_drop",
        "evaluation.fail_when_refused",
    )
    """Keys that a run may set anew; each phase's epochs besides. What is null can't be one."""
    default: Task = Task()
    """For all nodes."""
    nodes: dict[str, Task] = {}
    """By node: ImageExampleGen, StatisticsGen, SchemaGen, ExampleValidator, AcceptedData, DataGate, Transform,
    CrossValidator, Tuner, Trainer, Resolver, Evaluator, ServingCheck, InfraValidator, Pusher, RunReport."""


class Notify(_Section):
    """Who is told how a run ended."""

    url: Annotated[str, Field(pattern=r"^https?://[^/]")] | None = None
    """Gets a POST with JSON at the end of every run: verdict, reason, version, accuracy, and `text`, a line for a chat's
    webhook. The environment variable FINETUNE_NOTIFY_URL, from a secret, goes before it; without both nobody is told.
    """
    link: Text | None = None
    """Where a person looks, with `{run}` for the run's id, e.g. `https://kubeflow.example/#/runs/details/{run}`; null names
    the command that shows it."""
    timeout_seconds: Annotated[float, Field(gt=0.0, le=300.0)] = 10.0
    """For each of two tries; none changes how the run itself ends."""


class Report(_Section):
    """The page of each run, `report.html`."""

    pictures: bool = True
    """Whether it shows thumbnails of pictures: they are in the file, for whoever gets it."""


class Config(_Section):
    """All that differs between two projects."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")] = "images"
    """Name of the pipeline: lower-case letters, digits and hyphens. The model that is live is looked up by it."""
    keep_runs: Annotated[int, Field(ge=1)] | None = 5
    """How many of the last runs keep what they made. Besides, what the live model and the data accepted last need stays; the
    rest is deleted at the end of a run. null deletes nothing."""
    data: Data = Data()
    image: Image = Image()
    augmentation: Augmentation = Augmentation()
    model: Model = Model()
    training: Training = Training()
    tuning: Tuning = Tuning()
    evaluation: Evaluation = Evaluation()
    serving: Serving = Serving()
    beam: Beam = Beam()
    report: Report = Report()
    notify: Notify = Notify()
    kubeflow: Kubeflow = Kubeflow()

    @pydantic.model_validator(mode="after")
    def _folds_can_be_trained(self) -> Config:
        folds, why = self.evaluation.folds, ""
        if self.tuning.trials:
            why = f"tuning.trials = {self.tuning.trials}: the search chooses by pictures that folds hold out; expected 0"
        if self.training.cache.views == 0:
            why = "training.cache.views = 0: folds are trained on kept features; expected auto, or 1 or more"
        if folds is not None and why:
            raise ValueError(f"evaluation.folds = {folds} does not go with {why}, or evaluation.folds = null")
        return self

    @pydantic.model_validator(mode="after")
    def _batches_can_be_mixed(self) -> Config:
        mix = self.augmentation.mix
        if mix != "none" and self.augmentation.enabled and self.training.batch_size == 1:
            raise ValueError(
                f"augmentation.mix = {mix} mixes the pictures of a batch: training.batch_size must be 2 or more"
            )
        return self
