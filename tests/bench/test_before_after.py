"""Another checkout's speed against this one's, and an adapter's cost: in one process, by turns. By hand:

PERTURB_BENCH_BEFORE=/path/of/the/other/checkout OMP_NUM_THREADS=1 pytest -m slow -s tests/bench/test_before_after.py
"""

import dataclasses
import importlib
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from perturb.store.video import write_mp4
from tests.bench.test_scoring_speed import scene
from tests.bench.turns import by_turns, report

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
    """What each version makes, by turns."""
    versions = {"before": Version(Path(str(BEFORE)).resolve()), "after": Version(HERE)}
    calls = {name: (version, make(version)) for name, version in versions.items()}

    def within(version: Version, call: Callable[[], Any]) -> Callable[[], Any]:
        return lambda: (version.enter(), call())

    report(what, by_turns({name: within(*call) for name, call in calls.items()}, ROUNDS))


def system_of(version: Version) -> Any:
    return version("models.videocrafter.checkpoint").load_system("package:weights/nano/full")


def samples(system: Any, count: int, frames: int) -> tuple[Any, ...]:
    return (
        torch.randn(count, 4, frames, 8, 8),
        torch.zeros(count, dtype=torch.long),
        system.conditioning([""] * count, 8),
    )


@pytest.mark.parametrize("clips", [1, 8])
def test_guided_forward(clips: int) -> None:
    def make(version: Version) -> Callable[[], Any]:
        system = system_of(version)
        return _forward(system, samples(system, 2 * clips, 8))

    compare(f"guided forward of {clips} clips", make)


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
        batch = samples(system, 32 // frames, frames)

        def step() -> None:
            optimiser.zero_grad()
            system.denoise(*batch).square().mean().backward()
            optimiser.step()

        return step

    compare(f"fitting step of {32 // frames} samples of {frames} frames, trained: {group}", make)


def test_scoring(tmp_path: Path) -> None:
    """A clip of 320×512×16 and its original from mp4 files, every embedded metric, in this process."""
    for number, name in enumerate(("before", "now")):
        write_mp4(tmp_path / f"{name}.mp4", scene(number, 16, 320, 512), 8)
    found: list[dict[str, Any]] = []

    def make(version: Version) -> Callable[[], Any]:
        metrics, read = version("metrics"), version("data.footage").read_clip
        before, now = (metrics.ClipSource(n, partial(read, tmp_path / f"{n}.mp4"), "p") for n in ("before", "now"))
        engine = metrics.Engine([metric for metric in metrics.embedded_metrics() if not metric.batched], None)
        texts = map(str, itertools.count())  # what has the same text is not measured again

        def call() -> Any:
            return engine.measure([dataclasses.replace(now, original=before, prompt=next(texts))])

        _, measured = call()[0]
        found.append({name: value.value for name, value in measured.values.items()})
        return call

    compare("scoring", make)
    assert found[0] == pytest.approx(found[1], abs=1e-6)


@pytest.mark.parametrize("group", ["spatial", "temporal"])
def test_an_adapter_costs_nothing_while_clips_are_sampled(group: str) -> None:
    """A guided forward of 8 clips as loaded, with the adapter's layers, and with the adapter merged; and the merge."""
    version = Version(HERE)
    plain, layers, merged = (system_of(version) for _ in range(3))
    sides = samples(plain, 16, 8)
    for system in (layers, merged):
        lora = version("perturbation").LoraPerturbation(8)
        lora.attach(system.unet, system.partition(), group, 0)
    start = time.process_time()
    with lora.merged():
        print(f"\nmerged in {time.process_time() - start:.4f} s", end="")
        calls = {"plain": plain, "with its layers": layers, "merged": merged}
        turns = by_turns({name: _forward(system, sides) for name, system in calls.items()}, ROUNDS)
        report(f"adapter in {group}", turns)


def _forward(system: Any, sides: tuple[Any, ...]) -> Callable[[], Any]:
    return torch.no_grad()(lambda: system.denoise(*sides))
