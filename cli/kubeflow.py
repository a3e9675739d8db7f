"""`finetune kubeflow`: the pipeline on Kubeflow Pipelines."""

from __future__ import annotations

import contextlib
import datetime
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli import options, watching

if TYPE_CHECKING:
    from configs.schema import Config
    from kubeflow.client import Pipelines
    from kubeflow.schedules import Schedules

_with_server = options.together(
    click.option("--host", envvar="KFP_HOST", metavar="URL", help="Of Kubeflow Pipelines; in the cluster it is found."),
    click.option(
        "--token-file",
        envvar="KFP_TOKEN_FILE",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="File with a bearer token.",
    ),
    click.option("--namespace", help="Of the user, where Kubeflow has several."),
    click.option("--server-version", metavar="VERSION", help="Of the server, e.g. 2.17, where it does not say so itself."),
)
_with_watching = options.together(
    click.option(
        "--metadata",
        "metadata_url",
        envvar="FINETUNE_METADATA_URL",
        metavar="URL",
        help="ML Metadata as it is reached from here, e.g. grpc://localhost:8080; without, kubectl forwards a port to it.",
    ),
    click.option(
        "--patience",
        type=click.FloatRange(min=0.0),
        default=300.0,
        show_default=True,
        metavar="SECONDS",
        help="How long a lost connection is waited for.",
    ),
)
_with_run = options.together(
    click.option(
        "--pipeline",
        type=click.Path(dir_okay=False, path_type=Path),
        default="pipeline.yaml",
        show_default=True,
        help="What `finetune kubeflow compile` wrote.",
    ),
    click.option("--experiment", help="Made if it is missing; without, the pipeline's name."),
    click.option("--parameter", "parameters", multiple=True, metavar="NAME=VALUE", help="Of the runs."),
    click.option("--service-account", help="That the pods run as."),
)


@click.group()
def kubeflow() -> None:
    """Compile the pipeline for Kubeflow Pipelines, run it there, now or on a schedule."""


@kubeflow.command(name="compile")
@options.config_option
@options.set_option
@options.data_option
@click.option("--image", required=True, help="The image with this project, as the cluster pulls it.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default="pipeline.yaml",
    show_default=True,
    help="File to write.",
)
def compile_pipeline(
    config_path: str | None, overrides: tuple[str, ...], data: str | None, image: str, output: Path
) -> None:
    """Write the pipeline as YAML for Kubeflow Pipelines v2: a task for each group of nodes that share a pod.

    Nodes without needs of their own do; `--set kubeflow.tasks=one_per_node` gives each a task.
    The pictures are named as the containers see them; what a run may set anew becomes parameters of the pipeline.

    \b
    Examples:
      finetune kubeflow compile --config photos.yaml --image registry/finetune:1 --output pipeline.yaml
      finetune kubeflow compile --data /mnt/finetune/photos/{SPAN} --image finetune:1 --set kubeflow.volume.claim=shared
    """
    from pipeline import log_file

    if output.suffix != ".yaml":
        raise options.InputError(f"{output}: expected a name that ends with .yaml")
    config = options.load(config_path, overrides, data)
    source, schema_file = config.data.source or "", config.data.schema_file
    if not _is_seen_by_containers(source):
        example = os.path.join(config.kubeflow.volume.path, source or "photos")
        raise options.InputError(
            f"data.source = {source or None}: name the pictures as the containers see them, e.g. --data {example}"
        )
    if schema_file is not None and not _is_seen_by_containers(schema_file):
        example = os.path.join(config.kubeflow.volume.path, schema_file)
        raise options.InputError(
            f"data.schema_file = {schema_file}: name the file as the containers see it, e.g. {example}, and put it there"
        )
    _check_flink(config)
    with log_file.capture_output():
        from configs.schema import ConfigError
        from kubeflow import compiler

        try:
            tasks = compiler.compile_pipeline(config, image, output)
        except (compiler.CompileError, ConfigError) as error:
            raise options.InputError(str(error)) from None
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(output)) from None
    click.echo(f"{output}: {tasks} tasks, {output.stat().st_size / 1000:.0f} kB")


def _check_flink(config: Config) -> None:
    """End with exit code 2 if Flink, or the jar for it, is named as only this machine knows it; none need be there yet."""
    if config.beam.runner != "flink" or config.beam.flink is None:
        return
    jar, master = config.beam.flink.job_server_jar, config.beam.flink.master
    if not os.path.isabs(jar):
        example = os.path.join(config.kubeflow.volume.path, "flink", "beam-job-server.jar")
        raise options.InputError(
            f"beam.flink.job_server_jar = {jar}: name the jar as the containers see it, e.g. {example}, and put it there"
        )
    if master.rpartition(":")[0] in {"localhost", "127.0.0.1"}:
        raise options.InputError(
            f"beam.flink.master = {master}: for a container that is itself; name Flink as the cluster knows it, e.g."
            " finetune-flink-rest:8081"
        )


def _is_seen_by_containers(path: str) -> bool:
    """Whether a path means the same in a container as here: a whole one, or one of an object store."""
    return "://" in path or os.path.isabs(path)


@kubeflow.command()
@_with_run
@_with_server
@click.option("--follow", is_flag=True, help="Wait for the end, with a line a node.")
@_with_watching
def submit(
    pipeline: Path,
    experiment: str | None,
    parameters: tuple[str, ...],
    service_account: str | None,
    host: str | None,
    token_file: Path | None,
    namespace: str | None,
    server_version: str | None,
    follow: bool,
    metadata_url: str | None,
    patience: float,
) -> None:
    """Start a run now; the pipeline is uploaded first, if it has changed.

    \b
    Examples:
      finetune kubeflow submit --pipeline pipeline.yaml --host http://localhost:8080 --follow
      finetune kubeflow submit --pipeline pipeline.yaml --parameter training_phases_1_epochs=20
    """
    with _server(host, token_file, namespace, server_version) as server:
        run_id = server.submit(pipeline, experiment, _values(parameters), service_account)
        click.echo(run_id)
        failed = follow and watching.watch(server, run_id, False, metadata_url, patience)
    sys.exit(options.FAILED if failed else 0)


@kubeflow.command()
@_with_run
@_with_server
@click.option("--name", help="Of the recurring run; without, the pipeline file's name.")
@click.option("--cron", help="E.g. '0 2 * * *', in the server's time zone: UTC, unless CRON_SCHEDULE_TIMEZONE says else.")
@click.option("--every", type=click.IntRange(min=1), metavar="SECONDS", help="In the place of --cron.")
@click.option("--start", metavar="TIME", help="Earliest start, ISO 8601; UTC if it names no time zone.")
@click.option("--end", metavar="TIME", help="Latest start, likewise.")
@click.option("--max-concurrency", type=click.IntRange(1, 10), default=1, show_default=True, help="Runs at once.")
@click.option("--catchup/--no-catchup", default=False, show_default=True, help="Make up for starts that were missed.")
@click.option("--disabled", is_flag=True, help="Create it, but do not let it run yet.")
def schedule(
    pipeline: Path,
    experiment: str | None,
    parameters: tuple[str, ...],
    service_account: str | None,
    host: str | None,
    token_file: Path | None,
    namespace: str | None,
    server_version: str | None,
    name: str | None,
    cron: str | None,
    every: int | None,
    start: str | None,
    end: str | None,
    max_concurrency: int,
    catchup: bool,
    disabled: bool,
) -> None:
    """Let runs start by themselves; again with the same name changes the schedule, and never makes a second one.

    A run that is under way goes on as it is: the schedule that is replaced is disabled at once, and removed when its last
    run has ended, by the next `schedule`, `status` or `change-schedule`.

    \b
    Examples:
      finetune kubeflow schedule --pipeline photos.yaml --name photos --cron '0 2 * * *'
      finetune kubeflow schedule --pipeline photos.yaml --every 3600 --start 2027-01-01T00:00+01:00
    """
    if (cron is None) == (every is None):
        raise options.InputError("when? Give either --cron or --every")
    with _server(host, token_file, namespace, server_version) as server:
        from kubeflow.schedules import Schedule, Schedules

        when = Schedule(cron, every, _moment(start), _moment(end), max_concurrency, catchup, not disabled)
        name = name or pipeline.stem
        schedules = Schedules(server)
        made = schedules.schedule(name, pipeline, when, experiment, _values(parameters), service_account)
        _sweep(schedules)
    click.echo(f"{name}  {made}")


@kubeflow.command(name="change-schedule")
@click.argument("action", type=click.Choice(["enable", "disable", "delete"]))
@click.argument("name")
@click.option("--yes", is_flag=True, help="Delete without asking, also what is under way.")
@_with_server
def change_schedule(
    action: str,
    name: str,
    yes: bool,
    host: str | None,
    token_file: Path | None,
    namespace: str | None,
    server_version: str | None,
) -> None:
    """Enable, disable or delete a schedule.

    Deleting one ends its runs that are under way, and says which; `disable` ends none.

    \b
    Examples:
      finetune kubeflow change-schedule disable photos --host http://localhost:8080
      finetune kubeflow change-schedule delete photos --yes
    """
    with _server(host, token_file, namespace, server_version) as server:
        from kubeflow.schedules import Schedules

        schedules = Schedules(server)
        if action == "delete":
            ending = schedules.ending_with(name)
            watching.say_all([f"run {run_id} is under way and ends with it" for run_id in ending])
            if not yes and not _confirmed(f"Delete the schedule {name}, and end {len(ending)} runs?"):
                raise options.InputError(f"{name} is not deleted; --yes deletes it without asking")
            schedules.delete(name)
        else:
            schedules.enable(name, action == "enable")
        _sweep(schedules)
    click.echo(f"{name} is {action}d")


@kubeflow.command()
@click.argument("run", metavar="RUN_ID", required=False)
@click.option("--experiment", help="Show its newest run, in the place of RUN_ID.")
@click.option("--follow", is_flag=True, help="Wait for the end.")
@_with_watching
@_with_server
def status(
    run: str | None,
    experiment: str | None,
    follow: bool,
    metadata_url: str | None,
    patience: float,
    host: str | None,
    token_file: Path | None,
    namespace: str | None,
    server_version: str | None,
) -> None:
    """Show a run, a line a node, and how it ended. Exit code 1 means that it failed, or was cancelled.

    The reason of a failure, the verdict and the version are in ML Metadata: --metadata names it, or kubectl reaches it.

    \b
    Examples:
      finetune kubeflow status --experiment photos --follow
      finetune kubeflow status 3f0c2a4e-0d3b-4d8e-9a52-1f6f6b0f7a11 --metadata grpc://localhost:8080
    """
    if (run is None) == (experiment is None):
        raise options.InputError("which run? Give RUN_ID or --experiment NAME")
    with _server(host, token_file, namespace, server_version) as server:
        from kubeflow.schedules import Schedules

        failed = watching.watch(server, run or server.latest_run(str(experiment)), not follow, metadata_url, patience)
        _sweep(Schedules(server))
    sys.exit(options.FAILED if failed else 0)


@kubeflow.command()
@click.argument("run", metavar="RUN_ID")
@_with_server
def cancel(run: str, host: str | None, token_file: Path | None, namespace: str | None, server_version: str | None) -> None:
    """End a run before its end.

    \b
    Example:
      finetune kubeflow cancel 3f0c2a4e-0d3b-4d8e-9a52-1f6f6b0f7a11
    """
    with _server(host, token_file, namespace, server_version) as server:
        server.cancel(run)
    click.echo(f"{run} is being ended")


@kubeflow.command()
@click.argument("run", metavar="RUN_ID")
@_with_server
@click.option("--follow", is_flag=True, help="Wait for the end.")
@_with_watching
def retry(
    run: str,
    host: str | None,
    token_file: Path | None,
    namespace: str | None,
    server_version: str | None,
    follow: bool,
    metadata_url: str | None,
    patience: float,
) -> None:
    """Go on with a run that failed, from the tasks that did; what was done stays done.

    \b
    Example:
      finetune kubeflow retry 3f0c2a4e-0d3b-4d8e-9a52-1f6f6b0f7a11 --follow
    """
    with _server(host, token_file, namespace, server_version) as server:
        server.retry(run)
        click.echo(f"{run} goes on")
        failed = follow and watching.watch(server, run, False, metadata_url, patience)
    sys.exit(options.FAILED if failed else 0)


@contextlib.contextmanager
def _server(
    host: str | None, token_file: Path | None, namespace: str | None, server_version: str | None
) -> Iterator[Pipelines]:
    """A server; what goes wrong there ends with one line and exit code 1."""
    from kubeflow import client

    token = token_file.read_text(encoding="utf-8").strip() if token_file else None
    try:
        yield client.Pipelines(host, token, namespace, server_version)
    except client.ClientError as error:
        click.echo(f"finetune: {error}", err=True)
        sys.exit(options.FAILED)
    except KeyboardInterrupt:
        click.echo("finetune: interrupted; the run goes on", err=True)
        sys.exit(options.FAILED)


def _confirmed(question: str) -> bool:
    """Ask on a terminal; elsewhere nobody can say yes."""
    return sys.stdin.isatty() and click.confirm(question, err=True)


def _sweep(schedules: Schedules) -> None:
    """Tidy up on the way; who may not do that is told so, and what was asked for stays done."""
    from kubeflow.client import ClientError

    try:
        watching.say_all(schedules.sweep())
    except ClientError as error:
        watching.say_all([f"schedules that were replaced could not be looked for: {error}"])


def _values(parameters: Sequence[str]) -> dict[str, str]:
    """Values of parameters by name, as text: the pipeline says of which types they are."""
    found = {}
    for parameter in parameters:
        name, equals, value = parameter.partition("=")
        if not equals:
            raise options.InputError(f"--parameter {parameter}: expected NAME=VALUE")
        found[name] = value
    return found


def _moment(text: str | None) -> datetime.datetime | None:
    if text is None:
        return None
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise options.InputError(f"{text}: expected a time such as 2027-01-01T02:00+01:00") from None
    return found if found.tzinfo else found.replace(tzinfo=datetime.UTC)
