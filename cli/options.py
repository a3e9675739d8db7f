"""From the command line to a configuration: the options that name one, and errors of usage."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from configs.schema import Config


IMAGENET = "imagenet"
"""The weights that are no path; as in `modules.weights`, which is slow to import."""

_PATTERN_MARKS = "*?[]\\"

FAILED = 1
"""Exit code of a run that failed or was refused, and of answers that are missing."""


class InputError(click.ClickException):
    """Arguments, a configuration or data that can't be used."""

    exit_code = 2


config_option = click.option("--config", "config_path", metavar="FILE", help="YAML file; without one, the defaults hold.")
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override one key, e.g. training.batch_size=16.",
)
data_option = click.option(
    "--data",
    metavar="SOURCE",
    help="Folder with one subfolder of pictures per class, manifest (.csv, .jsonl) or TFRecords; stands for data.source.",
)


def check_printed() -> None:
    """End with exit code 1 if results can't be written, where a command makes nothing else."""
    from pipeline import streams

    if (problem := streams.dropped()) is not None:
        raise unprinted(problem)


def unprinted(problem: OSError) -> click.ClickException:
    """Return what ends a command with exit code 1, since results can't be written."""
    return click.ClickException(f"standard output: {problem.strerror}; what was asked for is not complete")


def together(*given: Any) -> Callable[[Any], Any]:
    """Return a decorator that gives a command several options, in their order."""

    def decorate(command: Any) -> Any:
        for option in reversed(given):
            command = option(command)
        return command

    return decorate


def load(path: str | None, overrides: Sequence[str], data: str | None = None) -> Config:
    """Read the configuration, or end with exit code 2 and a line for each error."""
    from configs import reading, schema

    try:
        return reading.load(path, tuple(overrides), {} if data is None else {"data.source": check_name("--data", data)})
    except schema.ConfigError as error:
        raise InputError(str(error)) from None


def check_name(option: str, path: str) -> str:
    """Return a path, or end with exit code 2 if it is no Unicode: neither the configuration nor ML Metadata can hold it."""
    try:
        path.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode(errors="backslashreplace")
        raise InputError(f"{option} {shown}: the name is not UTF-8; rename it, or name a link to it") from None
    return path


def checked_name(context: click.Context, option: click.Parameter, path: Path | None) -> Path | None:
    """Check the name of a folder that is read; a callback of click."""
    del context
    if path is not None:
        check_name(option.opts[0], str(path))
    return path


project_option = click.option(
    "--output-dir",
    metavar="FOLDER",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    callback=checked_name,
    help="Of the project.",
)


def checked_folder(context: click.Context, option: click.Parameter, folder: Path | None) -> Path | None:
    """Check the name of a folder that is written into; a callback of click."""
    del context
    if folder is not None:
        check_name(option.opts[0], str(folder))
        if marks := [mark for mark in _PATTERN_MARKS if mark in os.path.realpath(folder)]:
            what = f"{' and '.join(marks)} in the name of a folder"
            raise InputError(f"{option.opts[0]} {folder}: Apache Beam takes {what} for a pattern; name another folder")
    return folder


def load_with_source(path: str | None, overrides: Sequence[str], data: str | None) -> Config:
    """Read the configuration and make the paths in it absolute, since a run works elsewhere, or end with exit code 2."""
    config = load(path, overrides, data)
    if config.data.source is None:
        raise InputError("no pictures named: give --data SOURCE, or data.source in the configuration")
    paths = {"source": _absolute(config.data.source), "schema_file": _absolute(config.data.schema_file)}
    weights = config.model.weights if config.model.weights == IMAGENET else _absolute(config.model.weights)
    flink = config.beam.flink
    if flink is not None:
        flink = flink.model_copy(update={"job_server_jar": _absolute(flink.job_server_jar)})
    return config.model_copy(
        update={
            "data": config.data.model_copy(update=paths),
            "model": config.model.model_copy(update={"weights": weights}),
            "beam": config.beam.model_copy(update={"flink": flink}),
        }
    )


def _absolute(path: str | None) -> str | None:
    if path is None:
        return None
    path = path.removeprefix("file://")  # with which the links in it would not be looked at
    if not path:
        raise InputError("file:// names no file or folder")
    return path if "://" in path else os.path.abspath(path)
