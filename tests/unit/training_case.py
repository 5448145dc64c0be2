"""A training of the tiny model on made-up latents, small enough for a test."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from perturb.loop.config import LoopConfig, StageConfig
from perturb.loop.processes import make_accelerator
from perturb.loop.task import Batches, Validation
from perturb.models.videocrafter.system import VideoSystem
from perturb.nano.latents import LatentSet
from perturb.nano.stream import Stream, WorldBatches
from perturb.training.diffusion import Run, Trace, train_diffusion
from perturb.training.recipes import Trained

FULL = Trained(group="both", time_embedding=True, fps_embedding=True)

BATCH, SEED = 4, 3
CAPTIONS = ["a red circle", "a blue square", "a green star"]


def made_up_latents(system: VideoSystem, count: int = 12, frames: int = 4) -> LatentSet:
    shape = (count, 4, frames, 32 // system.spec.downsampling, 32 // system.spec.downsampling)
    mean = torch.randn(shape, generator=torch.Generator().manual_seed(0)).half()
    captions = [CAPTIONS[i % len(CAPTIONS)] for i in range(count)]
    return LatentSet(mean, torch.full(shape, 0.1).half(), captions, torch.full((count,), 8))


def made_up_stream(latents: LatentSet, *, seed: int = SEED, frames: int | None = None) -> Stream:
    return Stream(latents=latents, batch_size=BATCH, seed=seed, text_dropout=0.3, timesteps=1000, frames=frames)


def made_up_batches(system: VideoSystem, *, text_ids: bool = False) -> WorldBatches:
    return WorldBatches(system, made_up_stream(made_up_latents(system)), text_ids=text_ids)


def drawn(batches: Batches, step: int, places: range) -> tuple[Any, ...]:
    """What the loop would give to the objective."""
    return batches.inputs(step, places, batches.load(step, places))


def loop(**changes: Any) -> LoopConfig:
    settings = {"learning_rate": 1e-2, "warmup_steps": 2, "log_every": 2, "save_every": 2}
    return LoopConfig(**(settings | changes))


def train_tiny(
    system: VideoSystem,
    work: Path,
    trained: Trained = FULL,
    *,
    loop: LoopConfig,
    steps: int = 3,
    batches: Batches | None = None,
    prepare: Callable[[Accelerator], None] = lambda _: None,
    validation: Callable[[Accelerator], Validation | None] = lambda _: None,
) -> Trace:
    """Train ``system`` in place by batches of four; on made-up latents where none are given."""
    data = batches or made_up_batches(system, text_ids=trained.text_encoder)
    accelerator = make_accelerator(loop, device="cpu", folder=work)
    prepare(accelerator)
    run = Run(
        trained=trained,
        stages=[StageConfig(steps=steps, batch_size=BATCH)],
        batches=lambda _: data,
        loop=loop,
        seed=SEED,
        folder=work,
        adapter=work / "adapter",
        title="test",
        identity={"data": "made up"},
        validation=validation(accelerator),
    )
    return train_diffusion(system, run, accelerator)


def apart(one: Mapping[str, Tensor], other: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> float:
    """‖θ₁ − θ₂‖/‖θ₂ − θ₀‖; elementwise, AdamW would blow up the round-off of gradients that are nearly zero."""
    return (_square(one, other) / _square(other, start)) ** 0.5


def _square(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    return sum(float((one[name] - other[name]).double().square().sum()) for name in one)
