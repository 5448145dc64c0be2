"""Which of the processes that torchrun started this is, before torch is imported."""

import os


def is_main_process() -> bool:
    """Whether this is the first of them, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def local_rank() -> int:
    """The number of this process on its machine, which is the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))
