"""Fit a perturbation to an image set, and keep it at every probe step.

    Δ ← AdamW on mean (ε − ε̂_{θ+Δ}(x_t, t, text))²,  θ frozen

Writes adapters/step_*/, states.csv, train.csv and the manifest sections perturbation, images and frozen.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from perturb.data.images import ImageSet
from perturb.diffusion import Conditioning, sample_generator
from perturb.diffusion.loss import epsilon_loss
from perturb.errors import UserError
from perturb.models.videocrafter.system import VideoSystem
from perturb.perturbation import Perturbation, files
from perturb.perturbation.partition import Partition
from perturb.progress import progress
from perturb.store.records import TrainRow, train_csv
from perturb.store.rundir import RunDir, write_atomic
from perturb.store.states import State, step_id, step_state
from perturb.store.tensors import hash_modules, moved, summarise
from perturb.structured import check_range
from perturb.study.fit_data import Batch, FitData

STATE = "fit_state.pt"
FINISHED = "all"


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How to fit. None means the model's own default; ``frames`` is used by ``images.as_video=repeat`` only.

    ``seed`` draws the adapter, the order of the images, noise, timesteps and dropout. ``precision`` is that of
    autocast: the adapter, its optimiser and the loss stay in float32. Raises UserError for values out of range.
    """

    batch_size: int = 32
    learning_rate: float = 3e-4
    warmup_steps: int = 10
    weight_decay: float = 0.0
    gradient_clip: float = 1.0
    text_dropout: float = 0.1
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0
    fps: int | None = None
    frames: int | None = None
    height: int | None = None
    width: int | None = None
    cache_latents: bool = True
    gradient_checkpointing: bool = False
    save_every: int = 50

    def __post_init__(self) -> None:
        for name in ("batch_size", "fps", "frames", "height", "width", "save_every"):
            check_range(f"fit.{name}", getattr(self, name), low=1)
        for name in ("warmup_steps", "weight_decay", "seed"):
            check_range(f"fit.{name}", getattr(self, name), low=0)
        check_range("fit.text_dropout", self.text_dropout, low=0, high=1)
        for name in ("learning_rate", "gradient_clip"):
            if not getattr(self, name) > 0:
                raise UserError(f"fit.{name} is {getattr(self, name)!r}; allowed: more than 0")
        if self.precision not in ("float32", "bfloat16"):
            raise UserError(f"fit.precision is {self.precision!r}; allowed: float32, bfloat16")


def fit(
    system: VideoSystem,
    perturbation: Perturbation,
    images: ImageSet,
    *,
    probe_steps: Sequence[int],
    config: FitConfig,
    run: RunDir,
    group: str,
) -> None:
    """Fit ``perturbation`` on ``group`` and save it at each probe step; it stays attached, loaded from the last one.

    The same call again continues where the last one was stopped and ends with the same adapters, bit for bit; a
    finished one only attaches. Raises UserError for probe steps that cannot be, for a run directory of another fit, and
    for a loss or gradient that is not finite; RuntimeError if anything but the perturbation moved.
    """
    probes = _checked_probes(probe_steps)
    if not run.is_done("fit", FINISHED):
        data = FitData(system, images, config)
        _fit_and_verify(system, perturbation, data, probes=probes, config=config, run=run, group=group)
    perturbation.attach(system.unet, Partition.of(system.unet), group, config.seed)
    perturbation.load(run.adapter(step_id(probes[-1])))


def _fit_and_verify(
    system: VideoSystem,
    perturbation: Perturbation,
    data: FitData,
    *,
    probes: Sequence[int],
    config: FitConfig,
    run: RunDir,
    group: str,
) -> None:
    """Attach, fit, detach; then every weight of the system must have the hash it had before."""
    before = hash_modules(system.modules())
    checkpointing = system.unet.gradient_checkpointing
    perturbation.attach(system.unet, Partition.of(system.unet), group, config.seed)
    try:
        described = {"group": group, "seed": config.seed, **perturbation.describe()}
        run.update_manifest(perturbation=described, images=data.describe(), frozen={"before": summarise(before)})
        system.unet.gradient_checkpointing = config.gradient_checkpointing
        # the frozen temporal convolutions have a dropout of their own: the network stays in eval mode
        system.unet.eval()
        perturbation.train(True)
        origin = {"base": summarise(before), "images": data.describe()}
        identity = {"config": asdict(config), "probe_steps": list(probes), **origin, **described}
        fitting = _Fitting(system, perturbation, data, config=config, run=run, identity=identity)
        fitting.to(probes)
        run.write_states([step_state(row.step, row.magnitude) for row in fitting.rows if row.step in probes])
    finally:
        perturbation.detach()
        system.unet.gradient_checkpointing = checkpointing
    after = hash_modules(system.modules())
    if changed := moved(before, after):
        raise RuntimeError(f"fitting {group} changed {len(changed)} tensors that were frozen, e.g. {changed[:3]}")
    run.update_manifest(frozen={"after": summarise(after), "unchanged": True})
    run.mark_done("fit", FINISHED)
    (run.path / STATE).unlink(missing_ok=True)


class _Fitting:
    """One fit in progress: the attached perturbation, its optimiser, the log so far, and how they are kept on disk."""

    def __init__(
        self,
        system: VideoSystem,
        perturbation: Perturbation,
        data: FitData,
        *,
        config: FitConfig,
        run: RunDir,
        identity: dict[str, Any],
    ) -> None:
        self.system, self.perturbation, self.data, self.config, self.run = system, perturbation, data, config, run
        self.identity = identity
        self.parameters = list(perturbation.parameters())
        self.optimiser = torch.optim.AdamW(self.parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
        self.rows: list[TrainRow] = []
        self.kept = 0

    def to(self, probes: Sequence[int]) -> None:
        """Fit to the last probe step, from the state on disk when there is one."""
        step = self._resume()
        if step is None:
            step = 0
            self.rows = [TrainRow(0, None, None, None, self.perturbation.magnitude().total)]
            self._keep(0, probe=0 in probes)
        with progress("fit", probes[-1]) as advance:
            advance(step)
            while step < probes[-1]:
                row = self._step(step)
                step += 1
                magnitude = self.perturbation.magnitude().total if step in probes else None
                self.rows.append(TrainRow(step, *row, magnitude))
                if step in probes or step % self.config.save_every == 0:
                    self._keep(step, probe=step in probes)
                advance(1)

    def _step(self, step: int) -> tuple[float, float, float]:
        """One optimisation step; returns loss, learning rate and the gradient norm before clipping."""
        rate = self.config.learning_rate * min(1.0, (step + 1) / max(1, self.config.warmup_steps))
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        batch = self.data.batch(step)
        cuda = [self.system.device] if self.system.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            # the adapter's dropout draws from the global state: give it one that depends on the step alone
            torch.manual_seed(sample_generator("dropout", self.config.seed, step).initial_seed())
            loss = _loss(self.system, batch, self.config.precision)
            self._check_finite("loss", loss, step)
            loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.gradient_clip)
        self._check_finite("gradient", norm, step)
        self.optimiser.step()
        return loss.item(), rate, norm.item()

    def _check_finite(self, what: str, value: Tensor, step: int) -> None:
        if not math.isfinite(value.item()):
            raise UserError(
                f"the {what} became {value.item()} at step {step + 1} of fitting; the last good state is kept: "
                f"step {self.kept}, {self.run.path / STATE}, and the adapters saved so far in "
                f"{self.run.path / 'adapters'}. Lower fit.learning_rate, or use fit.precision=float32."
            )

    def _keep(self, step: int, *, probe: bool) -> None:
        """Write the adapter, the log and the state, in this order.

        So a state on disk means that all before it is there.
        """
        if probe:
            save_state(self.perturbation, step_state(step), self.run)
        write_atomic(self.run.train_log, train_csv(self.rows))
        buffer = io.BytesIO()
        content = {
            "step": step,
            "identity": self.identity,
            "parameters": [parameter.detach().cpu() for parameter in self.parameters],
            "optimiser": self.optimiser.state_dict(),
            "rows": [asdict(row) for row in self.rows],
        }
        torch.save(content, buffer)
        write_atomic(self.run.path / STATE, buffer.getvalue())
        self.kept = step

    @torch.no_grad()
    def _resume(self) -> int | None:
        """Take up the state on disk; returns its step, or None when there is none."""
        path = self.run.path / STATE
        if not path.is_file():
            return None
        content = torch.load(path, map_location="cpu", weights_only=True)
        _check_identity(content["identity"], self.identity, path)
        for parameter, saved in zip(self.parameters, content["parameters"], strict=True):
            parameter.copy_(saved)
        self.optimiser.load_state_dict(content["optimiser"])
        self.rows = [TrainRow(**row) for row in content["rows"]]
        self.kept = content["step"]
        return self.kept


def save_state(perturbation: Perturbation, state: State, run: RunDir) -> State:
    """Save the perturbation, and ‖Δ‖/‖θ‖ of every layer beside it; returns the state with the whole of it."""
    magnitude = perturbation.magnitude()
    perturbation.save(run.adapter(state.id))
    files.write_magnitude(run.adapter(state.id), magnitude)
    return replace(state, magnitude=magnitude.total)


def _loss(system: VideoSystem, batch: Batch, precision: str) -> Tensor:
    """Mean over the batch of the ε-loss; only the network runs in bfloat16, if at all."""

    def denoise(x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        with torch.autocast(system.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            return system.denoise(x, t, cond)

    return epsilon_loss(denoise, system.schedule, batch.x0, batch.t, batch.noise, batch.cond).mean()


def _checked_probes(probe_steps: Iterable[int]) -> list[int]:
    probes = sorted(set(probe_steps))
    if not probes or probes[0] < 0:
        raise UserError(f"probe_steps is {probes}; allowed: whole numbers from 0, for example [0,50,100]")
    return probes


def _check_identity(saved: dict[str, Any], now: dict[str, Any], path: Path) -> None:
    different = sorted(key for key in saved.keys() | now.keys() if saved.get(key) != now.get(key))
    if different:
        raise UserError(
            f"{path} was written by another fit: {', '.join(different)} differ. Use another run directory, or remove "
            f"{path.parent} to start again."
        )
