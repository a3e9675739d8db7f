"""Whether a server serves what was published."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from modules import signatures
from serving import client, local, model_info, pictures, warmup

_TOLERANCE = 1e-4


class Finding(NamedTuple):
    """One thing that was looked at, whether it is as it should be, and what was found."""

    what: str
    ok: bool
    found: str


def findings(server: client.Client, version: str, info: model_info.ModelInfo) -> Iterator[Finding]:
    """Compare a server with a published version.

    Args:
      server: the client of the model.
      version: folder of the version.
      info: what it says of itself.

    Raises:
      client.ServingError: the server can't be reached or knows no such model.
    """
    states = server.status()
    yield Finding(
        f"version {info.version} is available",
        states.get(info.version) == client.AVAILABLE,
        ", ".join(f"{number} {state}" for number, state in sorted(states.items())) or "no version",
    )
    names = server.signature_names()
    yield Finding("signatures", names >= {signatures.SERVING_DEFAULT, signatures.EXAMPLES}, ", ".join(sorted(names)))
    yield from _answers(server, version, info)


def _compared(what: str, server: pictures.Model, values: list[bytes], signature: str, info: model_info.ModelInfo) -> Finding:
    try:
        answer = server.ask(values, signature)
    except client.ServingError as error:
        return Finding(what, False, str(error))
    if answer.labels != info.labels:
        return Finding(what, False, f"labels are {answer.labels}, published were {info.labels}")
    expected = np.array([info.warmup[index % len(info.warmup)] for index in range(len(values))], np.float32)
    difference = float(np.abs(answer.probabilities - expected).max())
    return Finding(what, difference <= _TOLERANCE, f"differs by {difference:.1g} from what was judged")


def answers_differently(version: str, info: model_info.ModelInfo) -> list[str]:
    """Load a version on this machine and return what it answers otherwise than when it was judged, a line each.

    Args:
      version: its folder.
      info: what it says of itself.
    """
    answers = _answers(local.LocalModel(Path(version)), version, info)
    return [f"{finding.what}: {finding.found}" for finding in answers if not finding.ok]


def _answers(model: pictures.Model, version: str, info: model_info.ModelInfo) -> Iterator[Finding]:
    """Ask a model each warm-up request of a version."""
    for request in warmup.read(version):
        signature = request.model_spec.signature_name
        values = list(request.inputs[client.INPUTS[signature]].string_val)
        yield _compared(f"{signature}, batch of {len(values)}", model, values, signature, info)
