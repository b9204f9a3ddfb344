"""Work done in threads before its turn comes: what decodes pictures leaves Python's lock to others most of the time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import NoReturn, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(function: Callable[[Item], Result], items: Iterable[Item], num_threads: int) -> Iterator[Result]:
    """The results in order, each begun up to `num_threads` items before it is asked for.

    Args:
        function: of one item.
        items: drawn in the caller's thread.
        num_threads: 0: everything is done when it is asked for, in the caller's thread.

    Raises:
        Exception: what the function or the drawing of an item raises, when its turn comes.
    """
    if num_threads == 0:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="ahead")
    waiting: deque[Future[Result]] = deque()
    try:
        for work in _list_work(function, items):
            waiting.append(pool.submit(work))
            if len(waiting) > num_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _list_work(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Callable[[], Result]]:
    """What to do for each item. Where one cannot be drawn that is the last, so that those before it are not lost."""
    try:
        for item in items:
            yield partial(function, item)
    except Exception as error:
        yield partial(_fail, error)


def _fail(error: Exception) -> NoReturn:
    raise error
