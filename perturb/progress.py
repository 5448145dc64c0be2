"""Progress bars with the time left, on stderr; where stderr is no terminal, one line per stage instead."""

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextlib.contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[float], None]]:
    """Yields ``advance(count)``; the bar shows how many of ``total`` are done and the time left."""
    console = Console(stderr=True)
    started = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(
        *columns,
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bars:
        task = bars.add_task(title, total=total)
        yield lambda count: bars.advance(task, count)
    console.print(f"{title}: done in {time.monotonic() - started:.1f} s", highlight=False)
