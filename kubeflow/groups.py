"""Which nodes share a pod: as few pods as the work needs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from configs import schema
from kubeflow import tasks


class Group(NamedTuple):
    """Nodes that run one after the other in one pod."""

    nodes: tuple[str, ...]
    """In an order in which they can run."""

    @property
    def name(self) -> str:
        """Of its task: the node's, or from the first to the last."""
        return "To".join(self._ends)

    @property
    def title(self) -> str:
        """What the page of a run calls it."""
        return " to ".join(self._ends)

    @property
    def _ends(self) -> dict[str, None]:
        """The first node and the last, which may be one."""
        return dict.fromkeys((self.nodes[0], self.nodes[-1]))


def groups(config: schema.Config, nodes: Iterable[str]) -> list[Group]:
    """Divide the nodes of a pipeline among pods.

    A node with a pod of its own ends a group, and the next one begins behind it, so that groups run one after the other.

    Args:
      config: of the pipeline.
      nodes: their ids, in an order in which they can run.
    """
    found: list[list[str]] = []
    joins = False
    for node_id in nodes:
        alone = config.kubeflow.tasks == "one_per_node" or _has_own_needs(config, node_id)
        if joins and not alone:
            found[-1].append(node_id)
        else:
            found.append([node_id])
        joins = not alone
    return [Group(tuple(one)) for one in found]


def _has_own_needs(config: schema.Config, node_id: str) -> bool:
    """Whether a node gets what others do not: resources, a place, attempts or a time of its own."""
    if node_id == tasks.PUSHER and config.evaluation.fail_when_refused:
        # Kubeflow shows no outputs of a pod that failed, and the gate's table would be among them.
        return True
    own = config.kubeflow.nodes.get(node_id, schema.Task())
    if own.model_dump(exclude_none=True, exclude={"cache"}):
        return True
    return config.kubeflow.default.accelerator is not None and node_id in tasks.COMPUTING
