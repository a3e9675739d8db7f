"""Runs one TFX node in its container, again where that can help: what each task of the compiled pipeline calls."""

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
@click.option("--node", "node_id", required=True, help="Id of the TFX node, e.g. Trainer; UpToDate asks all of them.")
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
def main(node_id: str, run_id: str, text: str, task_json: str, uncached: tuple[str, ...], metadata: str | None) -> None:
    """Run one node of the pipeline, as a task of Kubeflow Pipelines.

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
    begun = datetime.datetime.now(datetime.UTC)
    task = json.loads(task_json)
    request = Request(node=node_id, run=run_id, config=text, task=task, uncached=list(uncached), metadata=metadata)
    try:
        # The parameters of the run are read where what is wrong with them is written down, as any failure.
        config = parameters.with_values(text, {})
    except schema.ConfigError as error:
        _end(str(error), exit_codes.WILL_NOT)
    # Weights that were fetched once are there for all runs.
    os.environ.setdefault("FINETUNE_CACHE_DIR", folders.cache_dir(config))
    interrupted = attempts.Interrupted()
    interrupts.handle(interrupted)
    answer = _supervise(request, tasks.settings(config, node_id), interrupted)
    ending = answer.ending
    if answer.code and ending is None and not interrupted:
        # What ends a pod from outside may replace it, so that this is no end.
        ending = _failed(request, config, answer)
    _end_of_node(request, config, answer, ending, begun)
    seconds = (datetime.datetime.now(datetime.UTC) - begun).total_seconds()
    _end(answer.state if answer.code else f"{node_id} {answer.state}, in {seconds:.1f} s", answer.code)


def _supervise(request: Request, settings: schema.Task, interrupted: attempts.Interrupted) -> Answer:
    """Try a node until it ends well, will not, or has no attempts or time left; write down each failure at once."""
    deadline = time.monotonic() + settings.timeout_seconds if settings.timeout_seconds else None
    pauses = tasks.pauses(settings)
    number = 0
    while True:
        started = time.monotonic()
        left = None if deadline is None else max(0.0, deadline - started)
        # Where containers share a machine's GPUs, all see them that are not kept from it.
        gpus = settings.accelerator is not None or request.node in tasks.COMPUTING
        answer = attempts.attempt(request, left, interrupted, gpus)
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
    request: Request, config: schema.Config, answer: Answer, ending: Ending | None, begun: datetime.datetime
) -> None:
    """Leave in ML Metadata how the node and, if this is its end, the run ended, and tell who wants to know."""
    from pipeline import journal, notify

    first_to_say = True
    with _guarded():
        connection = folders.metadata_connection(request.metadata)
        if not answer.code:
            journal.note_node(connection, request.run, request.node, answer.state, [])
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
