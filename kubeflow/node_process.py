"""One attempt at one TFX node, in a process of its own: what `finetune-node` starts, and starts again.

  python -m kubeflow.node_process REQUEST ANSWER

REQUEST is a file with the JSON of a `Request`; the JSON of an `Answer` is written to ANSWER, unless the process is killed.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import pydantic

from configs import schema
from modules import interrupts
from pipeline import exit_codes, streams
from pipeline.ending import Ending, Verdict


class Request(pydantic.BaseModel):
    """What is to be run."""

    node: str
    """Id of the TFX node, or `tasks.UP_TO_DATE`."""
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
    from kubeflow import folders, outputs, parameters, tasks
    from pipeline import failures, node, place
    from pipeline.pipeline import create_pipeline

    try:
        config = parameters.with_values(request.config, request.task.get("inputs", {}).get("parameterValues", {}))
        connection = folders.metadata_connection(request.metadata)
        own = folders.folders(config)
        ir = node.compile_for_run(create_pipeline(config, **own._asdict()), request.run)
    except (schema.ConfigError, ValueError) as error:
        return Answer(code=exit_codes.WILL_NOT, state=str(error))
    nodes = {one.pipeline_node.node_info.id: one.pipeline_node for one in ir.nodes}
    if request.node not in {*nodes, tasks.UP_TO_DATE}:
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
        if request.node == tasks.UP_TO_DATE:
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
        if due or request.node not in {outputs.PUSHER, tasks.UP_TO_DATE}:
            return Answer(code=exit_codes.DONE, state=state)
        return _last(request, config, connection, state)
    except Exception as error:  # whatever it is, it gets a reason and an exit code
        traceback.print_exc()
        message = str(error) if isinstance(error, node.NodeError) else f"{type(error).__name__}: {error}"
        return Answer(code=failures.exit_code(error), state=" ".join(message.split()))


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


def _first_due(ir: Any, connection: Any, config: Any) -> str | None:
    """The first node that has work to do; None if the cache has all. Publishing is no work where it has been done."""
    from kubeflow import outputs
    from pipeline import node

    for one in ir.nodes:
        node_id = one.pipeline_node.node_info.id
        if node.launch(ir, node_id, connection, config.beam, execute=node_id == outputs.PUSHER) == node.DUE:
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


def main(request_file: str, answer_file: str) -> NoReturn:
    """Run the request in a file, and end at once: Beam's threads may still be busy."""
    streams.prepare()
    interrupts.handle(_interrupt)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    request = Request.model_validate_json(Path(request_file).read_text(encoding="utf-8"))
    try:
        answer = run(request)
    except KeyboardInterrupt:
        answer = Answer(
            code=exit_codes.MAY_PASS, state=f"{request.node} was interrupted; tried again, it goes on where it was"
        )
    unfinished = Path(f"{answer_file}.tmp")
    unfinished.write_text(answer.model_dump_json(), encoding="utf-8")
    unfinished.replace(answer_file)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(answer.code)


if __name__ == "__main__":
    main(*sys.argv[1:])
