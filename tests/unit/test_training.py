"""The loop on a problem of three numbers: exact resume, division, checkpoints, and how it ends."""

import csv
import errno
import math
import os
import re
import signal
from collections.abc import Sequence
from pathlib import Path
from traceback import StackSummary
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from perturb.arguments import exit_code
from perturb.disks import is_full
from perturb.errors import UserError
from perturb.loop import journal
from perturb.loop.checkpoints import Checkpoints
from perturb.loop.journal import Row
from perturb.loop.stop import Stopped
from perturb.train import train
from tests.unit.loop_case import Distance, Targets, fit, made, raise_at
from tests.unit.test_training_plan import composed
from tests.unit.training_case import loop


def dcp_failure(cause: Exception) -> CheckpointException:
    """What torch.distributed.checkpoint makes of a failed write; no Exception, but a BaseException."""
    return CheckpointException("write", {0: (cause, StackSummary())})


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


def test_random_states_are_resumed_too(tmp_path: Path):
    class Drawing(Targets):
        """Draws from torch's global state, which no batch of ours does."""

        def load(self, step: int, places: range) -> Tensor:
            return super().load(step, places) + torch.randn(3)

    def cut(step: int) -> None:
        if step == 4:
            raise KeyError("power cut")

    whole, _ = fit(tmp_path / "whole", loop(), batches=Drawing())
    torch.manual_seed(0)  # as at the beginning of every test
    with pytest.raises(KeyError):
        fit(tmp_path / "cut", loop(), batches=Drawing(cut))
    torch.manual_seed(12345)
    weights, _ = fit(tmp_path / "cut", loop(), batches=Drawing())
    assert torch.equal(weights, whole)


def test_gradients_are_clipped_to_the_norm_asked_for(tmp_path: Path):
    clipped = made(tmp_path, loop(gradient_clip=0.01), steps=1)
    outcome = clipped.run()
    (state,) = clipped.optimiser.optimizer.state.values()
    assert outcome.last["grad_norm"] > 0.1  # of the gradient as it was
    assert state["exp_avg"].norm().item() == pytest.approx(0.1 * 0.01, rel=1e-3)  # (1 − β₁) g


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path):
    fit(tmp_path, loop())
    with pytest.raises(UserError, match=r"was written with other settings: data was 'test' and is 'other'"):
        fit(tmp_path, loop(), identity="other")
    fit(tmp_path, loop(log_every=1, save_every=1))  # what changes no number may change


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_and_names_the_good_state(tmp_path: Path, value: float):
    class Spoilt(Targets):
        def load(self, step: int, places: range) -> Tensor:
            target = super().load(step, places)
            return target * value if step == 3 else target

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
    made(tmp_path / "with", loop(), objective=objective, validation=Look(objective)).run()
    assert torch.equal(objective.w, plain)
    assert torch.equal(seen[-1], plain)  # after the last step, the average is what is left


@pytest.mark.parametrize("decay", [None, 0.0])
def test_without_an_average_the_weights_are_what_is_left(tmp_path: Path, decay: float | None):
    averaged, _ = fit(tmp_path / "with", loop())
    plain = made(tmp_path / "without", loop(ema_decay=decay))
    outcome = plain.run()
    assert plain.ema.shadow == {}
    assert not torch.equal(plain.parameters["w"], averaged)
    assert outcome.last["loss"] == pytest.approx(
        made(tmp_path / "with", loop()).run().last["loss"]
    )  # of the same steps
    assert {path.name for path in plain.checkpoints.path(8).iterdir()} >= {"weights", "optimizer.bin", "loop.json"}
    with pytest.raises(KeyError):
        fit(tmp_path / "cut", loop(ema_decay=decay), batches=raise_at(5, KeyError("power cut")))
    assert torch.equal(fit(tmp_path / "cut", loop(ema_decay=decay))[0], plain.parameters["w"])


def test_a_probe_sees_the_weights_of_its_steps_and_its_words_are_logged(tmp_path: Path):
    class Norm:
        steps = (0, 3, 8)

        def __init__(self, objective: Distance) -> None:
            self.objective = objective

        def __call__(self, step: int) -> dict[str, float]:
            return {"norm": self.objective.w.norm().item()}

    def text(rows: Sequence[Row]) -> str:
        return "\n".join(f"{row['step']} {row['norm']}" for row in rows if "norm" in row)

    settings, objective = loop(ema_decay=None, schedule="constant", log_every=8, save_every=8), Distance()
    made(tmp_path, settings, objective=objective, probe=Norm(objective), text=text).run()
    early = made(tmp_path / "early", settings, steps=3)
    early.run()
    lines = [line.split() for line in (tmp_path / "train.csv").read_text().splitlines()]
    assert [step for step, _ in lines] == ["0", "3", "8"]
    norms = [0.0, early.parameters["w"].norm().item(), objective.w.norm().item()]
    assert [float(norm) for _, norm in lines] == norms
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step_000003", "step_000008"]


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


def test_a_signal_that_comes_twice_at_once_is_one_request(tmp_path: Path):
    def act(step: int) -> None:
        if step == 4:  # from the scheduler, and passed on by torchrun
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped, match=r"after step 5.*step_000005"):
        fit(tmp_path, loop(), batches=Targets(act))


def test_a_signal_that_comes_again_later_acts_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def act(step: int) -> None:
        if step == 4:
            os.kill(os.getpid(), signal.SIGINT)
            monkeypatch.setattr("perturb.loop.stop.GRACE", 0.0)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, loop(), batches=Targets(act))
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"step_000002", "step_000004"}


POSITION = RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 704 vs 598")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), dcp_failure(POSITION)])
def test_a_full_disk_is_named_and_what_was_there_stays(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write = Checkpoints._write

    def full(self: Checkpoints, folder: Path, state: dict[str, Any], local: dict[str, Any]) -> None:
        write(self, folder, state, local)
        if state["step"] == 4:
            raise error

    monkeypatch.setattr(Checkpoints, "_write", full)
    with pytest.raises(UserError, match=r"the disk is full.*step_000004.*last whole one is .*step_000002"):
        fit(tmp_path, loop())
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_000002"]
    monkeypatch.undo()
    whole, _ = fit(tmp_path / "whole", loop())
    assert torch.equal(fit(tmp_path, loop())[0], whole)


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (RuntimeError("[enforce fail at inline_container.cc] . PytorchStreamWriter failed writing file data/0"), True),
        (POSITION, True),
        (dcp_failure(POSITION), True),
        (dcp_failure(RuntimeError("of another kind")), False),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), True),
        (OSError(errno.EACCES, "Permission denied"), False),
        (RuntimeError("CUDA out of memory"), False),
    ],
)
def test_a_full_disk_is_known_by_what_the_libraries_say(error: BaseException, full: bool):
    assert is_full(error) == full


def test_a_disk_that_fills_up_elsewhere_is_named_by_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def fill(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("perturb.train._train_unet", fill)
    paths = [f"{name}={tmp_path / name}" for name in ("work", "output")]
    config = composed("experiment=train/nano_full", "tracker=null", *paths)
    assert exit_code(lambda: train(config)) == 2
    expected = r"error: the disk is full, or .*: .*No space left.* [GM]B free\)\. Make room, then give the same command"
    assert re.search(expected, capsys.readouterr().err)


def test_time_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    now = [0.0]

    class Slow(Targets):
        def load(self, step: int, places: range) -> Tensor:
            now[0] += 2
            return super().load(step, places)

        def inputs(self, step: int, places: range, loaded: Tensor) -> tuple[Tensor]:
            now[0] += 1
            return super().inputs(step, places, loaded)

    class Heavy(Distance):
        def forward(self, target: Tensor) -> Tensor:
            now[0] += 5
            return super().forward(target)

    class Look:
        every = 4

        def __call__(self, step: int) -> dict[str, float]:
            now[0] += 100
            return {"loss": 1.0}

    def write(path: Path, content: bytes | str) -> None:
        now[0] += 4
        writing(path, content)

    writing = journal.write_atomic
    monkeypatch.setattr(journal, "write_atomic", write)
    monkeypatch.setattr(journal.time, "monotonic", lambda: now[0])
    outcome = made(tmp_path, loop(log_every=4), objective=Heavy(), batches=Slow(), validation=Look()).run()
    expected = {"data": 16, "encoding": 8, "compute": 40, "logging": 16, "validation": 200, "saving": 0}
    assert outcome.seconds == expected
    assert outcome.shares == {"data": 0.2, "encoding": 0.1, "compute": 0.5, "logging": 0.2}
    rows = list(csv.DictReader((tmp_path / "train.csv").open()))
    assert [(row["seconds"], row["data_share"]) for row in rows] == [("32.0", "0.25"), ("172.0", "0.2222")]
