"""A function of single clips in several processes: few in flight, results in order, and one may die."""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from multiprocessing import get_context
from typing import TypeVar

from pebble import ProcessExpired, ProcessPool

from perturb.arguments import cause

T = TypeVar("T")
R = TypeVar("R")
IN_FLIGHT = 2  # clips per process, so that none waits for work and few lie in memory
CLIPS_PER_WORKER = 16  # for fewer, a process is not worth the seconds that it takes to start


def suitable_workers(clips: int) -> int:
    """How many processes a number of clips is worth on this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, clips // CLIPS_PER_WORKER))


class Workers:
    """``count`` processes, started when they are needed; `close` ends them.

    With 1 everything runs in this process, and is not safe from running out of memory.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool: ProcessPool | None = None

    def each(self, function: Callable[[T], R], items: Iterable[T], failed: Callable[[str], R]) -> Iterator[R]:
        """``function`` of every item, in order; ``failed`` of the reason, where the process of an item died."""
        if self.count == 1:
            yield from map(function, items)
            return
        if self._pool is None:
            # spawned, not forked: a fork would copy the locks of whatever threads torch and OpenCV run here
            self._pool = ProcessPool(max_workers=self.count, context=get_context("spawn"))
        items, running = iter(items), deque[Future[R]]()
        while True:
            for item in itertools.islice(items, IN_FLIGHT * self.count - len(running)):
                running.append(self._pool.schedule(function, args=[item]))
            if not running:
                return
            yield _result(running.popleft(), failed)

    def close(self) -> None:
        """End the processes, whatever they are at."""
        if self._pool is not None:
            self._pool.stop()
            self._pool.join()
            self._pool = None


def _result(future: Future[R], failed: Callable[[str], R]) -> R:
    try:
        return future.result()
    except ProcessExpired as error:
        return failed(f"the process that scored the clip died ({cause(error.exitcode)})")
    except Exception as error:
        return failed(f"{type(error).__name__}: {error}")
