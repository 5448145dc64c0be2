"""The one place that makes an Accelerator: processes, precision, sharding, trackers."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from perturb.errors import UserError
from perturb.loop.journal import Journal, csv_text
from perturb.loop.processes import check_world, make_accelerator
from perturb.loop.trackers import make_tracker
from tests.unit.loop_case import Distance, made
from tests.unit.training_case import loop


def test_fewer_processes_than_were_started_are_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"2 processes were started but 1 take part.*torchrun"):
        check_world(1, loop())


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"precision": "float16"}, "float16, which needs a GPU"), ({"sharding": "fsdp"}, "fsdp, which needs GPUs")],
)
def test_what_the_cpu_cannot_do_is_said(tmp_path: Path, changes: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        make_accelerator(loop(**changes), device="cpu", folder=tmp_path)


def test_half_precision_computes_in_it_and_keeps_float32_weights(tmp_path: Path):
    class Product(Distance):
        seen: torch.dtype | None = None

        def forward(self, target: Tensor) -> Tensor:
            product = torch.outer(self.w, target[0]) @ target[0]
            type(self).seen = product.dtype
            return (product - target).square().sum(-1)

    objective = Product()
    made(tmp_path, loop(precision="bfloat16"), objective=objective, steps=1).run()
    assert Product.seen == torch.bfloat16
    assert objective.w.dtype == torch.float32


def test_wandb_gets_the_rows_when_it_is_installed_and_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    logged: list[tuple[dict[str, float], int]] = []

    class Run:
        def log(self, values: dict[str, float], step: int) -> None:
            logged.append((values, step))

        def finish(self) -> None: ...

    wandb: Any = types.ModuleType("wandb")
    wandb.__spec__ = types.SimpleNamespace()
    wandb.init = lambda project, **run: projects.append((project, run["id"])) or Run()
    projects: list[tuple[str, str]] = []
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setenv("WANDB_MODE", "offline")
    tracker = make_tracker("wandb", project="mine", folder=tmp_path)
    journal = Journal(tmp_path, make_accelerator(loop(), device="cpu", folder=tmp_path, tracker=tracker), csv_text)
    journal.write("train", {"step": 3, "loss": 0.5})
    assert (projects, logged) == ([("mine", tmp_path.name)], [({"train/loss": 0.5}, 3)])
