"""What is measured and shown while a training runs: held-out loss at fixed timesteps, and clips of fixed prompts.

Prompts, noises, samples and timesteps are the same every time, so that only the weights make a difference.
Axes: b batch, c channels, t frames, h w pixels or latents.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from perturb.data.prompts import Prompt
from perturb.diffusion import Conditioning, DDIMSampler, sample_generator
from perturb.diffusion.loss import epsilon_loss
from perturb.disks import convenience
from perturb.errors import UserError
from perturb.loop.config import StageConfig
from perturb.loop.schedule import locate
from perturb.models.videocrafter.system import VideoSystem
from perturb.nano.latents import WorldData
from perturb.store.video import write_contact_sheet, write_mp4
from perturb.structured import check_range
from perturb.study.sample import Generator, SampleConfig

PLAYBACK_FPS = 8


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """Every ``every`` steps: the loss of ``count`` held-out samples, and clips of ``limit`` prompts of a file.

    Samples are ``world`` (scenes of a stream that no training uses) or come from ``video`` or ``images``, as in data.
    ``frames`` of the clips (None: the model's own), ``sampler_steps`` and ``guidance`` likewise.
    """

    every: int
    prompts: str | None = None
    limit: int = 8
    world: WorldData | None = None
    video: dict[str, Any] | None = None
    images: dict[str, Any] | None = None
    count: int = 32
    timesteps: tuple[int, ...] = (100, 300, 500, 700, 900)
    frames: int | None = None
    sampler_steps: int | None = None
    guidance: float | None = None
    batch_size: int = 8

    def __post_init__(self) -> None:
        for name in ("every", "limit", "count", "frames", "sampler_steps", "batch_size"):
            check_range(f"validation.{name}", getattr(self, name), low=1)
        if sum(source is not None for source in (self.world, self.video, self.images)) != 1:
            raise UserError("validation: give exactly one of world, video and images: the samples of the held-out loss")
        if not self.timesteps or min(self.timesteps) < 0:
            raise UserError(
                f"validation.timesteps is {list(self.timesteps)}; allowed: whole numbers from 0, at least one"
            )


@dataclass(frozen=True)
class HeldOut:
    """Held-out samples: scaled latents ``b c t h w``, their captions and frame rates ``b``."""

    x0: Tensor
    captions: Sequence[str]
    fps: Tensor


class Validation:
    """Loss and clips of one system. All processes compute the same; the main one writes to ``folder``/samples."""

    def __init__(
        self,
        system: VideoSystem,
        held_out: HeldOut,
        prompts: Sequence[Prompt],
        config: ValidationConfig,
        *,
        stages: Sequence[StageConfig],
        accelerator: Accelerator,
        folder: Path,
    ) -> None:
        self.system, self.held_out, self.prompts, self.config = system, held_out, prompts, config
        self.stages, self.accelerator, self.folder = stages, accelerator, folder
        self.every = config.every
        if (largest := max(config.timesteps)) >= system.spec.schedule.timesteps:
            raise UserError(f"validation.timesteps holds {largest}; allowed: below {system.spec.schedule.timesteps}")

    def __call__(self, step: int) -> dict[str, float]:
        """Write the clips of ``step``; the loss at each timestep, and as "loss" their mean."""
        if self.prompts:
            self._sample(step)
        losses = {f"loss_t{t:04d}": self.loss(t) for t in self.config.timesteps}
        return {"loss": sum(losses.values()) / len(losses), **losses}

    @torch.no_grad()
    def loss(self, timestep: int) -> float:
        """Mean ε-loss, unweighted, of the held-out samples at ``timestep``, each with its own fixed noise."""
        total, held = 0.0, self.held_out
        for begin in range(0, len(held.x0), self.config.batch_size):
            rows = range(begin, min(begin + self.config.batch_size, len(held.x0)))
            x0 = held.x0[rows.start : rows.stop]
            noise = torch.stack(
                [torch.randn(x0.shape[1:], generator=sample_generator("validation", i, timestep)) for i in rows]
            )
            text = self.system.embed([held.captions[i] for i in rows])
            cond = Conditioning(text, held.fps[rows.start : rows.stop].to(text.device))
            t = torch.full((len(rows),), timestep, device=text.device)
            with self.accelerator.autocast():
                losses = epsilon_loss(
                    self.system.denoise, self.system.schedule, x0.to(t.device), t, noise.to(t.device), cond
                )
            total += float(losses.sum())
        return total / len(held.x0)

    def _sample(self, step: int) -> None:
        stage = locate(self.stages, step - 1).stage
        config = SampleConfig(
            batch_size=self.config.batch_size,
            height=stage.height,
            width=stage.width,
            frames=self.config.frames or stage.frames,
        )
        sampler = DDIMSampler(steps=self.config.sampler_steps, guidance=self.config.guidance)
        generate = Generator(self.system, sampler, self.prompts, config, image=None)
        clips = {}
        for batch in generate.batches:
            with self.accelerator.autocast():
                frames = generate(batch, lambda _: None)
            clips |= {self.prompts[index].id: clip for (index, _), clip in zip(batch, frames, strict=True)}
        if self.accelerator.is_main_process:
            folder = self.folder / "samples" / f"step_{step:06d}"
            with convenience("samples for eyes are"):
                for name, clip in clips.items():
                    write_mp4(folder / f"{name}.mp4", clip, PLAYBACK_FPS)
                write_contact_sheet(folder / "sheet.png", list(clips.values()))
