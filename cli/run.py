"""`finetune run` and `finetune data check`: nodes, their progress, and what came of them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
import shlex
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
    from components.image_example_gen import rejects
    from components.model_evaluator.gate import Check
    from configs.schema import Config
    from pipeline.local_runner import NodeStatus
    from pipeline.outcome import DataOutcome, Outcome

_Outcome = TypeVar("_Outcome")
_SPLITS = ("train", "eval", "test")
_MOST_LABELS = 20

_OUTPUT_DIR: dict[str, Any] = {
    "metavar": "FOLDER",
    "type": click.Path(file_okay=False, path_type=Path),
    "callback": options.checked_folder,
}


@click.command()
@options.config_option
@options.set_option
@options.data_option
@click.option("--output-dir", **_OUTPUT_DIR, required=True, help="Where all that the runs of this project make is kept.")
def run(config_path: str | None, overrides: tuple[str, ...], data: str | None, output_dir: Path) -> None:
    """Train a classifier, judge it on pictures it has not seen, and publish it if it passes the gate.

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
    _check_source(config, output_dir)
    log_path = _log_path(output_dir)
    with _interruptible(log_path):
        _check_files(config)
        _check_beam(config)
        _check_scratch(config, output_dir)
        look = f"{output_dir}, log {log_path}"
        command = shlex.join(["finetune", *sys.argv[1:]])
        find_page = functools.partial(_page, output_dir, time.time())
        outcome = _run_logged(
            lambda on_status: _runner().run_locally(config, output_dir, on_status, look, command),
            log_path,
            find_page=find_page,
        )
    _print_outcome(outcome)
    if page := find_page():
        click.echo(f"report         {page}")
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
    _check_source(config, output_dir)
    with contextlib.ExitStack() as stack:
        folder = output_dir or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="finetune-")))
        log_path = _log_path(folder)
        stack.enter_context(_interruptible(log_path, scratch=None if output_dir else folder))
        _check_files(config)
        _check_beam(config)
        outcome = _run_logged(
            lambda on_status: _runner().check_data(config, folder, on_status), log_path, scratch=output_dir is None
        )
        if output_dir is None:
            outcome = _kept(outcome)
        _print_data(outcome)
        _print_findings(outcome)
        click.echo(f"data           {'accepted' if outcome.accepted else 'refused'}")
    sys.exit(0 if outcome.accepted else options.FAILED)


def _kept(outcome: DataOutcome) -> DataOutcome:
    """Keep the report of a check whose folder goes, where there is something to look up."""
    report = os.path.dirname(outcome.summary.path)
    if not (outcome.summary.rejected or outcome.summary.duplicates or outcome.findings):
        return outcome
    folder = tempfile.mkdtemp(prefix="finetune-check-")
    shutil.copytree(report, folder, dirs_exist_ok=True)
    findings_path = shutil.copy(outcome.findings_path, folder)
    moved = [finding._replace(message=finding.message.replace(report, folder)) for finding in outcome.findings]
    summary = outcome.summary._replace(path=os.path.join(folder, os.path.basename(outcome.summary.path)))
    return dataclasses.replace(outcome, summary=summary, findings=tuple(moved), findings_path=findings_path)


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


def _check_source(config: Config, output_dir: Path | None) -> None:
    """End with exit code 2 if there is nothing to learn or to start from, before anything heavy is imported."""
    from components.image_example_gen import files, sources, spans

    weights = config.model.weights
    if weights not in {None, options.IMAGENET} and not os.path.isfile(str(weights)):
        expected = "expected imagenet, null or the path of an H5 file"
        raise options.InputError(f"model.weights = {weights}: no such file; {expected}")
    try:
        locations = spans.resolve(*spans.divide(str(config.data.source)), config.data.num_spans)
        for location in locations if output_dir is not None else []:
            if files.is_local(location.uri) and sources.holds(location.uri, str(output_dir)):
                raise options.InputError(
                    f"--output-dir {output_dir} lies inside the pictures, {location.uri}, and would be read as such by the"
                    " next run; name a folder outside"
                )
        sources.check(locations, config.data.grouping()["group_name"])
    except spans.DataError as error:
        raise options.InputError(str(error)) from None


def _check_files(config: Config) -> None:
    """End with exit code 2 if a schema or weights that are named can't be used, before a run is set up."""
    from pipeline import log_file

    with log_file.capture_output():
        from components.image_schema_gen import component as schema_gen
        from modules import weights

        try:
            weights.check(config.model.weights)
            if config.data.schema_file is not None:
                schema_gen.read_schema(config.data.schema_file)
        except (schema_gen.SchemaError, weights.WeightsError) as error:
            raise options.InputError(str(error)) from None


def _check_beam(config: Config) -> None:
    """End with exit code 2 if what Beam nodes run on can't be used."""
    from pipeline import log_file

    with log_file.capture_output():
        from pipeline import beam, flink

        try:
            beam.check(config.beam)
        except (flink.FlinkError, flink.UnreachableError) as error:
            raise options.InputError(str(error)) from None


def _check_scratch(config: Config, output_dir: Path) -> None:
    """End with exit code 2 if there is no folder for temporary files or for fetched weights."""
    from modules import weights

    tempfile.gettempdir()
    try:
        weights.keep_somewhere(config.model.weights, output_dir / "work" / "weights")
    except weights.WeightsError as error:
        raise options.InputError(str(error)) from None


def _page(output_dir: Path, since: float) -> Path | None:
    """The page of a run, if one was written since then."""
    from components.run_report.executor import FILE

    page = output_dir / FILE
    return page if page.exists() and page.stat().st_mtime >= since - 1.0 else None


def _runner() -> ModuleType:
    from pipeline import local_runner

    return local_runner


def _run_logged(
    work: Callable[[Callable[[NodeStatus], None]], _Outcome],
    log_path: Path,
    scratch: bool = False,
    find_page: Callable[[], Path | None] = lambda: None,
) -> _Outcome:
    """Run nodes with progress in the terminal, and all that libraries say in a file, which is kept if the work fails."""
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
    if scratch:  # which goes
        folder, log_path = log_path.parents[1], Path(shutil.copy(log_path, tempfile.mkdtemp(prefix="finetune-check-")))
        shutil.rmtree(folder, ignore_errors=True)
    page = find_page()
    return _end(f"{failure}. {f'Report: {page}. ' if page else ''}Log: {log_path}")


class _RunProgress(logging.Handler):
    """Prints a line a node and what the nodes report; on a terminal, shows besides where the run is now.

    Args:
      stream: the terminal.
    """

    def __init__(self, stream: TextIO):
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        super().__init__(logging.INFO)
        self._level_before = logging.NOTSET
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
        self._level_before = logger.level
        logger.setLevel(logging.DEBUG)
        logger.addHandler(self)
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        logger = logging.getLogger("finetune")
        logger.removeHandler(self)
        logger.setLevel(self._level_before)

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
        if getattr(record, "details", False):
            return  # for the log alone
        if getattr(record, "transient", False):
            self._bar.update(self._task, description=f"{self._node_id:<17} {record.getMessage()}")
        else:
            level = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
            self._print(f"  {level}{record.getMessage()}")

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)


def _print_data(data: DataOutcome) -> None:
    """Print what was ingested to standard output."""
    from components.image_example_gen import rejects, spans

    summary = data.summary
    if summary.spans:
        click.echo(f"spans          {spans.in_words(summary.spans)}")
    parts = ", ".join(f"{summary.by_split.get(split, 0)} {split}" for split in _SPLITS)
    labels = rejects.counted(len(summary.labels), "label")
    click.echo(f"{'pictures':<14} {summary.total} of {labels}: {parts}")
    _print_labels(summary)
    for line in data.together.sentences():
        click.echo(f"{'':<14} {line}")
    if summary.duplicates:
        click.echo(f"{'':<14} {summary.duplicates} {'copy' if summary.duplicates == 1 else 'copies'} left out")
    if summary.rejected:
        click.echo(f"{'':<14} {rejects.counted(summary.rejected, 'file')} rejected, {summary.where}")
    if summary.others:
        click.echo(f"{'':<14} {summary.describe_others()}; no pictures, passed over")


def _print_labels(summary: rejects.Summary) -> None:
    """Print how many pictures each label has, the most first, folded where there are many."""
    from rich import cells

    from cli import answers

    counts = summary.by_label
    # The few at the end are what a mistyped name makes.
    folded = (
        [*counts] if len(counts) <= _MOST_LABELS else [*[*counts][: _MOST_LABELS // 2], *[*counts][-_MOST_LABELS // 2 :]]
    )
    shown = {label: answers.escaped(label) for label in folded}
    width = min(40, max(map(cells.cell_len, shown.values()), default=0))
    for number, (label, name) in enumerate(shown.items()):
        if len(folded) < len(counts) and number == _MOST_LABELS // 2:
            click.echo(f"{'':<14} … {len(counts) - len(folded)} more labels …")
        split = ", ".join(f"{summary.pictures.get((split, label), 0)} {split}" for split in _SPLITS)
        padded = name if cells.cell_len(name) > width else cells.set_cell_size(name, width)
        click.echo(f"{'':<14} {padded}  {counts[label]:>6}: {split}")


def _print_findings(data: DataOutcome) -> None:
    """Print what speaks against the data, many of a kind in one line."""
    from components.data_gate import findings

    together = findings.summed(data.findings)
    for finding in together:
        click.echo(f"{finding.severity:<14} {finding.message}")
    if len(together) < len(data.findings):
        click.echo(f"{'':<14} all {len(data.findings)} findings, a line each, are in {data.findings_path}")


def _print_outcome(outcome: Outcome) -> None:
    """Print the result of a run to standard output."""
    _print_data(outcome.data)
    from components.model_evaluator import gate

    rows = {check.metric: check for check in outcome.checks}
    click.echo(f"test accuracy  {rows[gate.ACCURACY].value:.4f} on {rows['test examples'].value:.0f} pictures")
    click.echo(f"baseline       {_baseline(gate.comparison(outcome.checks))}")
    _print_checks(outcome.checks)
    if outcome.suspects is not None:
        count, path = outcome.suspects
        click.echo(f"suspects       {f'{count} labels may be wrong: {path}' if count else 'no label seems to be wrong'}")
    click.echo(f"gate           {'blessed' if outcome.blessed else 'refused'}")
    for failure in outcome.failures:
        click.echo(f"can't serve    {failure}")
    click.echo(f"model          {outcome.pushed_to or 'not published'}")


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
