"""`finetune predictions`: what was said of each test picture."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from cli import options

TABLE, JSON, CSV = "table", "json", "csv"


@click.command()
@options.project_option
@click.option("--run", metavar="RUN_ID", help="The run that judged the model; without, the newest one that judged one.")
@click.option(
    "--format",
    "form",
    type=click.Choice([TABLE, JSON, CSV]),
    help="A table is for the eye, and what a terminal gets; else a line of JSON a picture.",
)
@click.option("--wrong", is_flag=True, help="Only pictures whose answer is not their label.")
def predictions(output_dir: Path, run: str | None, form: str | None, wrong: bool) -> None:
    """Print what the model of a run, and the baseline it was held against, said of each test picture.

    A picture is a line: `path` below the source, its `label`, the `answer` and its `score` (0 to 1), the five best labels
    with their scores, and the baseline's answer and score, where there was one. They are the predictions that the gate
    judged, in no particular order.

    \b
    Examples:
      finetune predictions --output-dir runs/photos --wrong
      finetune predictions --output-dir runs/photos --format csv > predictions.csv
    """
    from pipeline import log_file

    with log_file.capture_output() as terminal:
        from components.model_evaluator import predictions as kept

        rows = kept.read(_folder(output_dir, run))
        found = (row for row in rows if not wrong or row["answer"] != row["label"])
        try:
            for line in _lines(found, form or (TABLE if terminal.out.isatty() else JSON)):
                terminal.out.write(line + "\n")
        except FileNotFoundError as error:
            what = "the predictions that the run kept are not here any more"
            raise options.InputError(f"{error.filename}: {what}; put them back, or name another --run") from None
        terminal.out.flush()
    options.check_printed()
    sys.exit(0)


def _folder(output_dir: Path, run: str | None) -> str:
    """The folder with the predictions of a run."""
    from pipeline import outcome
    from pipeline.output_folder import METADATA_FILE

    database = output_dir / METADATA_FILE
    if not database.is_file():
        raise options.InputError(f"{output_dir}: no {METADATA_FILE} here; expected the --output-dir of a run")
    found = outcome.find_predictions(outcome.read_only(database), run)
    if found is None:
        which = "no run here" if run is None else f"no run {run} here"
        raise options.InputError(f"{output_dir}: {which} has predictions; a run keeps them when it judges its model")
    # What is relative in ML Metadata starts there.
    return found if "://" in found else str(output_dir / found)


def _lines(rows: Iterable[dict[str, Any]], form: str) -> Iterator[str]:
    from cli import answers

    if form == JSON:
        return (answers.one_line(json.dumps(row, ensure_ascii=False)) for row in rows)
    return _csv(rows) if form == CSV else map(_table_row, rows)


def _csv(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """CSV with a header; the best labels are columns of their own."""
    from components.model_evaluator.predictions import BEST

    numbers = range(BEST)
    best = [f"{what}_{number + 1}" for number in numbers for what in ("best_label", "best_score")]
    before = ["baseline_answer", "baseline_score"]
    yield _csv_line(["path", "label", "answer", "score", *best, *before])
    for row in rows:
        pairs = list(zip(row["best_labels"], row["best_scores"], strict=True))
        pairs += [("", "")] * (BEST - len(pairs))
        flat = [cell for pair in pairs for cell in pair]
        yield _csv_line([row["path"], row["label"], row["answer"], row["score"], *flat, *(row[name] for name in before)])


def _csv_line(cells: Iterable[Any]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow(cells)
    return buffer.getvalue()


def _table_row(row: dict[str, Any]) -> str:
    """A line for the eye: right or wrong, the best labels, the baseline's answer, the file."""
    from cli import answers

    label = answers.escaped(row["label"])
    mark = "right" if row["answer"] == row["label"] else "wrong"
    best = "  ".join(
        f"{answers.escaped(name)} {score:.3f}" for name, score in zip(row["best_labels"], row["best_scores"], strict=True)
    )
    before = "" if row["baseline_answer"] is None else f"  baseline {answers.escaped(row['baseline_answer'])}"
    return f"{mark}  {label}  answer {best}{before}  {answers.escaped(row['path'])}"
