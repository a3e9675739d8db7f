"""How a run fares, a line a node, from what the server says of its tasks.

The server lists Argo's nodes: each task twice, its driver likewise, the groups and the workflow itself, in no order; a task
that will never run has an end and no state; an end that has not come is in 1970 or missing; a run that was cancelled has
failed, with a word of it in its history.
"""

from __future__ import annotations

import datetime
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pipeline import journal

WAITING, RUNNING, DONE, CACHED = "waiting", "running", "done", "cached"
SKIPPED, FAILED, CANCELLED = "skipped", "failed", "cancelled"

_FINISHED = {"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"}
_STATES = {"SUCCEEDED": DONE, "FAILED": FAILED, "CANCELED": CANCELLED, "SKIPPED": SKIPPED, "CACHED": CACHED}
_ATTEMPT = re.compile(r"(.+)\((\d+)\)")
_ALL = 10**9
"""More than any number of an attempt."""


class TaskState(NamedTuple):
    """How a node of a run fares: one of the states above, and the seconds it took, or takes so far."""

    node: str
    state: str
    seconds: float | None
    """None also of a node that shares its task with others, of which the server knows only all together."""
    task: str = ""
    """Key of its task."""


def is_finished(run: Any) -> bool:
    """Return whether a run has ended.

    Args:
      run: as kfp's client gives it.
    """
    return run.state in _FINISHED


def run_state(run: Any) -> str:
    """Return how a run fares, as one of the states above.

    Args:
      run: as kfp's client gives it.
    """
    history = [one.state for one in run.state_history or () if one.state]
    # A run that was cancelled once may have been gone on with since.
    if run.state == "FAILED" and history[-2:] == ["CANCELING", "FAILED"]:
        return CANCELLED
    return _STATES.get(run.state, WAITING if run.state == "PENDING" else RUNNING)


def newest_try(run: Any) -> datetime.datetime:
    """Return when a run began, or was gone on with after a failure.

    Args:
      run: as kfp's client gives it.
    """
    begun = [one.update_time for one in run.state_history or () if one.state == "RUNNING"]
    return max(begun, default=run.created_at)


def task_states(run: Any, nodes: dict[str, tuple[str, ...]], now: datetime.datetime) -> list[TaskState]:
    """Return how each node of a run fares, in the order of the pipeline.

    Args:
      run: as kfp's client gives it.
      nodes: as `nodes_of` returns them.
      now: with its time zone.
    """
    details = (run.run_details.task_details if run.run_details else None) or []
    found = _by_key(details)
    over = run_state(run) if is_finished(run) else None
    states = []
    for key, together in nodes.items():
        state, seconds = _fares(found.get(key, []), found.get(f"{key}-driver", []), over, now)
        states += [TaskState(node, state, seconds if len(together) == 1 else None, key) for node in together]
    return states


def told_apart(states: Sequence[TaskState], records: Mapping[str, journal.NodeRecord]) -> list[TaskState]:
    """Return how each node of a run fares, also of those that share a task.

    Args:
      states: as `task_states` returns them.
      records: what ML Metadata says of nodes.
    """
    found = []
    for _, group in itertools.groupby(states, key=lambda one: one.task):
        left = list(group)
        # A task that failed though its nodes did well did so at its end.
        failed = left[0].state in {FAILED, CANCELLED}
        while len(left) > failed and (record := records.get(left[0].node)) and record.state in {DONE, CACHED}:
            one = left.pop(0)
            found.append(one._replace(state=record.state, seconds=one.seconds or record.seconds))
        # The task is at the first that has not ended.
        found += left[:1]
        behind = {RUNNING: WAITING, FAILED: SKIPPED, CANCELLED: SKIPPED}
        found += [one._replace(state=behind.get(one.state, one.state)) for one in left[1:]]
    return found


def _by_key(details: list[Any]) -> dict[str, list[Any]]:
    """The entries of the server's list that say how a task fares, by its key.

    `X` stands for all its attempts, `X(0)`, `X(1)` and so on; where it is missing, the last of those does.
    """
    attempts: dict[str, dict[int, list[Any]]] = {}
    for one in details:
        match = _ATTEMPT.fullmatch(one.display_name or "")
        key, number = (match[1], int(match[2])) if match else (one.display_name or "", _ALL)
        attempts.setdefault(key, {}).setdefault(number, []).append(one)
    return {key: numbered[max(numbered)] for key, numbered in attempts.items()}


def _fares(own: list[Any], drivers: list[Any], over: str | None, now: datetime.datetime) -> tuple[str, float | None]:
    """State and seconds of a task, from its own entries and its driver's."""
    states = {one.state for one in own}
    if (states | {one.state for one in drivers}) & {"FAILED", "CANCELED"}:
        state = CANCELLED if over == CANCELLED else FAILED
    elif states & {"SUCCEEDED", "CACHED"} and not states & {"RUNNING", "PENDING"}:
        state = CACHED if "CACHED" in states else DONE
    elif "SKIPPED" in states or (over is not None and not states & {"RUNNING", "PENDING"}):
        state = SKIPPED
    elif states & {"RUNNING", "PENDING"} or any(one.state is not None for one in drivers):
        state = {None: RUNNING, CANCELLED: CANCELLED}.get(over, FAILED)
    else:
        state = WAITING
    if state in {SKIPPED, WAITING}:
        return state, None
    starts = [one.start_time for one in (*drivers, *own) if _has_come(one.start_time)]
    ends = [one.end_time for one in own or drivers if _has_come(one.end_time)]
    if not starts:
        return state, None
    end = now if state == RUNNING else max(ends, default=None)
    return state, None if end is None else max(0.0, (end - min(starts)).total_seconds())


def _has_come(moment: datetime.datetime | None) -> bool:
    return moment is not None and moment.year > 1970


def nodes_of(spec: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return the nodes of a pipeline that `compiler.compile_pipeline` wrote, by the key of their task.

    Args:
      spec: the pipeline's specification.

    Returns:
      In an order in which they can run.
    """
    executors = spec["deploymentSpec"]["executors"]
    components = spec["components"]

    def walk(dag: dict[str, Any]) -> Iterable[tuple[str, tuple[str, ...]]]:
        for key in _in_order(dag["tasks"]):
            component = components[dag["tasks"][key]["componentRef"]["name"]]
            if "dag" in component:
                yield from walk(component["dag"])
            else:
                args = executors[component["executorLabel"]].get("container", {}).get("args", [])
                yield key, tuple(word for before, word in itertools.pairwise(args) if before == "--node") or (key,)

    return dict(walk(spec["root"]["dag"]))


def _in_order(tasks: dict[str, Any]) -> list[str]:
    """Keys of tasks, each after those that it depends on, else by name."""
    left, ordered = dict(tasks), list[str]()
    while left:
        ready = sorted(key for key, task in left.items() if not left.keys() & set(task.get("dependentTasks", ())))
        ordered += ready
        for key in ready:
            del left[key]
    return ordered
