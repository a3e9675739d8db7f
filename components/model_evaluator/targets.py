"""Where the evaluation puts what it keeps: TFX tells its extractors nothing but the models and their configuration."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import NamedTuple


class Targets(NamedTuple):
    """URIs of the artifacts that extractors write into."""

    evaluation: str
    predictions: str


_targets: contextvars.ContextVar[Targets] = contextvars.ContextVar("targets")


@contextlib.contextmanager
def kept_in(targets: Targets) -> Iterator[None]:
    """Say where extractors that are made inside write."""
    token = _targets.set(targets)
    try:
        yield
    finally:
        _targets.reset(token)


def current() -> Targets:
    """Return where to write."""
    return _targets.get()
