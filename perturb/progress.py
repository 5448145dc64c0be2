"""How far a stage is, on stderr: a bar with the time left; where stderr is no terminal, a line now and then."""

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

EVERY = 30.0
"""Seconds between two lines: seldom enough for the log of a job of days, often enough to see that it lives."""


@contextlib.contextmanager
def progress(title: str, total: float) -> Iterator[Callable[[float], None]]:
    """Yields ``advance(count)``, which shows how many of ``total`` are done and the time left."""
    console = Console(stderr=True)
    started = time.monotonic()
    if console.is_terminal:
        with _bar(console, title, total) as advance:
            yield advance
    else:
        yield _Lines(console, title, total)
    _print(console, f"{title}: done in {time.monotonic() - started:.1f} s")


@contextlib.contextmanager
def _bar(console: Console, title: str, total: float) -> Iterator[Callable[[float], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console, transient=True) as bars:
        task = bars.add_task(title, total=total)
        yield lambda count: bars.advance(task, count)


class _Lines:
    """``title: done/total, rate, time left``, at most every `EVERY` seconds.

    The rate is that since the first call, which says what was done before (by a run that is resumed) or warms up.
    """

    def __init__(self, console: Console, title: str, total: float) -> None:
        self.console, self.title, self.total = console, title, total
        self.done, self.printed = 0.0, time.monotonic()
        self.first: tuple[float, float] | None = None  # time, done

    def __call__(self, count: float) -> None:
        """``count`` more are done."""
        now = time.monotonic()
        self.done += count
        if self.first is None:
            self.first = now, self.done
        since, before = self.first
        if now - self.printed < EVERY or self.done <= before or now <= since:
            return
        self.printed = now
        rate = (self.done - before) / (now - since)
        left = span((self.total - self.done) / rate)
        _print(self.console, f"{self.title}: {self.done:,.0f}/{self.total:,.0f}, {rate:.3g}/s, {left} left")


def _print(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def span(seconds: float) -> str:
    """A time in the unit that suits it.

    >>> span(30), span(300), span(10_662_480)
    ('30 s', '5 min', '2,961.8 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"
