"""`finetune history` and `finetune clean`: what became of a project's runs, and what they need no longer."""

from __future__ import annotations

import contextlib
import datetime
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from cli import options

if TYPE_CHECKING:
    from configs.schema import Config
    from pipeline import history as runs
    from pipeline import needs, retention

_of_a_project = options.together(
    click.option(
        "--output-dir",
        metavar="FOLDER",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        callback=options.checked_name,
        help="Of runs on this machine.",
    ),
    click.option(
        "--config",
        "config_path",
        metavar="FILE",
        help="Of runs on Kubeflow: names the pipeline, its volume, and the secret with the metadata store's URL.",
    ),
    options.set_option,
    click.option(
        "--metadata",
        "metadata_url",
        envvar="FINETUNE_METADATA_URL",
        metavar="URL",
        help="ML Metadata as it is reached from here, e.g. grpc://localhost:8080; without, kubectl forwards a port to it.",
    ),
    click.option("--namespace", help="Of the user, where Kubeflow has several."),
)


class _Asked(NamedTuple):
    """Which project is meant."""

    output_dir: Path | None
    config_path: str | None
    overrides: tuple[str, ...]
    metadata_url: str | None
    namespace: str | None

    def config(self) -> Config | None:
        """The configuration that is named; None for a folder alone."""
        if self.output_dir is None and self.config_path is None:
            raise options.InputError("whose runs? Give --output-dir FOLDER, or --config FILE for those on Kubeflow")
        if self.config_path is None and not self.overrides:
            return None
        return options.load(self.config_path, self.overrides)


@click.command()
@_of_a_project
@click.option("--last", type=click.IntRange(min=1), metavar="N", help="Only so many.")
@click.option("--json", "as_json", is_flag=True, help="A line of JSON a run, with all that is known of it.")
def history(last: int | None, as_json: bool, **asked: Any) -> None:
    """Print a line a run, the newest last: its end, accuracy, pictures, version, and what was another than before.

    What changed is `data`, the keys of the configuration, `code`, and libraries. With --json, a line has the whole
    configuration, the values before and now, and fingerprints of data and code. All that is in ML Metadata, and stays there
    when what a run has made is deleted.

    \b
    Examples:
      finetune history --output-dir runs/photos
      finetune history --output-dir runs/photos --json | jq 'select(.version == 1795478357)'
      finetune history --config photos.yaml --metadata grpc://localhost:8080
    """
    from pipeline import log_file

    with log_file.capture_output() as terminal, _project(_Asked(**asked)) as project:
        from pipeline import history as runs

        lines = runs.read(project.connection, project.name, project.serving_dir)[-(last or 0) :]
        if as_json:
            for line in lines:
                terminal.out.write(line.model_dump_json() + "\n")
        else:
            _show(lines, terminal.out)
        terminal.out.flush()
    if not lines:
        click.echo("finetune: no runs yet", err=True)
    options.check_printed()


@click.command()
@_of_a_project
@click.option("--keep-runs", type=click.IntRange(min=1), metavar="N", help="In the place of the configuration's keep_runs.")
@click.option("--dry-run", is_flag=True, help="Only print what would be deleted.")
def clean(keep_runs: int | None, dry_run: bool, **asked: Any) -> None:
    """Delete artifacts that nothing needs any more, and what runs left that were killed.

    What the last runs have made and used stays, also what the live model and the model that it was judged against need, and
    the data accepted last. Each run does this at its end. ML Metadata still knows what there was (`finetune history`), and
    folders that it does not know are left alone. What is deleted is printed, a line a folder.

    \b
    Examples:
      finetune clean --output-dir runs/photos --dry-run
      finetune clean --output-dir runs/photos --keep-runs 2
      finetune clean --config photos.yaml --metadata grpc://metadata-grpc-service.kubeflow:8080
    """
    from pipeline import log_file

    which = _Asked(**asked)
    with log_file.capture_output() as terminal:
        from pipeline import needs, retention

        def show(one: retention.Surplus, size: int) -> None:
            terminal.out.write(f"{retention.readable(size):>10}  {one.path}\n")

        try:
            if which.output_dir is not None:
                freed = _clean_here(which, keep_runs, dry_run, show)
            else:
                freed = _clean_there(which, keep_runs, dry_run, show)
        except needs.UnseenError as error:
            raise options.InputError(str(error)) from None
        except KeyboardInterrupt:
            raise click.ClickException("interrupted; the same command goes on") from None
        terminal.out.flush()
    click.echo(f"{'would be ' if dry_run else ''}deleted: {retention.in_words(freed)}", err=True)
    options.check_printed()


def _clean_here(
    which: _Asked, keep_runs: int | None, dry_run: bool, show: Callable[[retention.Surplus, int], None]
) -> retention.Freed:
    """Clean a folder of this machine."""
    from pipeline import output_folder, project

    assert which.output_dir is not None
    try:
        config = which.config()
        return project.clean(which.output_dir, keep_runs, config, dry_run, show)
    except output_folder.FolderError as error:
        raise options.InputError(str(error)) from None
    except project.RunError as error:
        raise click.ClickException(f"{error}; it cleans up itself when it ends") from None


def _clean_there(
    which: _Asked, keep_runs: int | None, dry_run: bool, show: Callable[[retention.Surplus, int], None]
) -> retention.Freed:
    """Clean a volume of a cluster, where runs may be under way."""
    from pipeline import place, retention

    config = which.config()
    assert config is not None
    keep = keep_runs or config.keep_runs
    if keep is None:
        raise options.InputError(retention.NO_NUMBER)
    volume = config.kubeflow.volume.path
    if not os.path.isdir(volume):
        raise options.InputError(
            f"kubeflow.volume.path = {volume} is not here: run this where the volume is mounted, as"
            " kubeflow/manifests/clean does"
        )
    with _project(which) as project, place.inside(volume):
        work = retention.look if dry_run else retention.clean
        return work(project, keep, False, show)


@contextlib.contextmanager
def _project(which: _Asked) -> Iterator[needs.Project]:
    """The project that is meant, with a way to its metadata store."""
    from pipeline import needs, outcome, output_folder, project

    config = which.config()
    if which.output_dir is not None:
        try:
            name = project.owner(which.output_dir)
        except output_folder.FolderError as error:
            raise options.InputError(str(error)) from None
        connection = outcome.read_only(which.output_dir / output_folder.METADATA_FILE)
        yield project.to_clean(connection, name, which.output_dir)
        return
    import ml_metadata as mlmd

    from kubeflow import folders, inside

    assert config is not None
    where = folders.folders(config)
    try:
        with inside.metadata(which.metadata_url, inside.secret_of(config), which.namespace or inside.NAMESPACE) as found:
            yield needs.Project(found, config.name, where.pipeline_root, where.serving_dir)
    except inside.InsideError as error:
        raise click.ClickException(str(error)) from None
    except mlmd.errors.StatusError as error:
        raise click.ClickException(f"ML Metadata does not answer as it should: {' '.join(str(error).split())}") from None


def _show(lines: list[runs.Line], stream: Any) -> None:
    """Print runs for the eye."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="")
    names = any(not _is_time(line.run) for line in lines)
    for column in (*(["run"] if names else []), "begun", "verdict", "accuracy", "pictures", "version", "changed"):
        table.add_column(column, no_wrap=True, justify="right" if column == "pictures" else "left")
    table.add_column("reason", overflow="fold")
    for line in lines:
        table.add_row(*([line.run] if names else []), *_cells(line))
    # A line a run for who reads it with other programs.
    console = Console(file=stream, highlight=False, width=None if stream.isatty() else sys.maxsize >> 32)
    console.print(table)


def _cells(line: runs.Line) -> tuple[str, ...]:
    from rich.markup import escape

    from pipeline.history import UNFINISHED

    begun = line.begun or line.ended
    accuracy = "" if line.accuracy is None else f"{line.accuracy:.4f}"
    if line.accuracy is not None and line.accuracy_interval is not None:
        accuracy += f" ({line.accuracy_interval[0]:.4f} to {line.accuracy_interval[1]:.4f})"
    version = "" if line.version is None else f"{line.version}{' live' if line.live else ''}"
    reason = f"{line.node}: {line.reason}" if line.node and line.reason else line.reason
    return (
        begun.astimezone(datetime.UTC).strftime("%Y-%m-%d %H:%M") if begun else "",
        str(line.verdict or UNFINISHED),
        accuracy,
        "" if line.pictures is None else str(line.pictures),
        version,
        escape(", ".join(line.changed.words)),
        escape(" ".join(reason.split())),
    )


def _is_time(run: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(datetime.datetime.fromisoformat(run))
    return False
