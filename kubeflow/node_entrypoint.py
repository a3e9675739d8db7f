"""Runs TFX nodes in their container, again where that can help: what each task of the compiled pipeline calls."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import NoReturn

import click

from configs import environment, schema
from kubeflow import attempts, folders, parameters, tasks
from kubeflow.node_process import Answer, Request, where_to_look
from modules import interrupts
from pipeline import exit_codes, streams
from pipeline.ending import Ending, Verdict


@click.command()
@click.option(
    "--node",
    "nodes",
    required=True,
    multiple=True,
    help="Id of a TFX node, e.g. Trainer; several run one after the other. UpToDate asks all of them.",
)
@click.option("--run-id", required=True, help="Of the run; the tasks of one run share it.")
@click.option("--config", "text", required=True, metavar="YAML", help="The configuration that was compiled.")
@click.option("--task", "task_json", required=True, metavar="JSON", help="What Kubeflow Pipelines says of the task.")
@click.option(
    "--no-cache",
    "uncached",
    metavar="NODE",
    multiple=True,
    help="Does its work though a result with the same inputs is there.",
)
@click.option(
    "--metadata",
    envvar=folders.METADATA_VARIABLE,
    metavar="URL",
    help=f"{folders.METADATA_URLS}; by default the cluster's service.",
)
def main(
    nodes: tuple[str, ...], run_id: str, text: str, task_json: str, uncached: tuple[str, ...], metadata: str | None
) -> None:
    """Run nodes of the pipeline, as a task of Kubeflow Pipelines.

    What may pass (a process that was killed, out of memory, a store that does not answer) is tried again here, as often and
    after as long as the configuration says, and goes on from the state that is left. How each attempt ended is written down
    in ML Metadata.

    Exit code 1: it failed, and may pass by itself; 2: it will not pass as the configuration, the data or the code is; 3: the
    data or the model were refused.

    \b
    Example:
      finetune-node --node Trainer --run-id 17 --config "$(cat photos.yaml)" --metadata sqlite:///metadata.db --task '{}'
    """
    environment.put_own_packages_first()
    streams.prepare()
    if "{{" in run_id or not run_id.strip():
        _end(
            f"--run-id {run_id}: not filled in by Kubeflow Pipelines; compile the pipeline again with this version",
            exit_codes.WILL_NOT,
        )
    task = json.loads(task_json)
    try:
        # The parameters of the run are read where what is wrong with them is written down, as any failure.
        config = parameters.with_values(text, {})
    except schema.ConfigError as error:
        _end(str(error), exit_codes.WILL_NOT)
    # Weights that were fetched once are there for all runs.
    os.environ.setdefault("FINETUNE_CACHE_DIR", folders.cache_dir(config))
    interrupted = attempts.Interrupted()
    interrupts.handle(interrupted)
    with attempts.Attempts(interrupted, tasks.sees_gpus(config, nodes)) as tries:
        for node_id in nodes:
            request = Request(node=node_id, run=run_id, config=text, task=task, uncached=list(uncached), metadata=metadata)
            code = _run(request, config, tasks.settings(config, node_id), tries, interrupted)
            if code:
                break
    sys.exit(code)


def _run(
    request: Request,
    config: schema.Config,
    settings: schema.Task,
    tries: attempts.Attempts,
    interrupted: attempts.Interrupted,
) -> int:
    """Run a node to its end, and tell of that."""
    begun = datetime.datetime.now(datetime.UTC)
    answer = _supervise(request, settings, tries, interrupted)
    ending = answer.ending
    if answer.code and ending is None and not interrupted and request.node != tasks.REPORT:
        # What ends a pod from outside may replace it, so that this is no end.
        ending = _failed(request, config, answer)
    seconds = (datetime.datetime.now(datetime.UTC) - begun).total_seconds()
    _end_of_node(request, config, answer, ending, begun, seconds)
    if not interrupted:
        # After the node that ends a run comes one that makes its page, unless that ended badly, or none had work to do.
        over = ending is not None and (answer.code != exit_codes.DONE or request.node != tasks.PUSHER)
        if over or request.node == tasks.REPORT:
            for what in (tasks.PAGE, tasks.CLEAN) if config.keep_runs is not None else (tasks.PAGE,):
                _say(tries.attempt(request.model_copy(update={"node": what}), tasks.GRACE_SECONDS / 2).state)
    _say(answer.state if answer.code else f"{request.node} {answer.state}, in {seconds:.1f} s")
    # A run whose page can't be made is as good as any other.
    return exit_codes.DONE if request.node == tasks.REPORT and not interrupted else answer.code


def _supervise(
    request: Request, settings: schema.Task, tries: attempts.Attempts, interrupted: attempts.Interrupted
) -> Answer:
    """Try a node until it ends well, will not, or has no attempts or time left; write down each failure at once."""
    deadline = time.monotonic() + settings.timeout_seconds if settings.timeout_seconds else None
    pauses = tasks.pauses(settings)
    number = 0
    while True:
        started = time.monotonic()
        left = None if deadline is None else max(0.0, deadline - started)
        answer = tries.attempt(request, left)
        now = time.monotonic()
        if not answer.code:
            return answer
        number += 1
        _note_failure(request, answer, now - started)
        pause = next(pauses, None)
        if answer.code != exit_codes.MAY_PASS or interrupted or pause is None:
            return answer
        if deadline is not None and now + pause >= deadline:
            return answer
        _say(f"attempt {number}: {answer.state}; this may pass, tried again in {pause:.0f} s")
        interrupted.sleep(pause)
        if interrupted:
            return answer


def _failed(request: Request, config: schema.Config, answer: Answer) -> Ending:
    """How a run ends that this node ends."""
    return Ending(
        pipeline=config.name,
        run=request.run,
        verdict=Verdict.REFUSED if answer.code == exit_codes.REFUSED else Verdict.FAILED,
        reason=answer.state,
        node=request.node,
        look=where_to_look(request, config),
    )


def _note_failure(request: Request, answer: Answer, seconds: float) -> None:
    from pipeline import journal

    ended = datetime.datetime.now(datetime.UTC)
    failure = journal.Attempt(ended=ended, seconds=seconds, code=answer.code, reason=answer.state)
    with _guarded():
        connection = folders.metadata_connection(request.metadata)
        journal.note_node(connection, request.run, request.node, "failed", [failure])


def _end_of_node(
    request: Request,
    config: schema.Config,
    answer: Answer,
    ending: Ending | None,
    begun: datetime.datetime,
    seconds: float,
) -> None:
    """Leave in ML Metadata how the node and, if this is its end, the run ended, and tell who wants to know."""
    from pipeline import journal, notify

    first_to_say = True
    with _guarded():
        connection = folders.metadata_connection(request.metadata)
        if not answer.code:
            journal.note_node(connection, request.run, request.node, answer.state, seconds=seconds)
        if ending is not None:
            first_to_say = journal.note_end(connection, ending, begun)
    if ending is not None and first_to_say:
        notify.post(config.notify, ending)


@contextlib.contextmanager
def _guarded() -> Iterator[None]:
    """Let nothing that goes wrong with the writing change how the node ended."""
    try:
        yield
    except Exception as error:  # whatever it is
        _say(f"how this ended could not be written into ML Metadata: {type(error).__name__}")


def _say(message: str) -> None:
    print(f"finetune: {message}", file=sys.stderr, flush=True)


def _end(message: str, code: int) -> NoReturn:
    _say(message)
    sys.exit(code)


if __name__ == "__main__":
    main()
