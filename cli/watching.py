"""Shows a run on Kubeflow: its tasks as they go, then why it ended as it did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from kubeflow.client import Pipelines
    from kubeflow.follow import Explained
    from kubeflow.status import TaskState


def watch(server: Pipelines, run_id: str, once: bool, metadata_url: str | None, patience: float) -> bool:
    """Show a run at its looks and its end.

    Args:
      server: that runs it.
      run_id: of the run.
      once: look only once.
      metadata_url: of the metadata store, as it is reached from here; None goes through kubectl.
      patience: seconds that a lost connection is waited for.

    Returns:
      Whether it failed.
    """
    from kubeflow import follow, status

    with _Table(every=once) as table, follow.Words(metadata_url, server.namespace) as words:
        # Shown once, it is shown with what ML Metadata knows.
        show = (lambda tasks: None) if once else table.show
        watched = follow.watch(server, run_id, show, table.say, once, patience, words)
        if status.is_finished(watched.run):
            explained = follow.explain(watched, words)
        else:
            explained = follow.Explained(watched.tasks, None, [])
        table.show(explained.tasks)
    _print_end(watched.state, explained)
    return watched.state in {status.FAILED, status.CANCELLED}


class _Table:
    """Shows the tasks of a run: on a terminal drawn anew in its place, elsewhere a line for each that changed.

    Args:
      every: show also those that wait.
    """

    def __init__(self, every: bool) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(highlight=False, soft_wrap=True)
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        self._seen: dict[str, str] = {}
        self._first = "" if every else "waiting"

    def __enter__(self) -> _Table:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, tasks: Sequence[TaskState]) -> None:
        """Show how the tasks of a run fare."""
        from rich.text import Text

        if self._live is not None:
            self._live.update(Text("\n".join(map(_line, tasks))), refresh=True)
            return
        for task in tasks:
            if self._seen.get(task.node, self._first) != task.state:
                self._console.print(_line(task), markup=False)
            self._seen[task.node] = task.state

    def say(self, message: str) -> None:
        """Say what is no result."""
        click.echo(f"finetune: {message}", err=True)


def _line(task: TaskState) -> str:
    took = "" if task.seconds is None else f"{task.seconds:7.0f} s"
    return f"{task.node:<19} {task.state:<9} {took}".rstrip()


def _print_end(state: str, explained: Explained) -> None:
    """Print how a run ended, as a local run does."""
    click.echo(f"{'run':<14} {state}")
    say_all(explained.lines)
    ending = explained.ending
    if ending is None:
        return
    if ending.accuracy is not None and ending.accuracy_interval is not None:
        low, high = ending.accuracy_interval
        click.echo(
            f"test accuracy  {ending.accuracy:.4f} on {ending.test_pictures} pictures (95 %: {low:.4f} to {high:.4f})"
        )
        baseline = "none" if ending.baseline_accuracy is None else f"{ending.baseline_accuracy:.4f}"
        click.echo(f"baseline       {baseline}" + (f" ({ending.baseline_note})" if ending.baseline_note else ""))
    click.echo(f"verdict        {ending.verdict}")
    if ending.reason:
        click.echo(f"reason         {ending.reason}")
    click.echo(f"version        {ending.version if ending.version is not None else 'not published'}")


def say_all(lines: Sequence[str]) -> None:
    """Say what is no result, a line each.

    Args:
      lines: on standard error.
    """
    for line in lines:
        click.echo(f"finetune: {line}", err=True)
