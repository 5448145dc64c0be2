"""The engine on a problem of three numbers: schedule and average by hand, exact resume, division, and how it ends."""

import csv
import errno
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from perturb.errors import UserError
from perturb.stages.training.checkpoints import Checkpoints
from perturb.stages.training.config import LoopConfig, StageConfig, check_division
from perturb.stages.training.dropout import PlacedDropout, place_dropouts, restore_dropouts
from perturb.stages.training.ema import Ema
from perturb.stages.training.engine import Engine
from perturb.stages.training.processes import check_world, make_accelerator
from perturb.stages.training.schedule import learning_rate_factor, locate, shares
from perturb.stages.training.stop import Stopped
from perturb.stages.training.task import Outcome, Task
from tests.unit.training_case import QUIET, loop

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

    def inputs(self, step: int, places: range) -> tuple[Tensor]:
        self.act(step)
        self.seen += 1
        whole = torch.randn(BATCH, 3, generator=torch.Generator().manual_seed(step))
        return (whole[places.start : places.stop],)

    def expect(self, step: int, places: range) -> None: ...

    def digest(self, steps: int, gather: Any) -> str:
        return f"{steps}"

    def state(self, gather: Any) -> dict[str, Any]:
        return {"seen": self.seen}

    def restore(self, state: Any) -> None:
        self.seen = state["seen"]


def fit(
    folder: Path,
    settings: LoopConfig,
    *,
    batches: Targets | None = None,
    steps: int = 8,
    validation: Any = None,
    identity: str = "test",
) -> tuple[Tensor, Outcome]:
    objective, data = Distance(), batches or Targets()
    task = Task(
        objective=objective,
        trained=["w"],
        stages=[StageConfig(steps=steps, batch_size=BATCH)],
        batches=lambda _: data,
        loop=settings,
        seed=0,
        folder=folder,
        title="test",
        identity={"data": identity},
        validation=validation,
    )
    outcome = Engine(task, make_accelerator(settings, device="cpu", folder=folder, logging=QUIET)).run()
    assert torch.equal(objective.frozen, torch.ones(2))
    return objective.w.detach(), outcome


def raise_at(step: int, error: BaseException) -> Targets:
    def act(now: int) -> None:
        if now == step:
            raise error

    return Targets(act)


# what is a function of the step ------------------------------------------------------------------------------------


def test_learning_rate_warms_up_and_follows_the_cosine():
    stages = [StageConfig(steps=100, batch_size=1)]
    config = loop(warmup_steps=10)
    assert learning_rate_factor(0, config, stages) == pytest.approx(0.1)
    assert learning_rate_factor(4, config, stages) == pytest.approx(0.5 * 0.5 * (1 + math.cos(math.pi * 0.04)))
    assert learning_rate_factor(50, config, stages) == pytest.approx(0.5)
    assert learning_rate_factor(50, loop(warmup_steps=100, schedule="constant"), stages) == pytest.approx(0.51)


def test_a_stage_can_have_a_rate_of_its_own():
    stages = [StageConfig(steps=3, batch_size=8), StageConfig(steps=2, batch_size=4, learning_rate=0.5)]
    config = loop(learning_rate=2.0, warmup_steps=0, schedule="constant")
    assert [learning_rate_factor(step, config, stages) for step in range(5)] == [1, 1, 1, 0.25, 0.25]
    place = locate(stages, 4)
    assert (place.number, place.step, place.stage.batch_size) == (1, 1, 4)


@pytest.mark.parametrize(("processes", "accumulation"), [(1, 1), (2, 1), (1, 4), (2, 3)])
def test_every_place_of_a_batch_is_taken_once_and_in_order(processes: int, accumulation: int):
    parts = [shares(12, rank=r, processes=processes, accumulation=accumulation) for r in range(processes)]
    assert [place for rank in parts for micro in rank for place in micro] == list(range(12))


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(UserError, match=r"stages\[1\]\.batch_size is 6.*multiples of 4"):
        check_division([StageConfig(steps=1, batch_size=8), StageConfig(steps=1, batch_size=6)], 2, 2)


def test_average_by_hand():
    parameter = nn.Parameter(torch.tensor([0.0]))
    ema = Ema({"w": parameter}, decay=0.9)
    parameter.data.fill_(1.0)
    ema.update(0)  # decay min(0.9, 1/10) = 0.1
    assert ema.shadow["w"].item() == pytest.approx(0.9)
    ema.update(1000)
    assert ema.shadow["w"].item() == pytest.approx(0.9 * 0.9 + 0.1)
    with ema.applied():
        assert parameter.item() == ema.shadow["w"].item()
    assert parameter.item() == 1.0


def test_placed_masks_belong_to_samples_and_keep_the_mean():
    layer = PlacedDropout(0.25, "a.b").train()
    x = torch.ones(6, 4, 500)

    def masks(step: int, places: range) -> Tensor:
        layer.seed, layer.step, layer.places = 1, step, places
        return layer(x[places.start : places.stop])

    whole = masks(7, range(6))
    assert torch.equal(torch.cat([masks(7, range(2)), masks(7, range(2, 6))]), whole)
    assert not torch.equal(masks(8, range(6)), whole)
    assert whole.unique().tolist() == pytest.approx([0, 4 / 3])
    assert whole.mean().item() == pytest.approx(1, abs=0.02)
    assert torch.equal(layer.eval()(x), x)


def test_dropouts_are_replaced_and_put_back():
    network = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1), nn.Sequential(nn.Dropout(0.0), nn.Dropout(0.3))).train()
    assert [layer.p for layer in place_dropouts(network)] == [0.1, 0.3]
    restore_dropouts(network)
    found = [(type(m), m.p, m.training) for m in network.modules() if isinstance(m, (nn.Dropout, PlacedDropout))]
    assert found == [(nn.Dropout, 0.1, True), (nn.Dropout, 0.0, True), (nn.Dropout, 0.3, True)]


# the loop ----------------------------------------------------------------------------------------------------------


def test_an_accumulated_batch_is_the_whole_batch(tmp_path: Path):
    whole, outcome = fit(tmp_path / "1", loop())
    parts, again = fit(tmp_path / "4", loop(accumulation=4))
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-7)
    assert again.last["loss"] == pytest.approx(outcome.last["loss"], rel=1e-5)


def test_a_resumed_training_ends_with_the_same_weights(tmp_path: Path):
    whole, outcome = fit(tmp_path / "whole", loop())
    with pytest.raises(KeyError):
        fit(tmp_path / "cut", loop(), batches=raise_at(5, KeyError("power cut")))
    again = Targets()
    weights, resumed = fit(tmp_path / "cut", loop(), batches=again)
    assert torch.equal(weights, whole)
    assert again.seen == 8  # 4 of them from the state
    assert resumed.stream == outcome.stream
    logs = [list(csv.DictReader((tmp_path / name / "train.csv").open())) for name in ("whole", "cut")]
    assert [[row[key] for key in ("step", "loss", "lr", "grad_norm")] for row in logs[0]] == [
        [row[key] for key in ("step", "loss", "lr", "grad_norm")] for row in logs[1]
    ]


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path):
    fit(tmp_path, loop())
    with pytest.raises(UserError, match=r"belongs to another training: data was 'test' and is 'other'"):
        fit(tmp_path, loop(), identity="other")
    fit(tmp_path, loop(log_every=1, save_every=1))  # what changes no number may change


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_and_names_the_good_state(tmp_path: Path, value: float):
    class Spoilt(Targets):
        def inputs(self, step: int, places: range) -> tuple[Tensor]:
            (target,) = super().inputs(step, places)
            return (target * value if step == 3 else target,)

    with pytest.raises(UserError, match=r"loss became (nan|inf) at step 4.*step_000002"):
        fit(tmp_path, loop(), batches=Spoilt())
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step_000002"]


def test_the_last_checkpoints_and_the_best_are_kept(tmp_path: Path):
    class Falling:
        every = 2

        def __call__(self, step: int) -> dict[str, float]:
            return {"loss": abs(step - 4.0)}

    _, outcome = fit(tmp_path, loop(keep_last=1), validation=Falling())
    assert outcome.best == 4
    kept = {path.name for path in (tmp_path / "checkpoints").glob("step_*")}
    assert kept == {"step_000004", "step_000008"}
    rows = list(csv.DictReader((tmp_path / "validation.csv").open()))
    assert [(row["step"], row["loss"]) for row in rows] == [("2", "2.0"), ("4", "0.0"), ("6", "2.0"), ("8", "4.0")]


def test_validation_sees_the_average_and_leaves_the_weights_alone(tmp_path: Path):
    seen: list[Tensor] = []

    class Look:
        every = 3

        def __init__(self, objective: Distance) -> None:
            self.objective = objective

        def __call__(self, step: int) -> dict[str, float]:
            assert not self.objective.training
            seen.append(self.objective.w.detach().clone())
            return {"loss": 1.0}

    plain, _ = fit(tmp_path / "without", loop())
    objective = Distance()
    task = Task(
        objective=objective,
        trained=["w"],
        stages=[StageConfig(steps=8, batch_size=BATCH)],
        batches=lambda _: Targets(),
        loop=loop(),
        seed=0,
        folder=tmp_path / "with",
        title="test",
        identity={},
        validation=Look(objective),
    )
    Engine(task, make_accelerator(loop(), device="cpu", folder=tmp_path / "with", logging=QUIET)).run()
    assert torch.equal(objective.w, plain)
    assert torch.equal(seen[-1], plain)  # after the last step, the average is what is left


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_step_saves_and_can_be_gone_on_from(tmp_path: Path, number: signal.Signals):
    whole, _ = fit(tmp_path / "whole", loop())
    before = signal.getsignal(number)

    def act(step: int) -> None:
        if step == 4:
            os.kill(os.getpid(), number)

    with pytest.raises(Stopped, match=r"after step 5.*step_000005.*goes on from there"):
        fit(tmp_path / "cut", loop(), batches=Targets(act))
    assert signal.getsignal(number) is before
    weights, _ = fit(tmp_path / "cut", loop())
    assert torch.equal(weights, whole)


def test_a_full_disk_is_named_and_what_was_there_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write = Checkpoints._write

    def full(self: Checkpoints, folder: Path, engine: dict[str, Any], local: dict[str, Any]) -> None:
        write(self, folder, engine, local)
        if engine["step"] == 4:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Checkpoints, "_write", full)
    with pytest.raises(UserError, match=r"the disk is full.*step_000004.*last whole one is .*step_000002"):
        fit(tmp_path, loop())
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_000002"]
    monkeypatch.undo()
    whole, _ = fit(tmp_path / "whole", loop())
    assert torch.equal(fit(tmp_path, loop())[0], whole)


def test_time_is_told_apart(tmp_path: Path):
    _, outcome = fit(tmp_path, loop())
    assert set(outcome.seconds) == {"data", "compute", "logging", "validation", "saving"}
    assert sum(outcome.shares.values()) == pytest.approx(1)
    assert outcome.seconds["saving"] > 0


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
        make_accelerator(loop(**changes), device="cpu", folder=tmp_path, logging=QUIET)


def test_half_precision_computes_in_it_and_keeps_float32_weights(tmp_path: Path):
    class Product(Distance):
        seen: torch.dtype | None = None

        def forward(self, target: Tensor) -> Tensor:
            product = torch.outer(self.w, target[0]) @ target[0]
            type(self).seen = product.dtype
            return (product - target).square().sum(-1)

    objective = Product()
    task = Task(
        objective=objective,
        trained=["w"],
        stages=[StageConfig(steps=1, batch_size=BATCH)],
        batches=lambda _: Targets(),
        loop=loop(precision="bfloat16"),
        seed=0,
        folder=tmp_path,
        title="test",
        identity={},
    )
    Engine(task, make_accelerator(task.loop, device="cpu", folder=tmp_path, logging=QUIET)).run()
    assert Product.seen == torch.bfloat16
    assert objective.w.dtype == torch.float32
