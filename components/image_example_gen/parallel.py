"""Work handed to threads ahead of time, with its results in order and a bound on what waits in memory."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import Generic, TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Queue(Generic[_Result]):
    """What threads of a pool are doing, and what of it is done and was not taken yet.

    Args:
      pool: of threads.
      ahead: how many results may wait or be in the making.
    """

    def __init__(self, pool: futures.Executor, ahead: int):
        self._pool = pool
        self._ahead = ahead
        self._waiting: collections.deque[futures.Future[_Result]] = collections.deque()

    def put(self, function: Callable[[_Item], _Result], item: _Item) -> Iterator[_Result]:
        """Apply a function to an item; yield the results that don't fit into the bound, the oldest first."""
        self._waiting.append(self._pool.submit(function, item))
        while len(self._waiting) > self._ahead:
            yield self._waiting.popleft().result()

    def rest(self) -> Iterator[_Result]:
        """Yield all results that were not taken, the oldest first."""
        while self._waiting:
            yield self._waiting.popleft().result()


def in_order(
    pool: futures.Executor, function: Callable[[_Item], _Result], items: Iterable[_Item], ahead: int
) -> Iterator[_Result]:
    """Apply a function on the threads of a pool.

    Args:
      pool: of threads.
      function: applied to each item.
      items: taken one by one, as results are.
      ahead: how many results may wait or be in the making.

    Yields:
      The results, in the order of the items.
    """
    queue: Queue[_Result] = Queue(pool, ahead)
    for item in items:
        yield from queue.put(function, item)
    yield from queue.rest()
