"""The demo: train, judge and push a classifier of handwritten digits, then classify three that it has not seen."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from pipeline import log_file
from scripts import digits

ROOT = Path(__file__).resolve().parent.parent
DATA, RUN = ROOT / ".demo" / "digits", ROOT / ".demo" / "run"
FINETUNE = str(ROOT / ".venv" / "bin" / "finetune")


def main() -> int:
    """Run the demo, with further arguments for `finetune run`; return the exit code."""
    DATA.parent.mkdir(exist_ok=True)
    digits.write_digits(DATA)
    command = [FINETUNE, "run", "--config", str(ROOT / "configs" / "digits.yaml"), "--data", str(DATA)]
    code = subprocess.run([*command, "--output-dir", str(RUN), *sys.argv[1:]], check=False).returncode
    if code:
        return code
    print("\nthree pictures of the test split:", flush=True)
    with log_file.capture_output():
        pictures = [str(path) for path in test_pictures(3)]
    answer = subprocess.run(
        [FINETUNE, "predict", "--model", str(RUN / "serving"), "--top", "1", *pictures],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    right = 0
    for line in answer.stdout.splitlines():
        prediction = json.loads(line)
        # The folder of a picture is its true label.
        truth = Path(prediction["file"]).parent.name
        right += truth == prediction["label"]
        print(f"{line}  (truth: {truth})")
    print(f"{right} of 3 right")
    return answer.returncode


def test_pictures(count: int) -> list[Path]:
    """Return pictures of the latest test split, each of another class."""
    import tensorflow as tf

    splits = RUN.glob("pipeline_root/ImageExampleGen/examples/*/Split-test")
    latest = max(splits, key=lambda folder: int(folder.parent.name))
    by_label: dict[str, Path] = {}
    for record in tf.data.TFRecordDataset([str(path) for path in latest.iterdir()], "GZIP").as_numpy_iterator():
        path = tf.train.Example.FromString(record).features.feature["path"].bytes_list.value[0].decode()
        by_label.setdefault(path.split("/")[0], DATA / path)
    return [by_label[label] for label in sorted(by_label)[:count]]


if __name__ == "__main__":
    sys.exit(main())
