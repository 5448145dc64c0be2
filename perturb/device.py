"""What is computed on: device and threads."""

import os
import sys

from perturb.errors import UserError
from perturb.structured import check_range


def pick_device(name: str) -> str:
    """``auto`` decided: a GPU where there is one, else the CPU. UserError for a GPU that is not there."""
    import torch  # takes seconds: plain mistakes do not wait for it

    there = torch.cuda.is_available()
    if name == "auto":
        return "cuda" if there else "cpu"
    if name.startswith("cuda") and not there:
        raise UserError(f"device={name}, but torch sees no GPU; allowed here: cpu, auto")
    return name


def use_threads(count: int | None) -> None:
    """Compute with ``count`` threads, here and in processes started from here; None leaves it to torch."""
    check_range("threads", count, low=1)
    if count is None:
        return
    os.environ["OMP_NUM_THREADS"] = str(count)  # read when torch is imported
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)
