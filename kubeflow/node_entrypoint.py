"""Runs one TFX node in its container: what each task of the compiled pipeline calls."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import Any, NoReturn

import click

FAILED = 1


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
    envvar="FINETUNE_METADATA_URL",
    metavar="URL",
    help="mysql://, postgresql://, sqlite:/// or grpc://HOST:PORT; by default the cluster's service.",
)
def main(node_id: str, run_id: str, text: str, task_json: str, uncached: tuple[str, ...], metadata: str | None) -> None:
    r"""Run one node of the pipeline, as a task of Kubeflow Pipelines.

    Exit code 1: the node failed, 2: it could not be begun.

    \b
    Example:
      finetune-node --node Trainer --run-id 17 --config "$(cat photos.yaml)" --metadata sqlite:///metadata.db --task '{}'
    """
    signal.signal(signal.SIGTERM, _interrupt)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    started = time.monotonic()
    try:
        state = _run(node_id, run_id, text, json.loads(task_json), metadata, uncached)
    except KeyboardInterrupt:
        _end(f"{node_id} was interrupted; tried again, it goes on where it was", FAILED)
    _end(f"{node_id} {state} {time.monotonic() - started:.1f} s", 0)


def _run(node_id: str, run_id: str, text: str, task: dict, metadata: str | None, uncached: Sequence[str]) -> str:
    """Run the node and tell Kubeflow Pipelines of it; return how it ended."""
    from configs import schema
    from kubeflow import folders, outputs, parameters
    from pipeline import node, outcome
    from pipeline.pipeline import create_pipeline

    try:
        config = parameters.with_values(text, task.get("inputs", {}).get("parameterValues", {}))
        connection = folders.metadata_connection(metadata)
        ir = node.compile_for_run(create_pipeline(config, **folders.folders(config)._asdict()), run_id)
    except (schema.ConfigError, ValueError) as error:
        _end(str(error), 2)
    nodes = {one.pipeline_node.node_info.id: one.pipeline_node for one in ir.nodes}
    if node_id not in {*nodes, outputs.UP_TO_DATE}:
        _end(f"no node {node_id} in this image's pipeline: {', '.join(nodes)}; compile again with the image's version", 2)
    for one in nodes.keys() & set(uncached):
        nodes[one].execution_options.caching_options.enable_cache = False
    try:
        if node_id == outputs.UP_TO_DATE:
            due = _first_due(ir, connection, config)
            if "outputs" in task:
                outputs.write_up_to_date(task, due is None)
            state = f"no: {due} has work to do," if due else "yes, in"
        else:
            due = None
            state = node.launch(ir, node_id, connection, config.beam)
            if "outputs" in task:
                outputs.write(node_id, task, connection, run_id)
    except node.NodeError as error:
        traceback.print_exc()
        _end(str(error), FAILED)
    if due is None and node_id in {outputs.PUSHER, outputs.UP_TO_DATE} and config.evaluation.fail_when_refused:
        pushed = outcome.read_outputs(connection, run_id)["PushedModel"]
        if outcome.pushed_to(pushed) is None:
            _end("nothing was published: the model was refused or rolled back (evaluation.fail_when_refused)", FAILED)
    return state


def _first_due(ir: Any, connection: Any, config: Any) -> str | None:
    """The first node that has work to do; None if the cache has all. Publishing is no work where it has been done."""
    from kubeflow import outputs
    from pipeline import node

    for one in ir.nodes:
        node_id = one.pipeline_node.node_info.id
        if node.launch(ir, node_id, connection, config.beam, execute=node_id == outputs.PUSHER) == node.DUE:
            return node_id
    return None


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    """Let SIGTERM, with which Kubernetes ends a pod, save what there is."""
    raise KeyboardInterrupt


def _end(message: str, code: int) -> NoReturn:
    """Say how it went in one line, and end at once: Beam's threads may still be busy."""
    print(f"finetune: {message}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
