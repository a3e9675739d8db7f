"""`finetune run` and `finetune data check`: nodes, their progress, and what came of them."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, TypeVar

import click

from cli import options

if TYPE_CHECKING:
    from components.model_evaluator.gate import Check
    from configs.schema import Config
    from pipeline.local_runner import NodeStatus
    from pipeline.outcome import DataOutcome, Outcome

_Outcome = TypeVar("_Outcome")


_OUTPUT_DIR: dict[str, Any] = {"metavar": "FOLDER", "type": click.Path(file_okay=False, path_type=Path)}


@click.command()
@options.config_option
@options.set_option
@options.data_option
@click.option("--output-dir", **_OUTPUT_DIR, required=True, help="Where all that the runs of this project make is kept.")
def run(config_path: str | None, overrides: tuple[str, ...], data: str | None, output_dir: Path) -> None:
    """Train a classifier, judge it on pictures it has not seen, and push it if it passes the gate.

    Run it again with the same --output-dir: what has not changed is taken from the run before, and the new model must hold
    its own against the last one that passed. Exit code 1 means that the run failed, or that its model was refused, or rolled
    back before.

    \b
    Examples:
      finetune run --data photos --output-dir runs/photos
      finetune run --config configs/flowers.yaml --data flower_photos --output-dir runs/flowers
      finetune run --data photos --output-dir runs/photos --set image.height=128 --set image.width=128
    """
    config = options.load_with_source(config_path, overrides, data)
    log_path = _log_path(output_dir)
    with _interruptible(log_path):
        _check_files(config)
        _check_scratch(config, output_dir)
        look = f"{output_dir}, log {log_path}"
        outcome = _run_logged(lambda on_status: _runner().run_locally(config, output_dir, on_status, look), log_path)
    _print_outcome(outcome)
    sys.exit(0 if outcome.pushed_to else options.FAILED)


@click.group()
def data() -> None:
    """Look at the data before anything is trained."""


@data.command()
@options.config_option
@options.set_option
@options.data_option
@click.option(
    "--output-dir",
    **_OUTPUT_DIR,
    help="Of a project: compares with the data accepted last, keeps what was ingested. Without, nothing is kept.",
)
def check(config_path: str | None, overrides: tuple[str, ...], data: str | None, output_dir: Path | None) -> None:
    """Ingest and judge the data, print what was found, and train nothing.

    Exit code 1 means that a run would refuse the data.

    \b
    Examples:
      finetune data check --data photos
      finetune data check --config photos.yaml --output-dir runs/photos
      finetune data check --data records/*.tfrecord.gz --set data.features.label=class
    """
    config = options.load_with_source(config_path, overrides, data)
    with contextlib.ExitStack() as stack:
        folder = output_dir or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="finetune-")))
        log_path = _log_path(folder)
        stack.enter_context(_interruptible(log_path, scratch=None if output_dir else folder))
        _check_files(config)
        outcome = _run_logged(lambda on_status: _runner().check_data(config, folder, on_status), log_path)
        _print_data(outcome)
        for finding in outcome.findings:
            click.echo(f"{finding.severity:<14} {finding.message}")
        click.echo(f"data           {'accepted' if outcome.accepted else 'refused'}")
    sys.exit(0 if outcome.accepted else options.FAILED)


def _log_path(output_dir: Path) -> Path:
    return output_dir / "logs" / time.strftime("%Y-%m-%dT%H-%M-%S.log")


@contextlib.contextmanager
def _interruptible(log_path: Path, scratch: Path | None = None) -> Iterator[None]:
    """End with a line on Ctrl-C, SIGTERM and SIGHUP, and without the scratch folder that nobody would find again."""
    from modules import interrupts

    interrupts.handle()
    try:
        yield
    except KeyboardInterrupt:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
            _end("interrupted")
        _end(f"interrupted; the same command goes on where this one was. Log: {log_path}")


def _check_files(config: Config) -> None:
    """End with exit code 2 if there is nothing to learn from or start from, before a run is set up."""
    from pipeline import log_file

    with log_file.capture_output():
        from components.image_example_gen import sources, spans
        from components.image_schema_gen import component as schema_gen
        from modules import weights

        try:
            weights.check(config.model.weights)
            if config.data.schema_file is not None:
                schema_gen.read_schema(config.data.schema_file)
            sources.check(spans.resolve(*spans.divide(str(config.data.source)), config.data.num_spans))
        except (spans.DataError, schema_gen.SchemaError, weights.WeightsError) as error:
            raise options.InputError(str(error)) from None


def _check_scratch(config: Config, output_dir: Path) -> None:
    """End with exit code 2 if there is no folder for temporary files or for fetched weights."""
    from modules import weights

    tempfile.gettempdir()
    try:
        weights.keep_somewhere(config.model.weights, output_dir / "work" / "weights")
    except weights.WeightsError as error:
        raise options.InputError(str(error)) from None


def _runner() -> ModuleType:
    from pipeline import local_runner

    return local_runner


def _run_logged(work: Callable[[Callable[[NodeStatus], None]], _Outcome], log_path: Path) -> _Outcome:
    """Run nodes with progress in the terminal, and all that libraries say in a file."""
    from pipeline import log_file

    with log_file.capture_output(log_path) as terminal:
        from absl import logging as absl_logging

        from pipeline.output_folder import FolderError

        run_error = _runner().RunError
        absl_logging.set_verbosity(absl_logging.INFO)
        with _RunProgress(terminal.err) as progress:
            try:
                return work(progress.on_status)
            except FolderError as error:
                raise options.InputError(str(error)) from None
            except run_error as error:
                traceback.print_exc()
                failure = str(error)
    return _end(f"{failure}. Log: {log_path}")


class _RunProgress(logging.Handler):
    """Prints a line a node and what the nodes report; on a terminal, shows besides where the run is now.

    Args:
      stream: the terminal.
    """

    def __init__(self, stream: TextIO):
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        super().__init__(logging.INFO)
        self._console = Console(file=stream, highlight=False)
        spinner = "dots" if self._console.encoding.startswith("utf") else "line"
        self._bar = Progress(
            *(SpinnerColumn(spinner), TextColumn("{task.description}"), TimeElapsedColumn()),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("starting")
        self._node_id = ""

    def __enter__(self) -> _RunProgress:
        logger = logging.getLogger("finetune")
        logger.setLevel(logging.DEBUG)
        logger.addHandler(self)
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        logging.getLogger("finetune").removeHandler(self)

    def on_status(self, status: NodeStatus) -> None:
        """Show how a node fares."""
        self._node_id = status.node_id
        if status.state == "running":
            self._bar.reset(self._task, description=f"{status.node_id:<17} running")
            if not self._console.is_terminal:
                self._print(f"{status.node_id:<17} running")
        else:
            self._print(f"{status.node_id:<17} {status.state:<7} {status.seconds:7.1f} s")

    def emit(self, record: logging.LogRecord) -> None:
        """Show what a node reports."""
        if getattr(record, "transient", False):
            self._bar.update(self._task, description=f"{self._node_id:<17} {record.getMessage()}")
        else:
            level = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
            self._print(f"  {level}{record.getMessage()}")

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)


def _print_data(data: DataOutcome) -> None:
    """Print what was ingested to standard output."""
    from components.image_example_gen import spans

    summary = data.summary
    if summary.spans:
        click.echo(f"spans          {spans.in_words(summary.spans)}")
    parts = ", ".join(f"{summary.by_split[split]} {split}" for split in ("train", "eval", "test"))
    click.echo(f"pictures       {summary.total} of {len(summary.labels)} labels: {parts}")
    if summary.duplicates:
        click.echo(f"               {summary.duplicates} copies left out")
    if summary.rejected:
        click.echo(f"               {summary.rejected} files rejected, named in {summary.path}")


def _print_outcome(outcome: Outcome) -> None:
    """Print the result of a run to standard output."""
    _print_data(outcome.data)
    from components.model_evaluator import gate

    rows = {check.metric: check for check in outcome.checks}
    click.echo(f"test accuracy  {rows[gate.ACCURACY].value:.4f} on {rows['test examples'].value:.0f} pictures")
    click.echo(f"baseline       {_baseline(gate.comparison(outcome.checks))}")
    _print_checks(outcome.checks)
    click.echo(f"gate           {'blessed' if outcome.blessed else 'refused'}")
    for failure in outcome.failures:
        click.echo(f"can't serve    {failure}")
    click.echo(f"model          {outcome.pushed_to or 'not pushed'}")


def _baseline(compared: Check | None) -> str:
    if compared is None:
        return "none: no other model was live"
    if compared.baseline is None:
        return compared.note
    if compared.note:
        return f"{compared.baseline:.4f} (the model that was live; this one {compared.value:.4f}; {compared.note})"
    return f"{compared.baseline:.4f} (the model that was live, on the same pictures)"


def _print_checks(checks: Sequence[Check]) -> None:
    """Print the gate's table, and a line for each bound that is not met."""
    from rich.console import Console
    from rich.table import Table

    from components.model_evaluator import gate

    table = Table(*gate.COLUMNS)
    for check in checks:
        table.add_row(*check.cells)
    Console(width=None if sys.stdout.isatty() else 140, highlight=False).print(table)
    for check in checks:
        if not check.passed:
            click.echo(f"refused        {check.line}")
        elif check.unjudged:
            click.echo(f"not judged     {check.line}")


def _end(message: str) -> NoReturn:
    """End a failed run at once: Beam's threads may still be busy."""
    click.echo(f"finetune: {message}", err=True)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(options.FAILED)
