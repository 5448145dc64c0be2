"""Which of the processes that torchrun started this is, before torch is imported, and how they share work by files.

What is shared out this way lies on a disk that all of them see, written whole or not at all: nothing is sent.
"""

import os
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
POLL = 0.2
"""Seconds between two looks at the disk."""


def rank() -> int:
    """The number of this process."""
    return int(os.environ.get("RANK", "0"))


def processes() -> int:
    """How many there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Whether this is the first of them, or the only one."""
    return rank() == 0


def local_rank() -> int:
    """The number of this process on its machine, which is the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_processes() -> int:
    """How many there are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def mine(items: Sequence[T]) -> Sequence[T]:
    """Of items that the processes take by turns, those of this one."""
    return items[rank() :: processes()]


def wait_for(ready: Callable[[], bool]) -> None:
    """Until others have written what is wanted; torchrun ends all processes when one of them fails."""
    while not ready():
        time.sleep(POLL)
