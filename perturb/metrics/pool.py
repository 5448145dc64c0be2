"""A function of single clips in several processes: few in flight, results in order, and one may die."""

import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from multiprocessing import get_context
from typing import TypeVar

from pebble import ProcessExpired, ProcessPool

T = TypeVar("T")
R = TypeVar("R")
IN_FLIGHT = 2  # clips per process, so that none waits for work and few lie in memory


def each(function: Callable[[T], R], items: Iterable[T], failed: Callable[[str], R], *, workers: int) -> Iterator[R]:
    """``function`` of every item, in order; ``failed`` of the reason where its process died or could not be asked.

    ``workers``: processes; with 1 everything runs in this one, and is not safe from running out of memory.
    """
    if workers == 1:
        yield from map(function, items)
        return
    waiting: deque[Future[R]] = deque()
    # spawned, not forked: a fork would copy the locks of whatever threads torch and OpenCV run here
    pool = ProcessPool(max_workers=workers, context=get_context("spawn"))
    try:
        for item in items:
            waiting.append(pool.schedule(function, args=[item]))
            if len(waiting) >= IN_FLIGHT * workers:
                yield _result(waiting.popleft(), failed)
        while waiting:
            yield _result(waiting.popleft(), failed)
    finally:
        pool.stop()
        pool.join()


def _result(future: Future[R], failed: Callable[[str], R]) -> R:
    try:
        return future.result()
    except ProcessExpired as error:
        return failed(f"the process that scored the clip died ({_cause(error.exitcode)})")
    except Exception as error:
        return failed(f"{type(error).__name__}: {error}")


def _cause(code: int) -> str:
    """What an exit code says.

    >>> _cause(-9), _cause(3)
    ('SIGKILL, as when memory runs out', 'exit code 3')
    """
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"{name}, as when memory runs out" if name == "SIGKILL" else name
