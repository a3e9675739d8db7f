"""Answers for many files: prepared, asked for in batches, several at once, and handed on in order."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple, Protocol

from modules import images, signatures
from serving import contract

_MAX_BYTES = 64 * 2**20
"""Of the pictures in a request, but for a single larger one."""


class Model(Protocol):
    """What can be asked: a client, or a model on this machine."""

    def ask(self, values: Sequence[bytes], signature: str = signatures.SERVING_DEFAULT) -> contract.Answer:
        """Return the answer to a batch."""


class Unusable(NamedTuple):
    """A path that was given and can't be asked about, and why."""

    file: str
    error: str


def answers(
    model: Model,
    files: Iterable[str | Unusable],
    preparation: Mapping[str, Any],
    top: int,
    batch_size: int,
    concurrency: int,
) -> Iterator[dict[str, Any]]:
    """Yield a record for each file, in order: `file`, `label`, `score` and `top`, or `file` and `error`.

    The pictures of at most `concurrency` batches are in memory. Ctrl-C yields what has been answered, then goes on its way.

    Args:
      model: is asked.
      files: their paths, taken as they are needed; what is unusable gets its record in its place.
      preparation: keyword arguments of `modules.images.servable`.
      top: labels a picture.
      batch_size: most pictures a request; large pictures go in smaller batches.
      concurrency: requests at once.

    Raises:
      contract.ServingError: the server can't be reached or knows no such model; all answers until then were yielded.
    """
    pending: collections.deque[futures.Future] = collections.deque()
    pool = futures.ThreadPoolExecutor(concurrency)
    try:
        for batch in _batched(files, batch_size):
            pending.append(pool.submit(_answer, model, batch, preparation, top))
            if len(pending) > concurrency:
                yield from _first(pending)
        while pending:
            yield from _first(pending)
    except KeyboardInterrupt:
        while pending and pending[0].done():
            yield from _first(pending)
        raise
    finally:
        # A request that is under way can't be called back; who was interrupted does not wait for it.
        pool.shutdown(wait=False, cancel_futures=True)


def _first(pending: collections.deque[futures.Future]) -> Iterator[dict[str, Any]]:
    """Wait for the first batch and hand it on; an interrupted wait leaves it where it is."""
    records, failure = pending[0].result()
    pending.popleft()
    yield from records
    if failure is not None:
        raise failure


def _batched(files: Iterable[str | Unusable], size: int) -> Iterator[tuple[str | Unusable, ...]]:
    rest = iter(files)
    return iter(lambda: tuple(itertools.islice(rest, size)), ())


def _answer(
    model: Model, batch: Sequence[str | Unusable], preparation: Mapping[str, Any], top: int
) -> tuple[list[dict[str, Any]], contract.ServingError | None]:
    """Return the records of a batch; with an error that ends all, those before the first that lacks its answer."""
    records: list[dict[str, Any]] = []
    for part in _by_bytes(batch, preparation, records):
        try:
            _ask(model, part, top)
        except contract.ServingError as error:
            return list(itertools.takewhile(lambda record: len(record) > 1, records)), error
    return records, None


def _by_bytes(
    batch: Sequence[str | Unusable], preparation: Mapping[str, Any], records: list[dict[str, Any]]
) -> Iterator[list[tuple[dict[str, Any], bytes]]]:
    """Append a record for each file, and yield those to be answered with their pictures, `_MAX_BYTES` at once."""
    part: list[tuple[dict[str, Any], bytes]] = []
    size = 0
    for file in batch:
        if isinstance(file, Unusable):
            records.append(file._asdict())
            continue
        records.append({"file": file})
        try:
            encoded = _prepare(file, preparation)
        except Exception as error:  # whatever is wrong with one file, the others are answered
            records[-1]["error"] = getattr(error, "strerror", None) or str(error) or type(error).__name__
            continue
        if part and size + len(encoded) > _MAX_BYTES:
            yield part
            part, size = [], 0
        part.append((records[-1], encoded))
        size += len(encoded)
    if part:
        yield part


def _prepare(file: str, preparation: Mapping[str, Any]) -> bytes:
    limit = images.max_bytes(preparation.get("max_pixels", images.MAX_PIXELS))
    with open(file, "rb") as opened:
        content = opened.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"more than {limit} bytes, which no picture of image.max_megapixels needs")
    return images.servable(content, **preparation)


def _ask(model: Model, good: Sequence[tuple[dict[str, Any], bytes]], top: int) -> None:
    """Fill the answers of prepared pictures into their records."""
    try:
        found = model.ask([encoded for _, encoded in good]).ranked()
    except contract.ServingError as error:
        if error.fatal:
            raise
        for record, _ in good:
            record["error"] = str(error)
        return
    for (record, _), score_of in zip(good, found, strict=True):
        ranked = [{"label": label, "score": score} for label, score in list(score_of.items())[:top]]
        record |= {**ranked[0], "top": ranked}
