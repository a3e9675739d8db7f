"""Watches a run until it ends, through lost connections, and then finds out why it ended as it did."""

from __future__ import annotations

import contextlib
import datetime
import shlex
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from kubeflow import inside, status
from kubeflow.client import NoAnswerError, Pipelines
from kubeflow.status import TaskState
from pipeline import journal
from pipeline.ending import Ending, Verdict

_SECONDS = 5.0
_LONGEST_PAUSE = 30.0

_VERDICTS = {
    status.DONE: {Verdict.PUBLISHED, Verdict.UP_TO_DATE, Verdict.REFUSED},
    status.FAILED: {Verdict.FAILED, Verdict.REFUSED},
}
"""How a run can have ended, by its state at the server: evaluation.fail_when_refused says whether a refusal is red."""

Show = Callable[[Sequence[TaskState]], None]
"""Called with the state of a run's tasks."""


class Watched(NamedTuple):
    """A run at the last look."""

    run: Any
    """As kfp's client gives it."""
    state: str
    """As `status.run_state` says it."""
    tasks: list[TaskState]
    platform: Mapping[str, Any]
    """The pipeline's side for Kubernetes."""


class Explained(NamedTuple):
    """Why a run ended as it did."""

    tasks: list[TaskState]
    """With what the cache had."""
    ending: Ending | None
    """As the run's own nodes wrote it down; None if nothing is known."""
    lines: list[str]
    """On the tasks that failed, and on what could not be found out."""


class Words:
    """What the nodes of a run say of themselves in ML Metadata: reached when it is first asked, and then kept open.

    Args:
      url: of the metadata store, as it is reached from here; None goes through kubectl.
      namespace: of the run; None takes Kubeflow's own.
    """

    def __init__(self, url: str | None, namespace: str | None):
        self._url, self.namespace = url, namespace or inside.NAMESPACE
        self._open = contextlib.ExitStack()
        self._connection: journal.Connection | None = None
        self._was_reached = False
        self.failure: str | None = None
        """Why it can't be read, in a line."""

    def __enter__(self) -> Words:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def of(
        self, platform: Mapping[str, Any], run_id: str, nodes: Iterable[str]
    ) -> tuple[dict[str, journal.NodeRecord], journal.RunRecord | None]:
        """Return what is written down of nodes and of their run; nothing where it can't be read, and `failure` says why.

        Args:
          platform: the pipeline's side for Kubernetes.
          run_id: of the run.
          nodes: ids.
        """
        if self.failure is not None and not self._was_reached:
            return {}, None
        try:
            if self._connection is None:
                self._connection = self._open.enter_context(
                    inside.metadata(self._url, inside.secret_in(platform), self.namespace)
                )
            self._was_reached = True
            found = {one: journal.read_node(self._connection, run_id, one) for one in nodes}
            ended = journal.read_end(self._connection, run_id)
        except Exception as error:  # an unreachable store answers in many ways, none of which may hide the run's own state
            self.failure = f"the run's own words are in ML Metadata, which can't be read from here: {_short(error)}"
            self._open.close()
            self._connection = None
            return {}, None
        self.failure = None
        return {node: record for node, record in found.items() if record is not None}, ended


def watch(
    server: Pipelines,
    run_id: str,
    show: Show,
    say: Callable[[str], None],
    once: bool = False,
    patience: float = 300.0,
    words: Words | None = None,
) -> Watched:
    """Look at a run until it ends.

    Args:
      server: that runs it.
      run_id: of the run.
      show: called at every look.
      say: called with a line when the connection is lost or found again.
      once: look only once.
      patience: seconds that a lost connection is waited for.
      words: tell nodes apart that run in one task; without them they fare as it does.

    Raises:
      ClientError: the server refuses, or is gone for longer.
    """
    nodes: dict[str, tuple[str, ...]] | None = None
    platform: Mapping[str, Any] = {}
    lost_at: float | None = None
    pause = _SECONDS
    while True:
        try:
            run = server.run(run_id)
            if nodes is None:
                spec, platform = server.spec(run)
                nodes = status.nodes_of(spec)
        except NoAnswerError as error:
            now = time.monotonic()
            if lost_at is None:
                lost_at = now
                say(f"connection lost, waiting up to {patience:.0f} s for it: {error}")
            if once or now - lost_at >= patience:
                raise
            time.sleep(min(pause, max(0.1, patience - (now - lost_at))))
            pause = min(pause * 1.5, _LONGEST_PAUSE)
            continue
        if lost_at is not None:
            say(f"connected again after {time.monotonic() - lost_at:.0f} s")
            lost_at, pause = None, _SECONDS
        tasks = status.task_states(run, nodes, datetime.datetime.now(datetime.UTC))
        together = {key for key, of_task in nodes.items() if len(of_task) > 1}
        if words and (asked := [one.node for one in tasks if one.task in together and one.state == status.RUNNING]):
            tasks = status.told_apart(tasks, words.of(platform, run_id, asked)[0])
        show(tasks)
        if once or status.is_finished(run):
            return Watched(run, status.run_state(run), tasks, platform)
        time.sleep(_SECONDS)


def explain(watched: Watched, words: Words) -> Explained:
    """Find out from ML Metadata what a run that ended says of itself; where that can't be reached, say what shows it.

    Args:
      watched: the run.
      words: of its nodes.
    """
    run_id, namespace = watched.run.run_id, words.namespace
    if watched.state == status.FAILED and not any(one.seconds for one in watched.tasks):
        return Explained(watched.tasks, None, [_never_began(watched.run, namespace)])
    lines: list[str] = []
    began = [one.node for one in watched.tasks if one.state not in {status.WAITING, status.SKIPPED}]
    records, ended = words.of(watched.platform, run_id, began)
    if words.failure is not None:
        lines.append(words.failure)
        if any(one.state == status.FAILED for one in watched.tasks):
            lines.append(f"this shows them as well: {inside.log_command(run_id, namespace)}")
        return Explained(watched.tasks, None, lines)
    # What was said before the run was gone on with is of an earlier try.
    since = status.newest_try(watched.run)
    tasks = status.told_apart(watched.tasks, records)
    for node in (one.node for one in tasks if one.state == status.FAILED):
        record = records.get(node)
        failures = [one for one in record.failures if one.ended >= since] if record else []
        if not failures:
            lines.append(f"{node} left no word: its pod was lost or could not start; {_pods_command(run_id, namespace)}")
        else:
            for number, attempt in enumerate(failures, 1):
                at = attempt.ended.astimezone(datetime.UTC).strftime("%H:%M:%S")
                lines.append(f"{node}, attempt {number}, {at} UTC, after {attempt.seconds:.0f} s: {attempt.reason}")
    fits = ended is not None and ended.ended >= since and ended.ending.verdict in _VERDICTS.get(watched.state, ())
    return Explained(tasks, ended.ending if ended is not None and fits else None, lines)


def _never_began(run: Any, namespace: str) -> str:
    """Why a run ended of which no task ever began."""
    if message := inside.workflow_message(run.run_id, namespace):
        return f"no task began: {message}"
    account = run.service_account or "the default one"
    return f"no task began; is there the service account {account} in namespace {namespace}? This says why: " + shlex.join(
        inside.workflow_command(run.run_id, namespace)
    )


def _pods_command(run_id: str, namespace: str) -> str:
    return f"kubectl describe pods --namespace {namespace} --selector pipeline/runid={run_id}"


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
