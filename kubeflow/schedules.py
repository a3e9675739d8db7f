"""Runs that start by themselves: made, changed and ended without ever ending a run that is under way.

Deleting a recurring run deletes all workflows it ever started, those that run among them. So a schedule that is replaced is
disabled at once, and removed when its last run has ended, by whoever looks next; what it started stays, with its logs.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kubeflow.client import ClientError, Pipelines, explained, name_of, typed_values
from kubeflow.status import is_finished

_ORPHANS_FROM = (2, 16)
"""The first server that deletes a recurring run without its workflows."""
_WORKFLOWS_KEPT_SECONDS = 3600
"""After a run's end; then Kubeflow Pipelines removes its workflow and pods in any case."""
_OURS = "Made by finetune kubeflow schedule"
"""Description of the recurring runs that may be removed once they are replaced."""


class Schedule(NamedTuple):
    """When runs start by themselves."""

    cron: str | None = None
    """Five fields, or six with seconds first; in the server's time zone, which is UTC unless it was told another."""
    every_seconds: int | None = None
    """Between two starts, in the place of `cron`."""
    start: datetime.datetime | None = None
    """Earliest start, with its time zone."""
    end: datetime.datetime | None = None
    """Latest start, with its time zone."""
    max_concurrency: int = 1
    """Runs at once."""
    catchup: bool = False
    """Whether starts that were missed are made up for."""
    enabled: bool = True
    """Whether it runs at all."""


class Schedules:
    """The recurring runs of a server.

    Args:
      server: that has them.
    """

    def __init__(self, server: Pipelines):
        self._server, self._api = server, server.api

    def schedule(
        self,
        name: str,
        pipeline: Path,
        when: Schedule,
        experiment: str | None,
        values: Mapping[str, str],
        service_account: str | None,
    ) -> str:
        """Create the recurring run of a name; those that had the name before are disabled, and go by `sweep`.

        Args:
          name: of the recurring run.
          pipeline: as for `Pipelines.upload`, which comes first.
          when: runs start.
          experiment: as for `Pipelines.submit`.
          values: of parameters, by name, as text.
          service_account: as for `Pipelines.submit`.

        Returns:
          Its id.
        """
        typed, cron = typed_values(pipeline, values), with_seconds(when.cron)
        pipeline_id, version_id, _ = self._server.upload(pipeline)
        with explained():
            in_experiment = self._api.create_experiment(
                experiment or name_of(pipeline), namespace=self._server.namespace
            ).experiment_id
            # The new one first: who is killed between the two leaves a night with two runs, and none without.
            made = self._api.create_recurring_run(
                *(in_experiment, name),
                description=_OURS,
                start_time=_utc(when.start),
                end_time=_utc(when.end),
                interval_second=when.every_seconds,
                cron_expression=cron,
                max_concurrency=when.max_concurrency,
                no_catchup=not when.catchup,
                params=typed,
                pipeline_id=pipeline_id,
                version_id=version_id,
                enabled=when.enabled,
                service_account=service_account,
            )
            for old in self._named(name):
                if old.recurring_run_id == made.recurring_run_id:
                    break  # what is newer is somebody else's word on the same schedule
                if old.status != "DISABLED":
                    self._api.disable_recurring_run(old.recurring_run_id)
        return made.recurring_run_id

    def sweep(self) -> list[str]:
        """Remove what was replaced, where its last run has ended.

        Returns:
          A line for each that was, or has to wait.
        """
        said = []
        with explained():
            by_name: dict[str, list[Any]] = {}
            for one in self._all():
                by_name.setdefault(one.display_name, []).append(one)
            for name, found in by_name.items():
                for old in _oldest_first(found)[:-1]:
                    if old.status != "DISABLED" or old.description != _OURS:
                        continue
                    runs = self._runs(old)
                    under_way = [run.run_id for run in runs if not is_finished(run)]
                    if under_way:
                        said.append(
                            f"the schedule that {name} replaced is disabled, and goes when its run {under_way[0]} ends"
                        )
                    elif self._remove(old, runs):
                        said.append(f"the schedule that {name} replaced is removed: its last run has ended")
        return said

    def _remove(self, recurring: Any, runs: list[Any]) -> bool:
        """Delete a recurring run, and nothing that it started; return whether that can be done yet."""
        if self._server.version >= _ORPHANS_FROM:
            self._api._recurring_run_api.recurring_run_service_delete_recurring_run(
                recurring.recurring_run_id, propagation_policy="ORPHAN"
            )
            return True
        now = datetime.datetime.now(datetime.UTC)
        if any((now - run.finished_at).total_seconds() < _WORKFLOWS_KEPT_SECONDS for run in runs):
            return False
        self._api.delete_recurring_run(recurring.recurring_run_id)
        return True

    def enable(self, name: str, enabled: bool) -> None:
        """Enable or disable the newest recurring run of a name.

        Args:
          name: of it.
          enabled: which of the two.

        Raises:
          ClientError: there is none of that name.
        """
        with explained():
            newest = self._named(name)[-1]
            change = self._api.enable_recurring_run if enabled else self._api.disable_recurring_run
            change(newest.recurring_run_id)

    def ending_with(self, name: str) -> list[str]:
        """Return the ids of the runs under way that would end if the recurring runs of a name were deleted.

        Raises:
          ClientError: there is none of that name.
        """
        with explained():
            return [run.run_id for one in self._named(name) for run in self._runs(one) if not is_finished(run)]

    def delete(self, name: str) -> None:
        """Delete all recurring runs of a name, and so what they have under way.

        Raises:
          ClientError: there is none of that name.
        """
        with explained():
            for one in self._named(name):
                self._api.delete_recurring_run(one.recurring_run_id)

    def _named(self, name: str) -> list[Any]:
        """Those of a name, the newest last."""
        everything = list(self._all())
        found = [one for one in everything if one.display_name == name]
        if not found:
            known = ", ".join(sorted({one.display_name for one in everything}))
            raise ClientError(f"no recurring run {name}; there are: {known or 'none'}")
        return _oldest_first(found)

    def _all(self) -> Iterator[Any]:
        return self._server.pages(self._api.list_recurring_runs, "recurring_runs", namespace=self._server.namespace)

    def _runs(self, recurring: Any) -> list[Any]:
        predicates = [{"operation": "EQUALS", "key": "recurring_run_id", "stringValue": recurring.recurring_run_id}]
        runs = self._server.pages(
            self._api.list_runs,
            "runs",
            experiment_id=recurring.experiment_id,
            namespace=self._server.namespace,
            filter=json.dumps({"predicates": predicates}),
        )
        # Not every server knows that key; what it does not filter is filtered here.
        return [run for run in runs if run.recurring_run_id == recurring.recurring_run_id]


def _oldest_first(found: list[Any]) -> list[Any]:
    # Two of one second have a fixed order as well, the same for everybody.
    return sorted(found, key=lambda one: (one.created_at, one.recurring_run_id))


def with_seconds(cron: str | None) -> str | None:
    """Return a cron expression with the field for seconds that Kubeflow Pipelines wants.

    Args:
      cron: five fields, or six with seconds first, or a shorthand such as `@daily`; None stays None.

    Raises:
      ClientError: it has another number of fields.
    """
    if cron is None or cron.startswith("@"):
        return cron
    fields = cron.split()
    if len(fields) not in {5, 6}:
        raise ClientError(f"{cron!r}: a cron expression has five fields, or six with seconds first, e.g. '0 2 * * *'")
    return " ".join(fields if len(fields) == 6 else ["0", *fields])


def _utc(moment: datetime.datetime | None) -> str | None:
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if moment else None
