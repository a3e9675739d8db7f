"""What the task of a node gets from the configuration: resources, place, time, and how often it is tried."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from configs import schema

EVALUATOR, PUSHER, REPORT = "Evaluator", "Pusher", "RunReport"
UP_TO_DATE = "UpToDate"
"""Not a node: the task that asks all nodes whether there is anything to do."""

PAGE = "Page"
"""Not a node: puts the page of a run where it is looked for, after its end."""
CLEAN = "Clean"
"""Not a node: deletes, after that, what nothing needs any more."""

GRACE_SECONDS = 300
"""Between the longest time of a node and that of its pod, which also pulls the image: the node ends first, and says why."""

_LIGHT, _HEAVY = {"cpu": "250m", "memory": "2Gi"}, {"cpu": "1", "memory": "8Gi"}
_RETRIES = {"retries": 2, "retry_seconds": 30, "cache": True}
_LONGEST_BACKOFF = 3600
COMPUTING = {"CrossValidator", "Trainer", "Tuner", EVALUATOR}
"""Nodes that gain from a GPU: they compute with TensorFlow's kernels."""

_HEAVY_NODES = {"CrossValidator", "Trainer", "Tuner"}
_UNBOUNDED = 30 * 24 * 3600
"""Stands for no timeout, in seconds: Kubernetes' own clocks want a number."""


def settings(config: schema.Config, node_id: str, on_beam: bool = False) -> schema.Task:
    """Return what a node gets: ours, then the configuration's for all, then its own for this one.

    Args:
      config: of the pipeline.
      node_id: of the node, or `UP_TO_DATE`.
      on_beam: whether its work is Beam's.
    """
    found: dict[str, Any] = {**_RETRIES, **(_HEAVY if on_beam or node_id in _HEAVY_NODES else _LIGHT)}
    for task in (config.kubeflow.default, config.kubeflow.nodes.get(node_id, schema.Task())):
        given = task.model_dump(exclude_none=True)
        if task is config.kubeflow.default and node_id not in COMPUTING:
            given.pop("accelerator", None)
        found |= given
    return schema.Task.model_validate(found)


def of_pod(config: schema.Config, nodes: Sequence[str], on_beam: Collection[str]) -> schema.Task:
    """Return what the pod of some nodes gets: as much as the one of them that needs most, and time for all.

    Args:
      config: of the pipeline.
      nodes: that run in it, one after the other; `UP_TO_DATE` runs alone.
      on_beam: nodes whose work is Beam's.
    """
    if len(nodes) == 1:
        return settings(config, nodes[0], on_beam=nodes[0] in on_beam)
    heavy = any(node_id in on_beam or node_id in _HEAVY_NODES for node_id in nodes)
    # None of them has anything of its own, and GPUs are for nodes that do: it is as with what is no node at all.
    found = settings(config, UP_TO_DATE, on_beam=heavy)
    seconds = found.timeout_seconds and found.timeout_seconds * len(nodes)
    return found.model_copy(update={"timeout_seconds": seconds})


def sees_gpus(config: schema.Config, nodes: Iterable[str]) -> bool:
    """Return whether the process of some nodes sees GPUs: where containers share a machine's, all do that aren't kept off.

    Args:
      config: of the pipeline.
      nodes: that run in it.
    """
    return any(settings(config, node_id).accelerator is not None or node_id in COMPUTING for node_id in nodes)


def pauses(task: schema.Task) -> Iterator[float]:
    """Yield the seconds before each further attempt.

    Args:
      task: as `settings` returns it.
    """
    for number in range(task.retries or 0):
        yield min((task.retry_seconds or 0) * 2**number, _LONGEST_BACKOFF)


def pod_seconds(task: schema.Task) -> int | None:
    """Return the longest time of a node's pod; None if it has none.

    Args:
      task: as `settings` returns it.
    """
    return task.timeout_seconds + GRACE_SECONDS if task.timeout_seconds else None


def retry_window(task: schema.Task) -> int:
    """Return the seconds, from the first pod's start, within which Kubeflow replaces lost ones.

    Args:
      task: as `settings` returns it.
    """
    pods = 1 + (task.retries or 0)
    # Argo knows no longest pause.
    between = sum((task.retry_seconds or 0) * 2**number for number in range(pods - 1))
    return pods * (pod_seconds(task) or _UNBOUNDED) + between
