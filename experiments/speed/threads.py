"""`python experiments/speed/threads.py 6`: nano's forward and fit step with 1 and 2 threads by turns, 6 rounds.

Threads spin while they wait unless OMP_WAIT_POLICY=PASSIVE stands in the environment: torch is imported first here.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable

import torch

from perturb.cli.plan import batch_of
from perturb.models.partition import Partition
from perturb.models.videocrafter.checkpoint import load_system
from perturb.perturbation import LoraPerturbation

THREADS = (1, 2)


def compare(what: str, call: Callable[[], object], rounds: int) -> None:
    """Print medians of wall-clock and processor time for each number of threads, and of the ratio of wall-clock."""
    seconds: dict[int, list[tuple[float, float]]] = {threads: [] for threads in THREADS}
    for turn in range(rounds + 1):
        for threads, times in seconds.items():
            torch.set_num_threads(threads)
            wall, busy = time.perf_counter(), time.process_time()
            call()
            if turn:  # the first warms up
                times.append((time.perf_counter() - wall, time.process_time() - busy))
    texts = [
        f"{threads} threads: {statistics.median(wall for wall, _ in times):.3f} s, "
        f"processor {statistics.median(busy for _, busy in times):.3f} s"
        for threads, times in seconds.items()
    ]
    ratio = statistics.median(two[0] / one[0] for one, two in zip(*seconds.values(), strict=True))
    print(f"{what}: {'; '.join(texts)}; ratio {ratio:.2f}; load {os.getloadavg()[0]:.1f}", flush=True)


def main() -> None:
    """The command."""
    rounds = int(sys.argv[1])
    system = load_system("package:weights/nano/full")
    for clips in (1, 32):
        both = batch_of(system, (4, 8, 8, 8), 2 * clips, 8)
        compare(
            f"guided forward of {clips} clips",
            torch.no_grad()(lambda b=both: system.denoise(b.x0, b.t, b.cond)),
            rounds,
        )
    lora, stills = LoraPerturbation(4, 4.0, 0.0), batch_of(system, (4, 1, 8, 8), 32, 8)
    lora.attach(system.unet, Partition.of(system.unet), "spatial", 0)
    optimiser = torch.optim.AdamW(lora.parameters())

    def fit() -> None:
        optimiser.zero_grad()
        system.denoise(stills.x0, stills.t, stills.cond).square().mean().backward()
        optimiser.step()

    compare("fitting step of 32 stills", fit, rounds)


if __name__ == "__main__":
    main()
