"""What a run leaves behind, small, with the formats of the real components, for the page that is made from it."""

import datetime
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from components.image_example_gen import belonging, rejects
from components.model_evaluator import gate, predictions
from components.run_report.facts import Changed, Facts, Made, Node, Run
from configs import schema
from modules import contents, features
from tests.conftest import random_picture

TIME = datetime.datetime(2027, 1, 2, 3, 4, tzinfo=datetime.UTC)


def rows(labels: Sequence[str], count: int, seed: int = 0, right: float = 0.9) -> list[dict]:
    """Predictions of test pictures, a share of them right, with a baseline that is right a little less often."""
    random = np.random.default_rng(seed)
    found = []
    for number in range(count):
        label = labels[number % len(labels)]
        others = [one for one in labels if one != label]
        answer, before = (
            label if random.random() < share else others[random.integers(len(others))] for share in (right, right - 0.1)
        )
        score = float(np.float32(0.5 + random.random() / 2))
        found.append(
            {
                "path": f"{label}/{number}.png",
                "label": label,
                "answer": answer,
                "score": score,
                "best_labels": [answer],
                "best_scores": [score],
                "baseline_answer": before,
                "baseline_score": 0.5,
            }
        )
    return found


def write_predictions(folder: Path, found: list[dict]) -> str:
    """Write a `predictions` artifact."""
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(found, predictions.SCHEMA), folder / "predictions-0.parquet")
    return str(folder)


def write_rejects(folder: Path, counts: dict[tuple[str, str], int], pairs: Sequence[belonging.NearCopy] = ()) -> str:
    """Write a `rejects` artifact with a reject."""
    folder.mkdir(parents=True)
    lines = {
        rejects.COUNTS_FILE: [
            json.dumps({"split": split, "label": label, "pictures": count}) for (split, label), count in counts.items()
        ],
        rejects.REJECTS_FILE: [rejects.Reject("x/<b>.png", "broken", "no picture: <img src=x onerror=alert(1)>").to_json()],
        belonging.NEAR_COPIES_FILE: [json.dumps(pair._asdict()) for pair in pairs],
    }
    for name in (*rejects.GATHERED_FILES, rejects.SPANS_FILE, rejects.EMPTY_FILE, *belonging.FILES):
        (folder / name).write_text("".join(f"{line}\n" for line in lines.get(name, [])), encoding="utf-8")
    return str(folder)


def write_examples(folder: Path, split: str, pictures: Sequence[tuple[str, str]]) -> None:
    """Write a split of an `examples` artifact: a random picture for each label and path."""
    path = folder / f"Split-{split}" / "data-00000.gz"
    path.parent.mkdir(parents=True)
    kept = []
    with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
        for number, (label, name) in enumerate(pictures):
            encoded = random_picture(number, 40, 30)
            feature = {features.IMAGE: features.bytes_feature(encoded)}
            record = tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
            writer.write(record)
            kept.append(contents.Row(contents.id_of(encoded), label, len(record), name, "g"))
    beside = contents.beside(str(path))
    os.makedirs(os.path.dirname(beside), exist_ok=True)
    contents.write(beside, kept)


def write_gate(folder: Path) -> str:
    """Write an `evaluation` artifact with a gate's table, without samples."""
    folder.mkdir(parents=True)
    checks = [
        gate.Check(gate.ACCURACY, 0.9, "at least 0.7 (evaluation.min_accuracy)", 0.8, True, pictures=300),
        gate.Check(
            "recall of <b>", 0.5, "at least 0.6 (evaluation.min_recall)", 0.7, False, "0.1 below", 20, [0.3, 0.7, 0.95]
        ),
        gate.Check("test examples", 300, "at least 10 (evaluation.min_examples)", None, True),
    ]
    gate.write(str(folder), checks)
    return str(folder)


def facts(folder: Path, labels: Sequence[str], tests: int = 300, pictures: bool = True, **others: object) -> Facts:
    """Facts of a run that published a model."""
    found = rows(labels, tests)
    examples = folder / "examples"
    write_examples(examples, features.TEST, [(row["label"], row["path"]) for row in found[:400]])
    write_examples(examples, features.TRAIN, [(label, f"train/{label}/{n}.png") for label in labels for n in range(3)])
    counts = {(split, label): 10 for label in labels for split in features.SPLITS}
    pair = belonging.NearCopy(found[0]["path"], "test", labels[0], f"train/{labels[0]}/0.png", "train", labels[0])
    made = Made(
        rejects=write_rejects(folder / "rejects", counts, [pair]),
        examples=str(examples),
        evaluation=write_gate(folder / "evaluation"),
        predictions=write_predictions(folder / "predictions", found),
    )
    before = Made(rejects=write_rejects(folder / "before", counts | {("train", labels[0]): 7}))
    known = {
        "pipeline": "photos",
        "run": "17",
        "verdict": "published",
        "version": 1795478357,
        "live": 1795478357,
        "accuracy": 0.9,
        "accuracy_interval": (0.86, 0.93),
        "test_pictures": tests,
        "baseline_accuracy": 0.8,
        "made": made,
        "compared_with": 1795478000,
        "made_before": before,
        "configuration": schema.Config(name="photos").model_dump(mode="json"),
        "differences": [Changed("training.batch_size", 32, 16)],
        "code_changed": False,
        "history": [
            Run("16", TIME, "refused", 0.7, (0.6, 0.8), 900, None, False, ["data"], "accuracy 0.7"),
            Run("17", TIME, "published", 0.9, (0.86, 0.93), 930, 1795478357, True, ["data", "code"], ""),
        ],
        "nodes": [Node("ImageExampleGen", "done", 12.5), Node("Trainer", "cached", None)],
        "lineage": {"revision": "abc"},
        "again": "finetune run --data photos --output-dir runs/photos",
        "pictures": pictures,
    }
    return Facts(**(known | others))  # type: ignore[arg-type]
