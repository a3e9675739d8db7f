"""Answers for many files: prepared, asked for in batches, several at once, and handed on in order."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any, Protocol

from modules import images, signatures
from serving import client


class Model(Protocol):
    """What can be asked: a client, or a model on this machine."""

    def ask(self, values: Sequence[bytes], signature: str = signatures.SERVING_DEFAULT) -> client.Answer:
        """Return the answer to a batch."""


def answers(
    model: Model, paths: Iterable[str], preparation: Mapping[str, Any], top: int, batch_size: int, concurrency: int
) -> Iterator[dict[str, Any]]:
    """Yield a record for each file, in order: `file`, `label`, `score` and `top`, or `file` and `error`.

    Args:
      model: is asked.
      paths: of the files; taken as they are needed.
      preparation: keyword arguments of `modules.images.prepare`.
      top: labels a picture.
      batch_size: pictures a request.
      concurrency: requests at once.

    Raises:
      client.ServingError: the server can't be reached or knows no such model; all answers until then were yielded.
    """
    pending: collections.deque[futures.Future] = collections.deque()
    with futures.ThreadPoolExecutor(concurrency) as pool:
        try:
            for batch in _batched(paths, batch_size):
                pending.append(pool.submit(_answer, model, batch, preparation, top))
                if len(pending) > concurrency:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _batched(paths: Iterable[str], size: int) -> Iterator[tuple[str, ...]]:
    rest = iter(paths)
    return iter(lambda: tuple(itertools.islice(rest, size)), ())


def _answer(model: Model, batch: Sequence[str], preparation: Mapping[str, Any], top: int) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = [{"file": path} for path in batch]
    good: list[tuple[dict[str, Any], bytes]] = []
    for record in records:
        try:
            good.append((record, images.prepare(Path(record["file"]).read_bytes(), **preparation).encoded))
        except (OSError, images.BadImageError) as error:
            record["error"] = getattr(error, "strerror", None) or str(error)
    if not good:
        return records
    try:
        found = model.ask([encoded for _, encoded in good]).ranked()
    except client.ServingError as error:
        if error.fatal:
            raise
        for record, _ in good:
            record["error"] = str(error)
        return records
    for (record, _), score_of in zip(good, found, strict=True):
        ranked = [{"label": label, "score": score} for label, score in list(score_of.items())[:top]]
        record |= {**ranked[0], "top": ranked}
    return records
