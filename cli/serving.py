"""`finetune predict`, `finetune serve-check` and `finetune models`: published models and the servers that serve them."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli import options

if TYPE_CHECKING:
    from serving.client import Client
    from serving.model_info import ModelInfo
    from serving.versions import Versions

model_option = click.option(
    "--model",
    "model_dir",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    callback=options.checked_name,
    help="OUTPUT_DIR/serving for the live version, or the folder of one version.",
)
_with_endpoint = options.together(
    click.option(
        "--endpoint",
        metavar="URL",
        help="grpc://HOST:8500/NAME or http://HOST:8501/v1/models/NAME; grpcs and https for TLS.",
    ),
    click.option("--timeout", default=30.0, show_default=True, help="Seconds for a request, with all attempts."),
    click.option("--metadata", multiple=True, metavar="KEY=VALUE", help="Sent with each request, e.g. authorization."),
    click.option(
        "--certificates",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="PEM file with the authorities that vouch for the server.",
    ),
)


@click.command()
@model_option
@_with_endpoint
@click.option("--top", type=click.IntRange(min=1), default=3, show_default=True, help="Labels a picture.")
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Pictures a request.")
@click.option("--concurrency", type=click.IntRange(min=1), default=2, show_default=True, help="Requests at once.")
@click.option("--null", "-0", is_flag=True, help="Paths on standard input have a NUL byte behind each, as of find -print0.")
@click.option("--json", "as_json", is_flag=True, help="Lines of JSON on a terminal too, in place of a table.")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
def predict(
    model_dir: Path | None,
    endpoint: str | None,
    timeout: float,
    metadata: tuple[str, ...],
    certificates: Path | None,
    top: int,
    batch_size: int,
    concurrency: int,
    null: bool,
    as_json: bool,
    paths: tuple[str, ...],
) -> None:
    """Classify pictures with a published model, here or at a server, in the order in which they are given.

    A PATH is a file, a folder with all that lies below it, sorted, or `-`: paths on standard input, one a line. Below a
    folder, hidden files, Thumbs.db and the like are passed over, and links to folders are not followed.

    A picture is a line. On a terminal it is for the eye; anywhere else, or with --json, it is JSON: `file`, the path;
    `label` and `score` (0 to 1), the most probable class; `top`, the --top most probable, each with `label` and `score`. A
    file that can't be used has `file` and `error` instead, the others are still answered, and the exit code is 1. It is 2
    if there is nothing to classify. Bytes of a path that are not UTF-8 are printed as \\xNN.

    With --endpoint, --model says how files were prepared in training, where that is not the default.

    \b
    Examples:
      finetune predict --model runs/photos/serving picture.jpg
      finetune predict --model runs/photos/serving/1795478357 --top 5 holidays > answers.jsonl
      finetune predict --endpoint grpc://localhost:8500/images - < list.txt
    """
    from pipeline import log_file

    failed, message = False, None
    with log_file.capture_output() as terminal:
        from cli import answers, inputs
        from modules import signatures
        from serving import client, pictures
        from serving.local import LocalModel, ModelError, find_version
        from serving.versions import VersionError

        if null and inputs.STDIN not in paths:
            raise options.InputError("--null is about paths on standard input: give - as well")
        try:
            preparation = signatures.read_preparation(str(find_version(model_dir))) if model_dir else {}
            load: Callable[[], pictures.Model]
            if endpoint is not None:
                load = functools.partial(_connect, endpoint, timeout, metadata, certificates)
            elif model_dir is not None:
                load = functools.partial(LocalModel, model_dir)
            else:
                raise options.InputError("what shall answer? Give --model FOLDER or --endpoint URL")
            files = inputs.find(paths, null)
            server = load()
        except (ModelError, VersionError) as error:
            raise options.InputError(str(error)) from None
        with answers.shown(terminal, as_json, inputs.count(paths)) as show:
            try:
                for record in pictures.answers(server, files, preparation, top, batch_size, concurrency):
                    failed |= "error" in record
                    show(record)
            except client.ServingError as error:
                message = str(error)
            except KeyboardInterrupt:
                message = "interrupted; what was answered is printed"
    if message is not None:
        click.echo(f"finetune: {message}", err=True)
        # What is still being asked for would be waited for, as long as --timeout.
        sys.stderr.flush()
        os._exit(options.FAILED)
    sys.exit(options.FAILED if failed else 0)


@click.command(name="serve-check")
@model_option
@_with_endpoint
def serve_check(
    model_dir: Path | None, endpoint: str | None, timeout: float, metadata: tuple[str, ...], certificates: Path | None
) -> None:
    """Compare a server with what was published: its versions, signatures, and answers to the warm-up pictures.

    Exit code 1 means that something is not as it was when the model was judged.

    \b
    Examples:
      finetune serve-check --endpoint grpc://localhost:8500/images --model runs/photos/serving
      finetune serve-check --endpoint http://localhost:8501/v1/models/images --model runs/photos/serving
    """
    from pipeline import log_file

    if endpoint is None or model_dir is None:
        raise options.InputError("give --endpoint URL and --model FOLDER")
    lines = []
    failed = False
    message = None
    with log_file.capture_output():
        from serving import check, client

        folder, info = _published(model_dir)
        server = _connect(endpoint, timeout, metadata, certificates)
        try:
            for finding in check.findings(server, folder, info):
                failed |= not finding.ok
                lines.append(f"{'ok' if finding.ok else 'FAIL':<5} {finding.what}: {finding.found}")
        except client.ServingError as error:
            message = str(error)
    for line in lines:
        click.echo(line)
    if message is not None:
        click.echo(f"finetune: {message}", err=True)
    sys.exit(options.FAILED if failed or message else 0)


@click.group()
def models() -> None:
    """Published versions: look at them, go back to one, delete old ones."""


_serving_dir = click.option(
    "--serving-dir", metavar="FOLDER", required=True, help="Where versions are published: OUTPUT_DIR/serving."
)


@models.command(name="list")
@_serving_dir
def list_versions(serving_dir: str) -> None:
    """Print the versions, when they were published, their accuracy, and which is live.

    \b
    Example:
      finetune models list --serving-dir runs/photos/serving
    """
    with _versions(serving_dir) as store:
        from serving import model_info

        numbers, live, withdrawn = store.numbers(), store.live, store.withdrawn
        rows = [(number, model_info.read(store.path(number))) for number in numbers]
    click.echo(f"{'version':<12} {'published':<26} {'accuracy':<9} state")
    for number, info in rows:
        state = "live" if number == live else "withdrawn" if number in withdrawn else ""
        accuracy = f"{info.metrics['accuracy']:.4f}" if info and "accuracy" in info.metrics else "-"
        click.echo(f"{number:<12} {info.published if info else '-':<26} {accuracy:<9} {state}".rstrip())
    options.check_printed()


@models.command()
@_serving_dir
@click.argument("version", type=int)
def verify(serving_dir: str, version: int) -> None:
    """Check a version's files against their digests, load it, and compare its answers with those that were judged.

    \b
    Example:
      finetune models verify 1795478357 --serving-dir runs/photos/serving
    """
    with _versions(serving_dir) as store:
        from serving import check, fresh, model_info

        if version not in store.numbers():
            raise options.InputError(f"{serving_dir}: no version {version}; there are {store.numbers()}")
        info = model_info.read(store.path(version))
        if info is None:
            wrong = [f"{model_info.FILE} is missing or can't be read"]
        else:
            try:
                wrong = model_info.differences(store.path(version), info) or check.answers_differently(
                    store.path(version), info
                )
            except fresh.NotJudgedError as error:
                raise click.ClickException(f"{version} could not be judged: {error}") from None
    for line in wrong:
        click.echo(line)
    click.echo(f"{version} is {'not as it was published' if wrong else 'as it was published'}")
    sys.exit(options.FAILED if wrong else 0)


@models.command()
@_serving_dir
@click.option("--to", type=int, metavar="VERSION", help="The version to serve; without, the one before the live one.")
def rollback(serving_dir: str, to: int | None) -> None:
    """Make an earlier version live; TensorFlow Serving follows models.config without a restart.

    The models above it, up to the live one, are withdrawn: the next run publishes a new one if it has one, but none of these
    again, also when their versions are deleted.

    \b
    Examples:
      finetune models rollback --serving-dir runs/photos/serving
      finetune models rollback --to 1795478357 --serving-dir runs/photos/serving
    """
    with _versions(serving_dir) as store:
        live = store.rollback(to)
    click.echo(f"{live} is live")


@models.command()
@_serving_dir
@click.option(
    "--keep", type=click.IntRange(min=1), required=True, help="How many stay that were not rolled back, the live one always."
)
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    default=300.0,
    show_default=True,
    help="How long a version stays after it was live: a server may be loading it.",
)
def prune(serving_dir: str, keep: int, grace: float) -> None:
    """Delete old versions, first those that were rolled back; never the live one, nor one that was live a moment ago.

    \b
    Example:
      finetune models prune --keep 5 --serving-dir runs/photos/serving
    """
    with _versions(serving_dir) as store:
        gone = store.prune(keep, grace)
    for number in gone:
        click.echo(f"{number} is deleted")


@contextlib.contextmanager
def _versions(folder: str) -> Iterator[Versions]:
    """The versions of a folder, quietly; errors end with exit code 2."""
    from pipeline import log_file

    with log_file.capture_output():
        from serving import versions

        try:
            store = versions.Versions(folder)
            if not store.numbers():
                raise options.InputError(
                    f"{folder}: no version here; expected OUTPUT_DIR/serving of a run that published a model"
                )
            yield store
        except versions.VersionError as error:
            raise options.InputError(str(error)) from None


def _published(model_dir: Path) -> tuple[str, ModelInfo]:
    from serving import local, model_info, versions

    try:
        folder = str(local.find_version(model_dir))
    except (local.ModelError, versions.VersionError) as error:
        raise options.InputError(str(error)) from None
    info = model_info.read(folder)
    if info is None:
        raise options.InputError(f"{folder}: {model_info.FILE} is missing or can't be read; was it published by a run?")
    return folder, info


def _connect(endpoint: str, timeout: float, metadata: tuple[str, ...], certificates: Path | None) -> Client:
    from serving import client

    pairs = dict(pair.partition("=")[::2] for pair in metadata)
    try:
        return client.connect(endpoint, client.Options(timeout, pairs, certificates))
    except ValueError as error:
        raise options.InputError(str(error)) from None
