"""The loop: global batches in, averaged weights out; the same numbers whatever the number of processes.

    g ← ∇ mean over the global batch of the objective's losses;  clip;  AdamW;  θ̄ ← average

The global batch of a step is a function of (seed, step). Each process takes the places that are its own, so that one
process and several see the same samples and differ only in the order in which floats are added.
"""

import contextlib
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from perturb.diffusion import sample_generator
from perturb.errors import UserError
from perturb.loop.checkpoints import Checkpoints
from perturb.loop.config import check_division
from perturb.loop.dropout import move_to, place_dropouts, restore_dropouts
from perturb.loop.ema import Ema
from perturb.loop.journal import Journal, Row
from perturb.loop.schedule import learning_rate_factor, total_steps
from perturb.loop.staged import StagedBatches
from perturb.loop.stop import Stopped, StopRequest
from perturb.loop.task import Outcome, Task
from perturb.progress import progress

CHECKPOINTS = "checkpoints"
"""The folder of the states, in the folder of the task."""

WITHOUT_EFFECT = ("log_every", "save_every", "keep_last", "gradient_checkpointing")
"""Settings of the loop that may change between an interruption and going on."""


class Loop:
    """One training or fit in progress. All processes make one and call the same methods."""

    def __init__(self, task: Task, accelerator: Accelerator) -> None:
        self.task, self.accelerator, self.loop = task, accelerator, task.loop
        check_division(task.stages, accelerator.num_processes, task.loop.accumulation)
        self.placed = place_dropouts(task.objective)
        task.objective.requires_grad_(False)
        trained = [task.objective.get_parameter(name).requires_grad_(True) for name in task.trained]
        optimiser = torch.optim.AdamW(trained, lr=self.loop.learning_rate, weight_decay=self.loop.weight_decay)
        scheduler = LambdaLR(optimiser, lambda step: learning_rate_factor(step, task.loop, task.stages))
        self.objective, self.optimiser, self.scheduler = accelerator.prepare(task.objective, optimiser, scheduler)
        self.optimiser.zero_grad(set_to_none=True)  # of whatever was done with the networks before
        self.plain: nn.Module = accelerator.unwrap_model(self.objective)
        self.parameters = {name: self.plain.get_parameter(name) for name in task.trained}
        self.ema = Ema(self.parameters, self.loop.ema_decay)
        self.journal = Journal(task.folder, accelerator, task.text)
        self.checkpoints = Checkpoints(
            task.folder / CHECKPOINTS, accelerator, self.parameters, self.ema, self.loop.keep_last
        )
        self.total = total_steps(task.stages)
        self.data = StagedBatches(task, accelerator)
        self.losses: list[float] = []
        self.lowest: float | None = None

    # the run ------------------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Train to the end, from the last checkpoint where there is one; then the weights are the average, if any.

        Raises Stopped after a signal, and UserError for a loss or gradient that is not finite, for a full disk, and for
        a folder that holds another training.
        """
        step = self._resume()
        if step == 0 and self._probed(0):
            self.journal.write("train", {"step": 0, **self._probe(0)}, file=False)
        silent = contextlib.nullcontext(lambda count: None)
        bar = progress(self.task.title, self.total) if self.accelerator.is_main_process else silent
        with StopRequest().listening() as stop, bar as advance:
            advance(step)
            while step < self.total:
                row = self._step(step, stop)
                step += 1
                self._after(step, row, stopping=bool(row.pop("stopping")))
                advance(1)
        digest = self.data.finish()
        self.ema.copy_to_model()
        restore_dropouts(self.plain)
        clock = self.journal.clock
        return Outcome(self.journal.tables["train"][-1], digest, clock.seconds, clock.shares(), self.checkpoints.best())

    def _step(self, step: int, stop: StopRequest) -> Row:
        """One optimiser step: loss, learning rate, gradient norm, and whether any process was asked to stop."""
        parts, clock = self.data.shares(step), self.journal.clock
        loss = torch.zeros((), device=self.accelerator.device)
        row: Row = {}
        for number, places in enumerate(parts):
            with clock.section("data"):
                loaded = self.data.load(step, number)
            with clock.section("encoding"):
                inputs = self.data.inputs(step, number, loaded)
            with clock.section("compute"), self.accelerator.accumulate(self.objective):
                mean = self._loss(step, places, inputs)
                loss += mean.detach() / len(parts)
                last = number == len(parts) - 1
                row |= self._agreed(loss, stop, step) if last else {}
                self.accelerator.backward(mean)
                row |= self._update(step) if last else {}
        return row

    def _loss(self, step: int, places: range, inputs: Sequence[Any]) -> Tensor:
        """Of one micro-batch. Torch's global state depends on the step alone here, and comes back as it was."""
        device = self.accelerator.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(sample_generator("dropout", self.task.seed, step).initial_seed())
            move_to(self.placed, self.task.seed, step, places)
            with self.accelerator.autocast():  # under FSDP2 accelerate leaves this to us
                losses = self.objective(*inputs)
        return losses.mean()

    def _agreed(self, loss: Tensor, stop: StopRequest, step: int) -> Row:
        """Loss of the global batch, and whether any process was asked to stop; the same in every process."""
        asked = torch.tensor(float(stop.requested), device=loss.device)
        both: Any = torch.stack([loss, asked])
        if self.accelerator.num_processes > 1:
            both = self.accelerator.reduce(both, "mean")
        value, stopping = both.tolist()
        self._check_finite("loss", value, step)
        return {"loss": value, "stopping": stopping}

    def _update(self, step: int) -> Row:
        """Clip, step, average; the learning rate that was used and the gradient norm before clipping."""
        rate = self.scheduler.get_last_lr()[0]
        norm: Any = self.accelerator.clip_grad_norm_(self._clipped(), self.loop.gradient_clip)
        value = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)  # it may be sharded
        if self.accelerator.scaler is None:  # the scaler of float16 meets infinite gradients as a matter of course
            self._check_finite("gradient", value, step)
        self.optimiser.step()
        self.scheduler.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.ema.update(step)
        return {"lr": rate, "grad_norm": value}

    def _clipped(self) -> list[nn.Parameter]:
        """What moves; under FSDP2 in the network's order, because accelerate compares the list with the network's."""
        if self.accelerator.is_fsdp2:
            return [parameter for parameter in self.plain.parameters() if parameter.requires_grad]
        return list(self.parameters.values())

    def _after(self, step: int, row: Row, *, stopping: bool) -> None:
        """Probe, log, validate, save and stop, whichever is due after ``step`` steps."""
        clock, end = self.journal.clock, step == self.total
        due = stopping or end or step % self.loop.save_every == 0 or self._probed(step)
        with clock.section("logging"):
            self.losses.append(row["loss"])
            if step % self.loop.log_every == 0 or end or self._probed(step):
                mean = sum(self.losses) / len(self.losses)
                self.losses = []
                timing = {"seconds": round(clock.total, 1), "data_share": round(clock.shares()["data"], 4)}
                entry = {"step": step, **row, "loss": mean, **timing, **self._probe(step)}
                # a file that gets a row at every step would cost the square of the steps: it waits for the next state
                self.journal.write("train", entry, file=due or self.loop.log_every > 1)
        best = self._validate(step)
        if best or due:
            with clock.section("saving"):
                self._save(step, best=best)
        if stopping and not end:
            raise Stopped(step, self.checkpoints.path(step))

    def _probed(self, step: int) -> bool:
        return self.task.probe is not None and step in self.task.probe.steps

    def _probe(self, step: int) -> Row:
        """What the probe says of ``step``, where it is due, in the main process."""
        if self.task.probe is None or not self._probed(step) or not self.accelerator.is_main_process:
            return {}
        with torch.no_grad():
            return self.task.probe(step)

    def _validate(self, step: int) -> bool:
        """Whether this is the lowest validation loss so far."""
        validation = self.task.validation
        if validation is None or (step % validation.every and step != self.total):
            return False
        modes = {module: module.training for module in self.plain.modules()}
        with self.journal.clock.section("validation"), self.ema.applied(), torch.no_grad():
            self.plain.eval()
            row = self._mean(validation(step))
        for module, mode in modes.items():
            module.training = mode
        with self.journal.clock.section("logging"):
            self.journal.write("validation", {"step": step, **row})
        if self.lowest is not None and row["loss"] >= self.lowest:
            return False
        self.lowest = row["loss"]
        return True

    def _mean(self, row: Row) -> Row:
        """The mean over the processes, so that all of them agree on which checkpoint is the best."""
        if self.accelerator.num_processes == 1:
            return row
        values = torch.tensor(list(row.values()), device=self.accelerator.device)
        mean: Any = self.accelerator.reduce(values, "mean")
        return dict(zip(row, mean.tolist(), strict=True))

    # state --------------------------------------------------------------------------------------------------------

    def _save(self, step: int, *, best: bool) -> None:
        state = {
            "step": step,
            "identity": self._identity(),
            "journal": self.journal.state(),
            "losses": self.losses,
            "lowest": self.lowest,
            **self.data.state(),
        }
        self.checkpoints.save(step, state, {"data": self.data.position()}, best=best)

    def _resume(self) -> int:
        """Take up the last checkpoint; returns its step, or 0 where there is none."""
        steps = self.checkpoints.steps()
        if not steps:
            return 0
        path = self.checkpoints.path(steps[-1])
        _check_identity(self.checkpoints.state(steps[-1])["identity"], self._identity(), path)
        state, local = self.checkpoints.load(steps[-1])
        self.journal.restore(state["journal"])
        self.losses, self.lowest = state["losses"], state["lowest"]
        self.data.restore(state, local["data"])
        return state["step"]

    def _identity(self) -> dict[str, Any]:
        """What must be the same when a training goes on; compared as json gives it back."""
        loop = {name: value for name, value in asdict(self.loop).items() if name not in WITHOUT_EFFECT}
        names = hashlib.sha256("\n".join(self.task.trained).encode()).hexdigest()
        content = {
            "loop": loop,
            "stages": [asdict(stage) for stage in self.task.stages],
            "seed": self.task.seed,
            "processes": self.accelerator.num_processes,
            "trained": names,
            **self.task.identity,
        }
        return json.loads(json.dumps(content))

    def _check_finite(self, what: str, value: float, step: int) -> None:
        if math.isfinite(value):
            return
        steps = self.checkpoints.steps()
        good = f"the last good state is {self.checkpoints.path(steps[-1])}" if steps else "no state was saved yet"
        section = self.task.section
        raise UserError(
            f"the {what} became {value} at step {step + 1}; {good}. Lower {section}.learning_rate or use "
            f"{section}.precision=float32; to begin again, remove {self.task.folder}."
        )


def _check_identity(saved: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    different = sorted(key for key in saved.keys() | now.keys() if saved.get(key) != now.get(key))
    if different:
        given = "; ".join(f"{key} was {_short(saved.get(key))} and is {_short(now.get(key))}" for key in different)
        raise UserError(
            f"{path} was written with other settings: {given}. Give the same settings to go on, another folder, or "
            f"remove {path.parent} to begin again."
        )


def _short(value: Any, limit: int = 300) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}…"
