"""Calls by turns in one process: what other work takes, it takes from all of them alike."""

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def by_turns(
    calls: Mapping[str, Callable[[], Any]], turns: int, clock: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """Seconds of each call in every turn; a turn before these warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(turns + 1):
        for name, call in calls.items():
            start = clock()
            call()
            if turn:
                seconds[name].append(clock() - start)
    return seconds


def report(what: str, seconds: Mapping[str, Sequence[float]]) -> None:
    """Print the median turn of each and the fastest, and how many times as fast as the first it is, turn by turn."""
    first = next(iter(seconds.values()))
    print(f"\n{what}, {len(first)} turns; load {os.getloadavg()[0]:.1f}")
    for name, times in seconds.items():
        ratios = [begun / ended for begun, ended in zip(first, times, strict=True)]
        print(
            f"  {name}: {statistics.median(times):.4f} s (fastest {min(times):.4f}), {statistics.median(ratios):.3f} × "
            f"as fast ({min(ratios):.3f} to {max(ratios):.3f})",
            flush=True,
        )
