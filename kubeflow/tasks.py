"""What the task of a node gets from the configuration: resources, place, time, and how often it is tried."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from configs import schema

UP_TO_DATE = "UpToDate"
"""Not a node: the task that asks all nodes whether there is anything to do."""

GRACE_SECONDS = 300
"""Between the longest time of a node and that of its pod, which also pulls the image: the node ends first, and says why."""

_LIGHT, _HEAVY = {"cpu": "250m", "memory": "2Gi"}, {"cpu": "1", "memory": "8Gi"}
_RETRIES = {"retries": 2, "retry_seconds": 30, "cache": True}
_LONGEST_BACKOFF = 3600
COMPUTING = {"Trainer", "Tuner", "Evaluator"}
"""Nodes that gain from a GPU: they compute with TensorFlow's kernels."""

_HEAVY_NODES = {"Trainer", "Tuner"}
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
