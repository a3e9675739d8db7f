"""Work handed to threads ahead of time, with its results in order and a bound on what waits in memory."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


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
    waiting: collections.deque[futures.Future[_Result]] = collections.deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
