"""Whether a model answers as it was judged: one check for exported models, published versions and servers."""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import tensorflow as tf

from modules import devices, signatures
from serving import contract, local, model_info, warmup
from serving.fresh import NotJudgedError

TIGHT = 1e-4
"""Where both sides compute in all of float32: only the order of sums differs, by batch size, by kernel, by device.

VGG16's probabilities differ by up to 1.6e-3 where one side takes TF32's 11 bits instead of 24, thus by 2e-7 for the bits
alone; kernels such as Winograd's lose up to a hundred times as much."""
LOOSE = 5e-3
"""Where one side may compute in TF32: three times what was seen."""
_MAY_PASS = (
    tf.errors.ResourceExhaustedError,
    tf.errors.UnavailableError,
    tf.errors.DeadlineExceededError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.UnknownError,
    MemoryError,
)
"""What says something of the machine, its disks and its memory, and nothing of a model."""
_NOTHING_TO_COMPARE = "there is nothing that it was judged on, to compare with"

_Result = TypeVar("_Result")


class BrokenError(RuntimeError):
    """A model that can't be loaded, or fails on what it was judged on; the message is one line."""


class Judged(NamedTuple):
    """A batch that a model was judged on."""

    signature: str
    """That is asked."""
    values: list[bytes]
    """Encoded pictures, or serialised tf.Examples for the signature `examples`."""
    labels: list[str]
    """`n`, in the order of the probabilities."""
    probabilities: np.ndarray
    """float32 `[batch, n]`, as they were judged."""

    @property
    def what(self) -> str:
        """The batch in words."""
        return f"signature {self.signature}, batch of {len(self.values)}"


class Finding(NamedTuple):
    """One thing that was looked at, whether it is as it should be, and what was found."""

    what: str
    ok: bool
    found: str


def bound(judged_in: str | None, answers_in: str | None) -> float:
    """Return by how much a probability may differ from the one that was judged.

    Args:
      judged_in: what the model was judged in, as `devices.computes_in` says it; None if it is not known.
      answers_in: what the one who answers now computes in, likewise.
    """
    return TIGHT if judged_in == answers_in == devices.FLOAT32 else LOOSE


def wrong(answer: contract.Answer, judged: Judged, allowed: float) -> Iterator[str]:
    """Yield what is wrong with an answer, a line each.

    Labels are those that were judged, in their order. The most probable one is the same, unless the two were closer
    together than what a probability may differ by.

    Args:
      answer: to the batch.
      judged: the batch.
      allowed: as `bound` returns it.
    """
    found = answer.probabilities
    if answer.labels != judged.labels:
        yield f"labels are {answer.labels}, judged were {judged.labels}"
        return
    if found.shape != judged.probabilities.shape:
        yield f"probabilities are {found.shape}, judged were {judged.probabilities.shape}"
        return
    if not np.isfinite(judged.probabilities).all():
        yield "the probabilities that were judged are not finite: nothing can be compared with them"
        return
    if not np.isfinite(found).all():
        yield "probabilities are not finite"
        return
    sums = found.sum(axis=-1)
    if (off := np.abs(sums - 1.0)).max() > 1e-3:
        yield f"probabilities sum to {sums[off.argmax()]:.4f}, not to 1"
    for now, before in zip(found, judged.probabilities, strict=True):
        answered, expected = int(now.argmax()), int(before.argmax())
        if before[expected] - before[answered] > allowed:
            yield f"the answer is {judged.labels[answered]}, judged was {judged.labels[expected]}"
    difference = float(np.abs(found - judged.probabilities).max())
    if difference > allowed:
        yield f"probabilities differ by {difference:.2g} from those that were judged, more than {allowed:g}"


def failures(saved_model: str, batches: Iterable[Judged], judged_in: str | None) -> list[str]:
    """Load an exported model here and return what it answers otherwise than when it was judged, a line each.

    Args:
      saved_model: its folder.
      batches: what it was judged on.
      judged_in: as for `bound`.

    Raises:
      BrokenError: it can't be loaded, or fails where it was judged.
      NotJudgedError: this machine could not do that.
    """
    found = []
    with devices.full_float32():
        model = _guarded("the model can't be loaded", functools.partial(local.LocalModel, Path(saved_model)))
        names, asked = model.signature_names(), [*batches]
        if not asked:
            found.append(_NOTHING_TO_COMPARE)
        for batch in asked:
            if batch.signature not in names:
                found.append(f"signature {batch.signature} is missing; there are {sorted(names)}")
                continue
            outputs = _guarded(batch.what, functools.partial(model.outputs, batch.values, batch.signature))
            lines = list(_malformed(outputs, batch))
            if not lines:
                allowed = bound(judged_in, devices.computes_in())
                lines = [*wrong(local.answer_of(outputs), batch, allowed), *_contradicting(outputs)]
            found += [f"{batch.what}: {line}" for line in lines]
    return found


def answers_differently(version: str, info: model_info.ModelInfo) -> list[str]:
    """Load a published version on this machine and return what it answers otherwise than when it was judged, a line each.

    Args:
      version: its folder.
      info: what it says of itself.

    Raises:
      NotJudgedError: this machine could not do that.
    """
    try:
        return failures(version, published(version, info), info.computed_in)
    except BrokenError as error:
        return [str(error)]


def findings(server: contract.Client, version: str, info: model_info.ModelInfo) -> Iterator[Finding]:
    """Compare a server with a published version.

    Args:
      server: the client of the model.
      version: folder of the version.
      info: what it says of itself.

    Raises:
      contract.ServingError: the server can't be reached or knows no such model.
    """
    states = server.status()
    yield Finding(
        f"version {info.version} is available",
        states.get(info.version) == contract.AVAILABLE,
        ", ".join(f"{number} {state}" for number, state in sorted(states.items())) or "no version",
    )
    names = server.signature_names()
    yield Finding("signatures", names >= {signatures.SERVING_DEFAULT, signatures.EXAMPLES}, ", ".join(sorted(names)))
    # On which device it answers, a server does not say.
    allowed = bound(info.computed_in, None)
    batches = [*published(version, info)]
    if not batches:
        yield Finding("answers", False, _NOTHING_TO_COMPARE)
    for batch in batches:
        try:
            lines = list(wrong(server.ask(batch.values, batch.signature), batch, allowed))
        except contract.ServingError as error:
            lines = [str(error)]
        yield Finding(batch.what, not lines, "; ".join(lines) or f"as it was judged, within {allowed:g}")


def published(version: str, info: model_info.ModelInfo) -> Iterator[Judged]:
    """Yield the warm-up requests of a published version, with what was judged of their pictures.

    Args:
      version: its folder.
      info: what it says of itself.
    """
    for request in warmup.read(version):
        signature = request.model_spec.signature_name
        values = list(request.inputs[contract.INPUTS[signature]].string_val)
        rows = [info.warmup[index % len(info.warmup)] for index in range(len(values))]
        yield Judged(signature, values, info.labels, np.array(rows, np.float32))


def _guarded(what: str, work: Callable[[], _Result]) -> _Result:
    """Do what a model may fail at, and tell its failures from those of the machine."""
    try:
        return work()
    except _MAY_PASS as error:
        raise NotJudgedError(f"{what}: {_line(error)}") from None
    except Exception as error:
        # TensorFlow's own have no number, and a file that is missing is missing in the model.
        if isinstance(error, OSError) and error.errno not in {None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR}:
            raise NotJudgedError(f"{what}: {_line(error)}") from None
        raise BrokenError(f"{what}: {_line(error)}") from None


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _malformed(outputs: Mapping[str, np.ndarray], batch: Judged) -> Iterator[str]:
    """What is wrong with the form of all outputs of a batch."""
    size, classes = batch.probabilities.shape
    declared = {
        signatures.LABEL: ((size,), np.object_),
        signatures.SCORE: ((size,), np.float32),
        signatures.PROBABILITIES: ((size, classes), np.float32),
        signatures.ALL_CLASSES: ((size, classes), np.object_),
    }
    if outputs.keys() != declared.keys():
        yield f"outputs are {sorted(outputs)}, expected {sorted(declared)}"
        return
    found = {key: (value.shape, value.dtype.type) for key, value in outputs.items()}
    yield from (f"{key} is {found[key]}, expected {declared[key]}" for key in declared if found[key] != declared[key])


def _contradicting(outputs: Mapping[str, np.ndarray]) -> Iterator[str]:
    """Where the outputs of a batch contradict each other."""
    probabilities, names = outputs[signatures.PROBABILITIES], outputs[signatures.ALL_CLASSES]
    if (names != names[0]).any():
        yield "the pictures have different classes"
    best = probabilities.argmax(axis=-1)
    if (outputs[signatures.LABEL] != names[np.arange(len(names)), best]).any():
        yield "label is not the most probable class"
    if not np.allclose(outputs[signatures.SCORE], probabilities.max(axis=-1), atol=1e-6, equal_nan=True):
        yield "score is not the highest probability"
