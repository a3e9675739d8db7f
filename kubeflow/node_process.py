"""Attempts at TFX nodes, in a process that `finetune-node` starts, and starts again after one that did not end well.

  python -m kubeflow.node_process SOCKET

SOCKET is the number of an open socket on which it is sent a `Request` as a line of JSON, and answers each with an `Answer`.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import signal
import socket
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import pydantic
from absl import logging as absl_logging

from configs import schema
from modules import interrupts
from pipeline import exit_codes, streams
from pipeline.ending import Ending, Verdict


class Request(pydantic.BaseModel):
    """What is to be run."""

    node: str
    """Id of the TFX node, `tasks.UP_TO_DATE`, `tasks.PAGE` or `tasks.CLEAN`."""
    run: str
    """Id of the run."""
    config: str
    """Of the pipeline, as it was compiled."""
    task: dict[str, Any]
    """What Kubeflow Pipelines says of the task: its ExecutorInput."""
    uncached: list[str]
    """Nodes that do their work though a result with the same inputs is there."""
    metadata: str | None
    """URL of the metadata store; None takes the cluster's."""


class Answer(pydantic.BaseModel):
    """How it ended."""

    code: int
    """As in `exit_codes`."""
    state: str
    """How a node ended that did, or why it did not, in a line."""
    ending: Ending | None = None
    """Of the run, where this node is its last."""


def run(request: Request) -> Answer:
    """Run a node and tell Kubeflow Pipelines of it.

    Args:
      request: what is to be run.
    """
    from kubeflow import folders, outputs, tasks
    from pipeline import failures, history, journal, node, place

    try:
        values = request.task.get("inputs", {}).get("parameterValues", {})
        config, ir = _compiled(request.config, json.dumps(values, sort_keys=True), request.run)
        connection = folders.metadata_connection(request.metadata)
    except (schema.ConfigError, ValueError) as error:
        return Answer(code=exit_codes.WILL_NOT, state=str(error))
    nodes = {one.pipeline_node.node_info.id: one.pipeline_node for one in ir.nodes}
    if request.node not in {*nodes, tasks.UP_TO_DATE, tasks.PAGE, tasks.CLEAN}:
        known = ", ".join(nodes)
        message = f"no node {request.node} in this image's pipeline: {known}; compile again with the image's version"
        return Answer(code=exit_codes.WILL_NOT, state=message)
    for one in nodes.keys() & set(request.uncached):
        nodes[one].execution_options.caching_options.enable_cache = False
    try:
        # What is relative in ML Metadata starts here.
        os.makedirs(config.kubeflow.volume.path, exist_ok=True)
        os.chdir(config.kubeflow.volume.path)
        due = None
        if request.node in {tasks.PAGE, tasks.CLEAN}:
            page = request.node == tasks.PAGE
            state = _page(connection, config, request.run) if page else _clean(connection, config)
            return Answer(code=exit_codes.DONE, state=state)
        if request.node == tasks.UP_TO_DATE:
            journal.note_start(connection, request.run, history.start_of(config))
            place.note_deleted(connection, config.name)
            due = _first_due(ir, connection, config)
            if due:
                _fetch_weights(config)
            if "outputs" in request.task:
                outputs.write_up_to_date(request.task, due is None)
            state = f"no: {due} has work to do" if due else "yes"
        else:
            state = node.launch(ir, request.node, connection, config.beam)
            if "outputs" in request.task:
                outputs.write(request.node, request.task, connection, request.run)
        if due or request.node not in {tasks.PUSHER, tasks.UP_TO_DATE}:
            return Answer(code=exit_codes.DONE, state=state)
        return _last(request, config, connection, state)
    except Exception as error:  # whatever it is, it gets a reason and an exit code
        traceback.print_exc()
        message = str(error) if isinstance(error, node.NodeError) else f"{type(error).__name__}: {error}"
        return Answer(code=failures.exit_code(error), state=" ".join(message.split()))


@functools.lru_cache(maxsize=1)
def _compiled(text: str, values: str, run_id: str) -> tuple[Any, Any]:
    """The configuration of a run and its pipeline in TFX's representation, once for all nodes of this process."""
    from kubeflow import folders, parameters
    from pipeline import node
    from pipeline.pipeline import create_pipeline

    config = parameters.with_values(text, json.loads(values))
    return config, node.compile_for_run(create_pipeline(config, **folders.folders(config)._asdict()), run_id)


def where_to_look(request: Request, config: schema.Config) -> str:
    """Return where a person who is told of a run's end finds more.

    Args:
      request: of its last node.
      config: of the pipeline.
    """
    from pipeline import notify

    return notify.look(config.notify, request.run, f"finetune kubeflow status {request.run}")


def _last(request: Request, config: Any, connection: Any, state: str) -> Answer:
    """What the last node of a run says: how the run ended."""
    from kubeflow import tasks
    from pipeline import outcome

    ended = outcome.read(connection, request.run).ending(
        config.name,
        request.run,
        unchanged=request.node == tasks.UP_TO_DATE,
        look=where_to_look(request, config),
    )
    if ended.verdict == Verdict.REFUSED and config.evaluation.fail_when_refused:
        state = f"nothing was published (evaluation.fail_when_refused): {ended.reason}"
        return Answer(code=exit_codes.REFUSED, state=state, ending=ended)
    return Answer(code=exit_codes.DONE, state=state, ending=ended)


def _clean(connection: Any, config: Any) -> str:
    """Delete what nothing needs any more, and say how much that was."""
    from kubeflow import folders
    from pipeline import needs, retention

    where = folders.folders(config)
    project = needs.Project(connection, config.name, where.pipeline_root, where.serving_dir)
    return f"deleted {retention.in_words(retention.clean(project, config.keep_runs, alone=False))}"


def _page(connection: Any, config: Any, run_id: str) -> str:
    """Put the page of a run beside what is served, and say where."""
    from kubeflow import folders
    from pipeline import report

    serving_dir = folders.folders(config).serving_dir
    into = Path(serving_dir).with_name(report.FILE)
    report.show(connection, config.name, run_id, serving_dir, config.report.pictures, into)
    return f"the report is {into}"


def _first_due(ir: Any, connection: Any, config: Any) -> str | None:
    """The first node that has work to do; None if the cache has all. Publishing is no work where it has been done."""
    from kubeflow import tasks
    from pipeline import node

    for one in ir.nodes:
        node_id = one.pipeline_node.node_info.id
        if node_id == tasks.REPORT:
            continue  # which is due in each run, and of no use in one that has nothing to do
        if node.launch(ir, node_id, connection, config.beam, execute=node_id == tasks.PUSHER) == node.DUE:
            return node_id
    return None


def _fetch_weights(config: Any) -> None:
    """Make sure of the pretrained weights before hours of work go before them, and once for all runs."""
    from modules import weights

    weights.make_sure(config.model.weights)


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    """Let a signal save what there is, undisturbed by another one."""
    interrupts.handle(signal.SIG_IGN)
    raise KeyboardInterrupt


def main(descriptor: str) -> NoReturn:
    """Run what is asked for until nothing more is or a node did not end well; then end at once, as Beam may be busy."""
    streams.prepare()
    interrupts.handle(_interrupt)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # Beam raises the level of all loggers that have none of their own, and TFX's is absl's.
    absl_logging.set_verbosity(absl_logging.INFO)
    os.set_inheritable(int(descriptor), False)
    with socket.socket(fileno=int(descriptor)) as line, line.makefile(encoding="utf-8") as requests:
        for text in requests:
            request = Request.model_validate_json(text)
            try:
                answer = run(request)
            except KeyboardInterrupt:
                state = f"{request.node} was interrupted; tried again, it goes on where it was"
                answer = Answer(code=exit_codes.MAY_PASS, state=state)
            sys.stdout.flush()
            sys.stderr.flush()
            line.sendall(answer.model_dump_json().encode() + b"\n")
            if answer.code:
                os._exit(answer.code)
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
