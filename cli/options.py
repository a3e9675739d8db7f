"""From the command line to a configuration: the options that name one, and errors of usage."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from configs.schema import Config


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

    if data is not None:
        overrides = (*overrides, f"data.source={json.dumps(data)}")
    try:
        return reading.load(path, tuple(overrides))
    except schema.ConfigError as error:
        raise InputError(str(error)) from None


def load_with_source(path: str | None, overrides: Sequence[str], data: str | None) -> Config:
    """Read the configuration and make its source absolute, or end with exit code 2."""
    config = load(path, overrides, data)
    if config.data.source is None:
        raise InputError("no pictures named: give --data SOURCE, or data.source in the configuration")
    source = config.data.source if "://" in config.data.source else os.path.abspath(config.data.source)
    return config.model_copy(update={"data": config.data.model_copy(update={"source": source})})
