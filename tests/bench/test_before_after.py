"""Another checkout's speed against this one's: both in one process, by turns, medians of the ratio. By hand:

PERTURB_BENCH_BEFORE=/path/of/the/other/checkout OMP_NUM_THREADS=1 pytest -m slow -s tests/bench/test_before_after.py
"""

import importlib
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

BEFORE = os.environ.get("PERTURB_BENCH_BEFORE")
ROUNDS = int(os.environ.get("PERTURB_BENCH_ROUNDS", "9"))
HERE = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(BEFORE is None, reason="PERTURB_BENCH_BEFORE names no other checkout"),
]


class Version:
    """The package of one checkout. Its modules are put back before each call, for imports inside of functions."""

    def __init__(self, root: Path) -> None:
        self.root, self.modules = root, dict[str, ModuleType]()

    def __call__(self, name: str) -> Any:
        """The module ``perturb.<name>`` of this checkout."""
        self.enter()
        module = importlib.import_module(f"perturb.{name}")
        assert Path(str(module.__file__)).is_relative_to(self.root), module.__file__
        self.modules |= _loaded()
        return module

    def enter(self) -> None:
        for name in _loaded():
            del sys.modules[name]
        sys.modules.update(self.modules)
        sys.path[:] = [str(self.root), *(path for path in sys.path if path != str(self.root))]


def _loaded() -> dict[str, ModuleType]:
    return {name: module for name, module in sys.modules.items() if name.split(".")[0] == "perturb"}


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """The modules that the tests began with."""
    modules, path = _loaded(), sys.path[:]
    yield
    for name in _loaded():
        del sys.modules[name]
    sys.modules.update(modules)
    sys.path[:] = path


def compare(what: str, make: Callable[[Version], Callable[[], Any]]) -> None:
    """Print both medians, and the median and the range of the ratios of neighbouring turns."""
    versions = [Version(Path(str(BEFORE)).resolve()), Version(HERE)]
    calls = [(version, make(version)) for version in versions]
    seconds: list[list[float]] = [[], []]
    for turn in range(ROUNDS + 1):
        for (version, call), times in zip(calls, seconds, strict=True):
            version.enter()
            start = time.process_time()
            call()
            if turn:  # the first warms up
                times.append(time.process_time() - start)
    ratios = sorted(before / after for before, after in zip(*seconds, strict=True))
    before, after = map(statistics.median, seconds)
    print(
        f"\n{what}: {before:.3f} → {after:.3f} s of processor, {statistics.median(ratios):.2f} times as fast "
        f"({ratios[0]:.2f} to {ratios[-1]:.2f}); load {os.getloadavg()[0]:.1f}",
        flush=True,
    )


def system_of(version: Version) -> Any:
    return version("models.videocrafter.checkpoint").load_system("package:weights/nano/full")


@pytest.mark.parametrize("group", ["none", "spatial", "temporal"])
@pytest.mark.parametrize("clips", [1, 8])
def test_guided_forward(group: str, clips: int) -> None:
    """As in sampling: with the perturbation merged where a version can."""

    def make(version: Version) -> Callable[[], Any]:
        system, lora = system_of(version), version("perturbation").LoraPerturbation(4, 4.0)
        if group != "none":
            lora.attach(system.unet, system.partition(), group, 0)
        sides = version("cli.cost").inputs(system, (4, 8, 8, 8), 2 * clips)
        merged = lora.merged() if group != "none" and version.root == HERE else nullcontext()
        merged.__enter__()
        return torch.no_grad()(lambda: system.denoise(*sides))

    compare(f"guided forward of {clips} clips, perturbed: {group}", make)


@pytest.mark.parametrize(("group", "frames"), [("spatial", 1), ("temporal", 1), ("spatial", 8), ("all weights", 8)])
def test_fitting_step(group: str, frames: int) -> None:
    def make(version: Version) -> Callable[[], Any]:
        system, lora = system_of(version), version("perturbation").LoraPerturbation(4, 4.0)
        if group == "all weights":
            trained = list(system.unet.requires_grad_(True).parameters())
        else:
            lora.attach(system.unet, system.partition(), group, 0)
            trained = lora.parameters()
        optimiser = torch.optim.AdamW(trained)
        samples = version("cli.cost").inputs(system, (4, frames, 8, 8), 32 // frames)

        def step() -> None:
            optimiser.zero_grad()
            system.denoise(*samples).square().mean().backward()
            optimiser.step()

        return step

    compare(f"fitting step of {32 // frames} samples of {frames} frames, trained: {group}", make)
