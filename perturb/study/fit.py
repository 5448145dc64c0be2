"""Fit a perturbation to an image set, and keep it at every probe step.

    Δ ← AdamW on mean (ε − ε̂_{θ+Δ}(x_t, t, text))²,  θ frozen

Writes adapters/step_*/, states.csv, train.csv and the manifest sections perturbation, images, distance and frozen.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from accelerate.tracking import GeneralTracker
from torch import Tensor, nn

from perturb.data.images import ImageSet
from perturb.errors import UserError
from perturb.loop.config import LoopConfig, StageConfig
from perturb.loop.journal import Row
from perturb.loop.loop import CHECKPOINTS, Loop
from perturb.loop.processes import make_accelerator
from perturb.loop.task import Task
from perturb.models.base import Batch, VideoModel
from perturb.models.partition import Partition
from perturb.perturbation import Perturbation, Unfitted, files
from perturb.store.records import TrainRow, read_train, train_csv
from perturb.store.rundir import RunDir, write_atomic
from perturb.store.states import State, step_id, step_state
from perturb.store.tensors import hash_modules, moved, summarise
from perturb.study.fit_data import FitConfig, FitData
from perturb.study.fit_loss import LEVELS, ProbeLoss

FINISHED = "all"


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What all fits of a study share; ``images`` may be None where nothing is fitted.

    ``own_images`` are stills of what the model was trained on: the untouched model's loss on them goes into the
    manifest beside its loss on ``images``.
    """

    model: VideoModel
    partition: Partition
    images: ImageSet | None
    config: FitConfig
    own_images: ImageSet | None = None
    tracker: GeneralTracker | None = None

    @contextmanager
    def attached(
        self, perturbation: Perturbation, group: str, run: RunDir, images: dict[str, Any]
    ) -> Iterator[dict[str, Any]]:
        """Attach, and detach again; then every weight of the model must have the hash it had before: RuntimeError.

        Yields what is perturbed, for the identity of a fit. ``images``: for the manifest.
        """
        before = hash_modules(self.model.modules())
        if isinstance(perturbation, Unfitted):
            perturbation.check(summarise(before))
        perturbation.attach(self.model.network, self.partition, group, self.config.seed)
        try:
            described = {"group": group, "seed": self.config.seed, **perturbation.describe()}
            run.update_manifest(perturbation=described, images=images, frozen={"before": summarise(before)})
            yield {"base": summarise(before), "images": images, **described}
        finally:
            perturbation.detach()
        after = hash_modules(self.model.modules())
        if changed := moved(before, after):
            raise RuntimeError(f"perturbing {group} changed {len(changed)} tensors of the model, e.g. {changed[:3]}")
        run.update_manifest(frozen={"after": summarise(after), "unchanged": True})
        run.mark_done("fit", FINISHED)


def fit(setup: Setup, perturbation: Perturbation, *, group: str, probe_steps: Sequence[int], run: RunDir) -> None:
    """Fit ``perturbation`` on ``group`` and save it at each probe step; it stays attached, loaded from the last one.

    The same call again continues where the last one was stopped and ends with the same adapters, bit for bit; a
    finished one only attaches. Processes that torchrun started share each batch; the one whose ``run`` writes keeps the
    files. Raises UserError without images, for probe steps that cannot be, for a run directory of another fit, and for
    a loss or gradient that is not finite; Stopped after a signal; RuntimeError if anything but the perturbation moved.
    """
    model, images, config = setup.model, setup.images, setup.config
    if images is None:
        raise UserError("images is null, and a fit needs an image set: images=folder images.folder=/path")
    probes = sorted(set(probe_steps))
    if not probes or probes[0] < 0:
        raise UserError(f"probe_steps is {probes}; allowed: whole numbers from 0, for example [0,50,100]")
    if not run.is_done("fit", FINISHED):
        data, losses = FitData(model, images, config), ProbeLoss(model, images, config)
        run.update_manifest(distance=_distance(losses, setup.own_images))
        checkpointing = model.gradient_checkpointing
        try:
            with setup.attached(perturbation, group, run, data.describe()) as identity:
                model.gradient_checkpointing = config.gradient_checkpointing
                # the frozen temporal convolutions have a dropout of their own: the network stays in eval mode
                model.network.eval()
                perturbation.train(True)
                _fit(setup, perturbation, data, _Probe(perturbation, losses, run, probes), identity)
                if run.writes:
                    rows = (row for row in read_train(run.train_log) if row.step in probes)
                    states = [replace(step_state(row.step, row.magnitude), loss=row.probe_loss) for row in rows]
                    run.write_states(states)
        finally:
            model.gradient_checkpointing = checkpointing
        if run.writes:
            shutil.rmtree(run.path / CHECKPOINTS, ignore_errors=True)
    perturbation.attach(model.network, setup.partition, group, config.seed)
    perturbation.load(run.adapter(step_id(probes[-1])))


def _distance(losses: ProbeLoss, own_images: ImageSet | None) -> dict[str, Any]:
    """For the manifest: how far D_I is from what the model knows, L(D_I)/L(own) of the untouched model."""
    described: dict[str, Any] = {"timesteps": LEVELS, "stills": len(losses.stills), "loss": losses()}
    if own_images is None:
        return {**described, "own_loss": None, "ratio": None, "reason": "own_images is not given"}
    own = ProbeLoss(losses.model, own_images, losses.data.config)()
    return {**described, "own_loss": own, "ratio": described["loss"] / own, "own_images": own_images.describe()}


class Objective(nn.Module):
    """The model's loss, one value per sample; holds the network, so that processes can share its gradients."""

    def __init__(self, model: VideoModel) -> None:
        super().__init__()
        self.network, self.loss = model.network, model.loss

    def forward(self, batch: Batch) -> Tensor:
        """→ b."""
        return self.loss(batch)


@dataclass(frozen=True)
class _Probe:
    """Saves the perturbation at each of ``steps``; ‖Δ‖/‖θ‖ and the loss on D_I for the log."""

    perturbation: Perturbation
    losses: ProbeLoss
    run: RunDir
    steps: Sequence[int]

    def __call__(self, step: int) -> dict[str, float]:
        magnitude = save_state(self.perturbation, step_state(step), self.run).magnitude or 0.0
        self.perturbation.train(False)
        loss = self.losses()
        self.perturbation.train(True)
        return {"magnitude": magnitude, "probe_loss": loss}


def _fit(setup: Setup, perturbation: Perturbation, data: FitData, probe: _Probe, identity: Mapping[str, Any]) -> None:
    """Fit what is attached up to the last probe step, in all processes that were started together."""
    model, config, run = setup.model, setup.config, probe.run
    probes, objective = probe.steps, Objective(model)
    if probes[-1] == 0:  # the beginning alone
        return write_atomic(run.train_log, _train_log([{"step": 0, **probe(0)}]))
    names = {id(parameter): name for name, parameter in objective.named_parameters()}
    settings = LoopConfig(
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_steps,
        schedule=config.schedule,
        weight_decay=config.weight_decay,
        gradient_clip=config.gradient_clip,
        ema_decay=None,  # what is fitted is kept, no average of it
        precision=config.precision,
        log_every=1,
        save_every=config.save_every,
        keep_last=1,
    )
    if model.device.type == "cuda":
        torch.cuda.set_device(model.device)  # where accelerate will put everything
    accelerator = make_accelerator(settings, device=model.device.type, folder=run.path, tracker=setup.tracker)
    if config.batch_size % accelerator.num_processes:
        raise UserError(
            f"fit.batch_size is {config.batch_size}; allowed with {accelerator.num_processes} processes: its multiples"
        )
    task = Task(
        objective=objective,
        trained=[names[id(parameter)] for parameter in perturbation.parameters()],
        stages=[StageConfig(steps=probes[-1], batch_size=config.batch_size)],
        batches=lambda _: data,
        loop=settings,
        seed=config.seed,
        folder=run.path,
        title="fit",
        identity={"fit": asdict(config), "probe_steps": list(probes), **identity},
        probe=probe,
        section="fit",
        text=_train_log,
    )
    Loop(task, accelerator).run()
    accelerator.end_training()
    return None


def _train_log(rows: Sequence[Row]) -> str:
    """train.csv from the rows of the loop."""
    columns = ("loss", "lr", "grad_norm", "magnitude", "probe_loss")
    return train_csv(TrainRow(int(row["step"]), *(row.get(name) for name in columns)) for row in rows)


def save_state(perturbation: Perturbation, state: State, run: RunDir) -> State:
    """Save the perturbation, and ‖Δ‖/‖θ‖ of every layer beside it; returns the state with the whole of it."""
    magnitude = perturbation.magnitude()
    perturbation.save(run.adapter(state.id))
    files.write_magnitude(run.adapter(state.id), magnitude)
    return replace(state, magnitude=magnitude.total)
