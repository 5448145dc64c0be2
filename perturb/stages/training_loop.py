"""The optimisation loop that every training shares: AdamW, warm-up, EMA, log, resumable state.

Data and noise are a pure function of the step (see the callers), so a run that was killed and started again continues
with the same numbers.
"""

import csv
import io
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from perturb.errors import UserError
from perturb.progress import progress
from perturb.rundir import write_atomic


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How to optimise. ``precision`` is that of autocast; weights and optimiser stay in float32."""

    steps: int
    learning_rate: float
    warmup_steps: int = 100
    schedule: Literal["constant", "cosine"] = "cosine"
    weight_decay: float = 0.0
    gradient_clip: float = 1.0
    ema_decay: float = 0.999
    precision: Literal["float32", "bfloat16"] = "float32"
    log_every: int = 50
    save_every: int = 250


class Ema:
    """Exponential moving average of parameters: θ̄ ← d θ̄ + (1 − d) θ with d = min(decay, (1 + n)/(10 + n))."""

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self.parameters, self.decay = list(parameters), decay
        self.shadow = [p.detach().clone() for p in self.parameters]

    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.shadow, [p.detach() for p in self.parameters], 1 - decay)

    def copy_to_model(self) -> None:
        with torch.no_grad():
            torch._foreach_copy_([p.data for p in self.parameters], self.shadow)


def learning_rate_factor(step: int, config: LoopConfig) -> float:
    """Factor on the learning rate at ``step`` (counted from 0): linear warm-up, then constant or ½(1 + cos πp)."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.schedule == "constant":
        return warm
    return warm * 0.5 * (1 + math.cos(math.pi * step / config.steps))


def optimise(
    parameters: Mapping[str, nn.Parameter],
    loss_of_step: Callable[[int], Tensor],
    config: LoopConfig,
    folder: Path,
    *,
    title: str,
) -> dict[str, float]:
    """Minimise ``loss_of_step(step)`` over ``parameters``; afterwards they hold the EMA weights.

    Writes ``train.csv`` (step, loss averaged since the last row, lr, gradient norm, seconds) and ``state.pt`` to
    ``folder`` and continues from the latter when it is there. Returns the last logged row.
    Errors: a loss that is not finite stops the run; the last good state stays on disk.
    """
    values = list(parameters.values())
    optimiser = torch.optim.AdamW(values, lr=config.learning_rate, weight_decay=config.weight_decay)
    ema = Ema(values, config.ema_decay)
    state = _State(parameters, optimiser, ema)
    rows, start = state.load(folder / "state.pt")
    losses: list[float] = []
    clock = time.monotonic() - (rows[-1]["seconds"] if rows else 0.0)
    with progress(title, config.steps) as advance:
        advance(start)
        for done in range(start + 1, config.steps + 1):
            lr = config.learning_rate * learning_rate_factor(done - 1, config)
            loss = loss_of_step(done - 1)
            losses.append(_finite(loss, done - 1, folder))
            norm = _update(optimiser, values, loss, lr, config.gradient_clip)
            ema.update(done - 1)
            if done % config.log_every == 0 or done == config.steps:
                mean, seconds = sum(losses) / len(losses), round(time.monotonic() - clock, 1)
                rows.append({"step": done, "loss": mean, "lr": lr, "grad_norm": norm, "seconds": seconds})
                losses = []
                write_atomic(folder / "train.csv", _csv(rows))
            if done % config.save_every == 0 or done == config.steps:
                state.save(folder / "state.pt", rows, done)
            advance(1)
    ema.copy_to_model()
    return rows[-1]


def _update(
    optimiser: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], loss: Tensor, lr: float, clip: float
) -> float:
    """One optimiser step at learning rate ``lr``; returns the gradient norm before clipping."""
    for group in optimiser.param_groups:
        group["lr"] = lr
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(parameters, clip)
    optimiser.step()
    return float(norm)


def _finite(loss: Tensor, step: int, folder: Path) -> float:
    value = loss.item()
    if not math.isfinite(value):
        raise UserError(
            f"the loss became {value} at step {step}; the last good state is {folder / 'state.pt'}. "
            "Lower the learning rate or use precision=float32, delete the folder and start again."
        )
    return value


@dataclass
class _State:
    """Everything that a killed training needs to go on."""

    parameters: Mapping[str, nn.Parameter]
    optimiser: torch.optim.Optimizer
    ema: Ema

    def save(self, path: Path, rows: list[dict[str, float]], step: int) -> None:
        buffer = io.BytesIO()
        weights = {name: p.detach() for name, p in self.parameters.items()}
        shadow = dict(zip(self.parameters, self.ema.shadow, strict=True))
        optimiser = self.optimiser.state_dict()
        torch.save({"step": step, "weights": weights, "ema": shadow, "optimiser": optimiser, "rows": rows}, buffer)
        write_atomic(path, buffer.getvalue())

    def load(self, path: Path) -> tuple[list[dict[str, float]], int]:
        """The rows logged so far and the next step; ([], 0) where nothing was saved."""
        if not path.is_file():
            return [], 0
        state = torch.load(path, weights_only=True)
        if set(state["weights"]) != set(self.parameters):
            raise UserError(f"{path} was written by another training (other parameters); choose another work folder")
        with torch.no_grad():
            for shadow, (name, parameter) in zip(self.ema.shadow, self.parameters.items(), strict=True):
                parameter.copy_(state["weights"][name])
                shadow.copy_(state["ema"][name])
        self.optimiser.load_state_dict(state["optimiser"])
        return state["rows"], state["step"]


def _csv(rows: list[dict[str, float]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
