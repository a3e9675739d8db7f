"""What a page says that is in no artifact, and where the artifacts are that it is made from."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from components.data_gate.findings import Finding


class Made(NamedTuple):
    """URIs of what a run made or took from the cache; None for what there is not, or not any more."""

    rejects: str | None = None
    verdict: str | None = None
    """On the data."""
    statistics: str | None = None
    examples: str | None = None
    cross_validation: str | None = None
    model: str | None = None
    """The folder of the SavedModel."""
    model_run: str | None = None
    """With TensorBoard's logs."""
    evaluation: str | None = None
    predictions: str | None = None


class Run(NamedTuple):
    """A line of the history."""

    run: str
    begun: datetime.datetime | None
    verdict: str
    accuracy: float | None
    accuracy_interval: Sequence[float] | None
    pictures: int | None
    version: int | None
    live: bool
    changed: Sequence[str]
    reason: str


class Node(NamedTuple):
    """How a node of the run fared."""

    node: str
    state: str
    seconds: float | None


class Changed(NamedTuple):
    """A key of the configuration, or a library, with its values before and now."""

    what: str
    before: Any
    now: Any


@dataclasses.dataclass(frozen=True)
class Facts:
    """A run, as far as it came.

    Attributes:
      pipeline: its name.
      run: its id.
      verdict: `published`, `refused`, `failed` or `up to date`.
      reason: why nothing was published, in words.
      node: that failed or refused.
      version: that was published, now or, if nothing had changed, before.
      live: the version that is live; None if there is none.
      accuracy: on the test split.
      accuracy_interval: Wilson's, 95 %.
      test_pictures: that it was measured on.
      baseline_accuracy: of the model that was live, on the same pictures.
      made: by the run.
      compared_with: the version that was live before; None if there was none.
      made_before: by the run that published that.
      configuration: what makes a difference to the model, by section and key.
      differences: of the configuration and of libraries, since that version.
      code_changed: since that version; None if it is not known.
      history: all runs, the newest last, with this one.
      nodes: in order.
      lineage: what is known of where the model comes from, name by name.
      again: the command that does it again.
      findings: what speaks against the data, where no artifact has them.
      pictures: whether the page may show some.
      looks: whether it shows where the model looked, for which the model is run.
    """

    pipeline: str
    run: str
    verdict: str
    reason: str = ""
    node: str | None = None
    version: int | None = None
    live: int | None = None
    accuracy: float | None = None
    accuracy_interval: Sequence[float] | None = None
    test_pictures: int | None = None
    baseline_accuracy: float | None = None
    made: Made = dataclasses.field(default_factory=Made)
    compared_with: int | None = None
    made_before: Made = dataclasses.field(default_factory=Made)
    configuration: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    differences: Sequence[Changed] = ()
    code_changed: bool | None = None
    history: Sequence[Run] = ()
    nodes: Sequence[Node] = ()
    lineage: Mapping[str, str] = dataclasses.field(default_factory=dict)
    again: str = ""
    findings: Sequence[Finding] = ()
    pictures: bool = True
    looks: bool = True
