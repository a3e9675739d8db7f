"""How long until a classifier is as good as plain Keras makes it: plain Keras done well, an expert's way, and ours.

All start from the same ImageNet weights, on the same split, with the same recipe and in the same precision, each with XLA
where that makes its steps quicker, each seed in its own process. The expert computes the features of the frozen base once,
without augmentation, trains the head on them, and fine-tunes as plain Keras does. The textbook script, which trains all
layers at one rate from raw pixels, is run when it is named. The clock runs from the decoded pictures and the built model on,
and stands while the test split is evaluated after each epoch. A way's curve is the mean over the seeds. What counts is the
first epoch from which it never again falls below what plain Keras ends with, less half a point.

  .venv/bin/python -m scripts.digits .demo/digits
  .venv/bin/python -m benchmarks.time_to_accuracy --data .demo/digits --size 64 --set augmentation.horizontal_flip=false
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import reference
from configs import reading, schema

SPLITS = {"train": 6, "eval": 1, "test": 3}
TEXTBOOK, PLAIN, EXPERT, OURS = "textbook", "plain Keras", "expert", "ours"
ALLOWED = 0.005
"""Of accuracy, below what plain Keras ends with."""


class Pictures(NamedTuple):
    """One split: uint8 `[pictures, size, size, 3]`, and label ids."""

    pixels: np.ndarray
    labels: np.ndarray


class Point(NamedTuple):
    """After an epoch: seconds since the start, and accuracy on the test split."""

    seconds: float
    accuracy: float


def read_pictures(data: Path, test: Path | None, size: int) -> tuple[dict[str, Pictures], list[str]]:
    """Return the splits of a folder with one subfolder a class, and the classes; all of a test folder is tested."""
    if test is None:
        return read_folder(data, size, SPLITS)
    train, classes = read_folder(data, size, {name: share for name, share in SPLITS.items() if name != "test"})
    return train | read_folder(test, size, {"test": 1})[0], classes


def read_folder(folder: Path, size: int, splits: dict[str, int]) -> tuple[dict[str, Pictures], list[str]]:
    """Return the splits of a folder with one subfolder a class, and the classes."""
    import tensorflow as tf

    from components.image_example_gen import splits as division
    from modules import images, preprocessing

    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    found: dict[str, tuple[list[np.ndarray], list[int]]] = {split: ([], []) for split in splits}
    for label, name in enumerate(classes):
        for path in sorted((folder / name).iterdir()):
            picture = images.prepare(path.read_bytes())
            pixels, labels = found[division.split_of(picture.content_hash, splits)]
            pixels.append(preprocessing.decode_and_resize(tf.constant(picture.encoded), size, size).numpy())
            labels.append(label)
    order = {split: np.random.default_rng(0).permutation(len(labels)) for split, (_, labels) in found.items()}
    return {
        split: Pictures(np.stack(pixels)[order[split]], np.array(labels)[order[split]])
        for split, (pixels, labels) in found.items()
    }, classes


def clock(measure: Callable[[], float], started: float) -> tuple[Any, list[Point]]:
    """Return a callback that measures after each epoch with the clock stopped, and the points that it makes."""
    import keras

    class Clock(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.points: list[Point] = []
            self._stopped = 0.0

        def on_test_begin(self, logs: Any = None) -> None:
            # The epoch is over, and the model has the weights that it is evaluated with, averaged ones for instance.
            now = time.perf_counter()
            self.points.append(Point(now - started - self._stopped, measure()))
            self._stopped += time.perf_counter() - now

    callback = Clock()
    return callback, callback.points


def generators(data: dict[str, Pictures], classes: int, config: schema.Config, seed: int, **options: Any) -> tuple[Any, Any]:
    """Return ImageDataGenerator's batches of the train split, and plain ones of the eval split."""
    import keras

    batch_size = config.training.batch_size
    augmented = reference.augmenting_generator(config.augmentation, **options)
    plain = reference.generator(**options)

    def one_hot(labels: np.ndarray) -> np.ndarray:
        return keras.utils.to_categorical(labels, classes)

    return (
        augmented.flow(data["train"].pixels, one_hot(data["train"].labels), batch_size, seed=seed),
        plain.flow(data["eval"].pixels, one_hot(data["eval"].labels), batch_size, shuffle=False),
    )


def fed(batches: Any) -> Any:
    """Return an ImageDataGenerator's batches as a tf.data dataset that does not stall.

    What Keras makes of them has tf.data tune itself, and at the end of an epoch waits up to ten seconds for the thread that
    does (see `modules.autotuning`).
    """
    import tensorflow as tf

    from modules import autotuning

    images, labels = batches[0]
    signature = tuple(tf.TensorSpec([None, *array.shape[1:]], tf.float32) for array in (images, labels))

    def epoch() -> Iterator[Any]:
        for number in range(len(batches)):
            yield batches[number]
        batches.on_epoch_end()

    dataset = tf.data.Dataset.from_generator(epoch, output_signature=signature)
    return autotuning.off(dataset.apply(tf.data.experimental.assert_cardinality(len(batches))).prefetch(2))


def test_accuracy(classifier: Any, pictures: Pictures, prepare: Callable[[np.ndarray], np.ndarray]) -> float:
    """Return the share of pictures that a model is right on."""
    found = [
        classifier.predict_on_batch(prepare(pictures.pixels[start : start + 64].astype(np.float32))).argmax(-1)
        for start in range(0, len(pictures.labels), 64)
    ]
    return float(np.mean(np.concatenate(found) == pictures.labels))


def with_textbook(data: dict[str, Pictures], classes: int, config: schema.Config, seed: int) -> list[Point]:
    """All layers trained at one rate, from raw pixels."""
    import keras

    from modules import weights

    size = data["train"].pixels.shape[1]
    base = keras.applications.VGG16(include_top=False, weights=weights.locate("imagenet"), input_shape=(size, size, 3))
    model = keras.Sequential(
        [
            base,
            keras.layers.Flatten(),
            keras.layers.Dense(256, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(classes, activation="softmax", dtype="float32"),
        ]
    )
    train, evaluation = generators(data, classes, config, seed)

    def compile_for(compiled: bool) -> None:
        model.compile(keras.optimizers.Adam(1e-3), "categorical_crossentropy", ["accuracy"], jit_compile=compiled)

    compile_for(gains_from_xla(model, compile_for, train))
    epochs = sum(phase.epochs for phase in config.training.phases)
    callback, points = clock(lambda: test_accuracy(model, data["test"], lambda pixels: pixels), time.perf_counter())
    model.fit(fed(train), validation_data=fed(evaluation), epochs=epochs, callbacks=[callback], verbose=0)
    return points


class PlainKeras:
    """VGG16 with its own preprocessing, and our phases, rates and head, with what Keras has."""

    def __init__(self, data: dict[str, Pictures], classes: int, config: schema.Config, seed: int):
        import keras

        from modules import model as ours
        from modules import optimizers, weights

        self.prepare = keras.applications.vgg16.preprocess_input
        size = data["train"].pixels.shape[1]
        self.base = keras.applications.VGG16(
            include_top=False, weights=weights.locate("imagenet"), input_shape=(size, size, 3)
        )
        self.head = ours.build_head(
            classes, self.base.output.shape[1:], config.model.model_dump(), config.training.precision
        )
        self.model = keras.Model(self.base.input, self.head(self.base.output))
        self._config = config
        self.train, self.evaluation = generators(data, classes, config, seed, preprocessing_function=self.prepare)
        # What no phase trains need not be computed anew for each evaluation.
        phases = [phase.model_dump() for phase in config.training.phases]
        parts = ours.split(self.model, optimizers.trained_paths(self.model, phases))
        assert parts is not None
        frozen, self._rest = parts
        pixels = data["test"].pixels
        portions = [pixels[start : start + 64].astype(np.float32) for start in range(0, len(pixels), 64)]
        self._test = Pictures(
            np.concatenate([frozen.predict_on_batch(self.prepare(portion)) for portion in portions]), data["test"].labels
        )

    @staticmethod
    def rates(phase: schema.Phase) -> dict[str, float]:
        """Return the rate of each part of the model that is trained, by the start of its layers' names."""
        return {pattern.split("_")[0].split("/")[0]: rate for pattern, rate in phase.learning_rates if rate is not None}

    def measure(self) -> float:
        """Return the accuracy on the test split."""
        return test_accuracy(self._rest, self._test, lambda features: features)

    def compile_for(self, phase: schema.Phase, compiled: bool) -> None:
        """Get ready for a phase."""
        import keras

        rates = self.rates(phase)
        for layer in self.base.layers:
            layer.trainable = any(layer.name.startswith(name) for name in rates)

        def adam(rate: float) -> Any:
            steps = len(self.train) * phase.epochs
            return keras.optimizers.Adam(
                keras.optimizers.schedules.CosineDecay(rate, steps) if phase.decay == "cosine" else rate
            )

        by_layer = {f"{name}_.*": adam(rate) for name, rate in rates.items() if name != "head"}
        optimizer = keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(adam(rates["head"]), by_layer))
        self.model.compile(optimizer, "categorical_crossentropy", metrics=["accuracy"], jit_compile=compiled)

    def gains_from_xla(self) -> bool:
        """Return whether XLA makes the steps of the last phase quicker."""
        last = self._config.training.phases[-1]
        return gains_from_xla(self.model, lambda compiled: self.compile_for(last, compiled), self.train)

    def fit(self, phases: Sequence[schema.Phase], compiled: bool, callback: Any) -> None:
        """Train in phases."""
        train, evaluation = fed(self.train), fed(self.evaluation)
        for phase in phases:
            self.compile_for(phase, compiled)
            self.model.fit(train, validation_data=evaluation, epochs=phase.epochs, callbacks=[callback], verbose=0)


def gains_from_xla(model: Any, compile_for: Callable[[bool], None], batches: Any) -> bool:
    """Return whether steps are quicker with XLA, by a few of both; the model is left as it was."""
    before, seconds = model.get_weights(), {}
    images, labels = batches[0]
    for compiled in (False, True):
        compile_for(compiled)
        model.train_on_batch(images, labels)
        started = time.perf_counter()
        for _ in range(4):
            model.train_on_batch(images, labels)
        seconds[compiled] = time.perf_counter() - started
    model.set_weights(before)
    batches.reset()
    return seconds[True] < seconds[False]


def with_plain_keras(data: dict[str, Pictures], classes: int, config: schema.Config, seed: int) -> list[Point]:
    """All phases from augmented pictures."""
    way = PlainKeras(data, classes, config, seed)
    compiled = way.gains_from_xla()
    callback, points = clock(way.measure, time.perf_counter())
    way.fit(config.training.phases, compiled, callback)
    return points


def with_expert(data: dict[str, Pictures], classes: int, config: schema.Config, seed: int) -> list[Point]:
    """The first phase on features of the pictures as they are, computed once; the others as plain Keras."""
    import keras

    way = PlainKeras(data, classes, config, seed)
    compiled = way.gains_from_xla()
    callback, points = clock(way.measure, time.perf_counter())
    first, *others = config.training.phases
    features = {
        name: way.base.predict(way.prepare(data[name].pixels.astype(np.float32)), verbose=0) for name in ("train", "eval")
    }
    labels = {name: keras.utils.to_categorical(data[name].labels, classes) for name in features}
    rate = way.rates(first)["head"]
    way.head.compile(keras.optimizers.Adam(rate), "categorical_crossentropy", metrics=["accuracy"])
    way.head.fit(
        *(features["train"], labels["train"], config.training.batch_size, first.epochs),
        validation_data=(features["eval"], labels["eval"]),
        callbacks=[callback],
        verbose=0,
    )
    way.fit(others, compiled, callback)
    return points


def with_ours(data: dict[str, Pictures], classes: int, config: schema.Config, seed: int) -> list[Point]:
    """What Trainer does, with nothing kept from an earlier run; the last point is of the model that it exports."""
    import tensorflow as tf

    from modules import batches, dataset, fitting, model, trainer

    size = data["train"].pixels.shape[1]
    sections = config.model_dump(mode="json", include={"model", "training", "augmentation"}) | {"views_fingerprint": ""}
    with tempfile.TemporaryDirectory() as folder:

        def split(name: str) -> dataset.Split:
            encoded = [tf.io.encode_png(pixels).numpy() for pixels in data[name].pixels]
            return reference.write_split(Path(folder) / name, encoded, data[name].labels.tolist(), size, classes)

        splits = {name: split(name) for name in ("train", "eval")}
        policy = config.training.precision
        classifier = trainer.build(splits["train"], sections, policy)
        started = time.perf_counter()
        source = batches.prepare(classifier, splits["train"], splits["eval"], sections, Path(folder))
        prepared = time.perf_counter()
        test = data["test"]
        if source.kept:
            parts = model.split(classifier, {variable.path for variable in source.model.weights})
            assert parts is not None
            test = test._replace(pixels=parts[0].predict(test.pixels.astype(np.float32), verbose=0))
        started += time.perf_counter() - prepared
        callback, points = clock(lambda: test_accuracy(source.model, test, lambda pixels: pixels), started)
        counts = splits["train"].contents.counts
        fitting.fit(classifier, source, counts, sections["training"], fitting.Options(callbacks=(callback,)))
        exported = trainer.in_float32(classifier, splits["train"], sections)
        points.append(Point(points[-1].seconds, test_accuracy(exported, data["test"], lambda pixels: pixels)))
    return points


WAYS = {PLAIN: with_plain_keras, EXPERT: with_expert, OURS: with_ours, TEXTBOOK: with_textbook}


def measured(
    data: Path, test: Path | None, size: int, config_path: str | None, overrides: Sequence[str], way: str, seed: int
) -> list[Point]:
    """Run one way with one seed, in this process."""
    import keras

    config = reading.load(config_path, (*overrides, f"training.seed={seed}", "training.early_stopping.patience=null"))
    pictures, classes = read_pictures(data, test, size)
    if way != OURS:
        keras.config.set_dtype_policy(config.training.precision)
    keras.utils.set_random_seed(seed)
    return WAYS[way](pictures, len(classes), config, seed)


def held(curve: Sequence[Point], target: float) -> float | None:
    """Return the seconds at the first point from which a curve never again falls below a target; None if there is none."""
    seconds = None
    for point in reversed(curve):
        if point.accuracy < target - 1e-9:
            return seconds
        seconds = point.seconds
    return seconds


def summarise(runs: dict[str, list[list[Point]]]) -> Table:
    """Return the table of all ways: final accuracy, seconds, and seconds to what is nearly plain Keras's final accuracy."""
    curves = {way: [Point(*np.mean(epoch, axis=0)) for epoch in zip(*seeds, strict=True)] for way, seeds in runs.items()}
    target = curves[PLAIN][-1].accuracy - ALLOWED

    def text(seconds: float | None) -> str:
        return "never" if seconds is None else f"{seconds:.0f}"

    table = Table("way", "seconds", "test accuracy", f"seconds until it holds {target:.4f}", "ours is sooner by")
    ours = held(curves[OURS], target)
    for way, curve in curves.items():
        finals = [seed[-1].accuracy for seed in runs[way]]
        spread = f"{curve[-1].accuracy:.4f} ({min(finals):.4f} to {max(finals):.4f})"
        seconds = held(curve, target)
        ratio = f"{seconds / ours:.1f} times" if ours and seconds and way != OURS else ""
        table.add_row(way, text(curve[-1].seconds), spread, text(seconds), ratio)
    return table


@click.command()
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option(
    "--test",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the pictures to test with; else three tenths of the others.",
)
@click.option("--size", type=int, default=64, show_default=True, help="Pixels of each side.")
@click.option("--config", "config_path", help="Configuration whose recipe all ways follow as far as they can.")
@click.option("--set", "overrides", multiple=True, help="Override a key of the configuration.")
@click.option("--precision", default="float32", show_default=True, help="Of all ways, as training.precision takes it.")
@click.option("--seeds", default=3, show_default=True)
@click.option(
    "--results", type=click.Path(dir_okay=False, path_type=Path), help="JSON lines; runs found there are not repeated."
)
@click.option(
    "--way", "ways", type=click.Choice(list(WAYS)), multiple=True, default=(PLAIN, EXPERT, OURS), show_default=True
)
@click.option("--only", type=(click.Choice(list(WAYS)), int), hidden=True)
def main(
    data: Path,
    test: Path | None,
    size: int,
    config_path: str | None,
    overrides: tuple[str, ...],
    precision: str,
    seeds: int,
    results: Path | None,
    ways: tuple[str, ...],
    only: tuple[str, int] | None,
) -> None:
    """Print seconds, accuracy and ratios of the ways."""
    overrides = (*overrides, f"training.precision={precision}")
    if only is not None:
        print(json.dumps(measured(data, test, size, config_path, overrides, *only)))
        return
    console = Console(width=120)
    same = [str(data), str(test), size, config_path, list(overrides)]
    known: dict[str, Any] = {}
    if results is not None and results.exists():
        for line in results.read_text().splitlines():
            known |= {line["key"]: line["points"] for line in [json.loads(line)]}
    runs: dict[str, list[list[Point]]] = {way: [] for way in ways}
    for seed in range(1, seeds + 1):
        for way in ways:
            key = json.dumps([*same, way, seed])
            if key not in known:
                command = [sys.executable, "-m", "benchmarks.time_to_accuracy", *sys.argv[1:], "--only", way, str(seed)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
                known[key] = json.loads(done.stdout.splitlines()[-1])
                if results is not None:
                    with results.open("a") as opened:
                        opened.write(json.dumps({"key": key, "points": known[key]}) + "\n")
            runs[way].append([Point(*point) for point in known[key]])
            curve = " ".join(f"{point.accuracy:.3f}@{point.seconds:.0f}" for point in runs[way][-1])
            console.print(f"{way}, seed {seed}: {curve}", highlight=False)
    if {PLAIN, OURS} <= set(ways):
        console.print(summarise(runs))


if __name__ == "__main__":
    main()
