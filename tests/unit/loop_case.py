"""The loop's tests train three numbers: an objective, batches that can act, and one call that does it all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from perturb.loop.config import LoopConfig, StageConfig
from perturb.loop.journal import csv_text
from perturb.loop.loop import Loop
from perturb.loop.processes import make_accelerator
from perturb.loop.task import Outcome, Task

BATCH = 4


class Distance(nn.Module):
    """(w − target)², one value per sample."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(3))
        self.frozen = nn.Parameter(torch.ones(2))

    def forward(self, target: Tensor) -> Tensor:
        return (self.w - target).square().sum(-1)


class Targets:
    """``act`` is called before each batch; the state counts the steps that were seen."""

    def __init__(self, act: Callable[[int], None] = lambda _: None) -> None:
        self.act, self.seen = act, 0

    def load(self, step: int, places: range) -> Tensor:
        self.act(step)
        self.seen += 1
        return torch.randn(BATCH, 3, generator=torch.Generator().manual_seed(step))

    def inputs(self, step: int, places: range, loaded: Tensor) -> tuple[Tensor]:
        return (loaded[places.start : places.stop],)

    def expect(self, step: int, places: range) -> None: ...

    def digest(self, steps: int, gather: Any) -> str:
        return f"{steps}"

    def state(self, gather: Any) -> dict[str, Any]:
        return {"seen": self.seen}

    def restore(self, state: Any) -> None:
        self.seen = state["seen"]


def raise_at(step: int, error: BaseException) -> Targets:
    def act(now: int) -> None:
        if now == step:
            raise error

    return Targets(act)


def accelerator(settings: LoopConfig, folder: Path) -> Accelerator:
    return make_accelerator(settings, device="cpu", folder=folder)


def made(
    folder: Path,
    settings: LoopConfig,
    *,
    objective: Distance | None = None,
    batches: Targets | None = None,
    steps: int = 8,
    validation: Any = None,
    identity: str = "test",
    probe: Any = None,
    text: Any = csv_text,
) -> Loop:
    data = batches or Targets()
    task = Task(
        objective=objective or Distance(),
        trained=["w"],
        stages=[StageConfig(steps=steps, batch_size=BATCH)],
        batches=lambda _: data,
        loop=settings,
        seed=0,
        folder=folder,
        title="test",
        identity={"data": identity},
        validation=validation,
        probe=probe,
        text=text,
    )
    return Loop(task, accelerator(settings, folder))


def fit(
    folder: Path,
    settings: LoopConfig,
    *,
    batches: Targets | None = None,
    validation: Any = None,
    identity: str = "test",
) -> tuple[Tensor, Outcome]:
    """The weights after eight steps, and what the loop says of them."""
    objective = Distance()
    outcome = made(
        folder, settings, objective=objective, batches=batches, validation=validation, identity=identity
    ).run()
    assert torch.equal(objective.frozen, torch.ones(2))
    return objective.w.detach(), outcome
