"""Training of the KL autoencoder of the embedded world.

L = |x − x̂| + (x − x̂)² + λ KL(q(z|x) ‖ N(0, 1)), each averaged over elements (Kingma and Welling 2013; Rombach et al.
2022 without their adversarial and perceptual terms, which need pretrained networks).

The object covers a tenth of a frame. Training therefore starts on crops around it, which cost a quarter and show it in
four times as many of their pixels, and ends on whole frames.

Axis letters: b batch, c channels, h w pixels.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from torch import Tensor, nn

from perturb.loop.config import LoopConfig, StageConfig
from perturb.loop.loop import Loop
from perturb.loop.task import Drawn, Outcome, Task
from perturb.world.render import Grade, render_still
from perturb.world.scenes import SIZE, frame_times, scene

GRADES: Sequence[Grade] = get_args(Grade)


@dataclass(frozen=True, kw_only=True)
class VAEData:
    """Stills of all three grades in turn; ``crop`` pixels for the first ``crop_steps`` steps, then whole frames."""

    seed: int
    batch_size: int
    crop: int = 32
    crop_steps: int = 0
    crops_per_frame: int = 2

    def batch(self, step: int) -> Tensor:
        """Images of ``step``: ``b c h w`` in [−1, 1]. Of crops there are ``crops_per_frame`` times more."""
        cropped = step < self.crop_steps
        count = self.batch_size * (self.crops_per_frame if cropped else 1)
        stills = [self._still(index, cropped) for index in range(step * count, (step + 1) * count)]
        return torch.from_numpy(np.stack(stills)).permute(0, 3, 1, 2).float().div(127.5).sub(1)

    def _still(self, index: int, cropped: bool) -> np.ndarray:
        here, grade = scene(self.seed, index), GRADES[index % len(GRADES)]
        moment = frame_times()[index // len(GRADES) % len(frame_times())]
        still = render_still(here, grade, moment=moment, noise_seed=index)
        if not cropped:
            return still
        rng = np.random.default_rng([self.seed, index, self.crop])
        x, y = here.position(np.array([moment]))[0] - self.crop / 2 + rng.uniform(-8, 8, 2)
        if rng.random() < 0.25:  # anywhere: the background, the border and the mark
            x, y = rng.uniform(0, SIZE, 2)
        left, top = (int(np.clip(value, 0, SIZE - self.crop)) for value in (x, y))
        return still[top : top + self.crop, left : left + self.crop]


class AutoencoderObjective(nn.Module):
    """|x − x̂| + (x − x̂)² + λ KL, each averaged over the micro-batch and its elements: one number."""

    def __init__(self, vae: AutoencoderKL, kl_weight: float) -> None:
        super().__init__()
        self.vae, self.kl_weight = vae, kl_weight

    def forward(self, images: Tensor, seed: int, places: range, batch: int) -> Tensor:
        """Images b c h w in [−1, 1]: ``places`` of a global batch of size ``batch``, whose noise ``seed`` draws."""
        posterior = self.vae.encode(images).latent_dist  # pyright: ignore[reportAttributeAccessIssue]
        mean = posterior.mean
        # of the global batch, so that a sample's noise does not depend on how the batch is divided
        noise = torch.randn((batch, *mean.shape[1:]), generator=torch.Generator().manual_seed(seed), dtype=mean.dtype)
        latent = mean + posterior.std * noise[places.start : places.stop].to(mean.device)
        decoded = self.vae.decode(latent).sample.float()  # pyright: ignore[reportAttributeAccessIssue]
        with torch.autocast(images.device.type, enabled=False):
            error = decoded - images
            kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
            return error.abs().mean() + error.square().mean() + self.kl_weight * kl


@dataclass(frozen=True)
class VAEBatches(Drawn):
    """`VAEData` as the loop wants it."""

    data: VAEData
    device: torch.device

    def load(self, step: int, places: range) -> Tensor:
        """The pictures of the whole batch."""
        del places
        return self.data.batch(step)

    def inputs(self, step: int, places: range, loaded: Tensor) -> tuple[Tensor, int, range, int]:
        """The objective's arguments; while it is crops, a place of the global batch stands for several of them."""
        images = loaded
        factor = len(images) // self.data.batch_size
        scaled = range(places.start * factor, places.stop * factor)
        part = images[scaled.start : scaled.stop].to(self.device)
        return part, self.data.seed * 1_000_003 + step, scaled, len(images)

    def digest(self, steps: int, gather: Callable[[list[Any]], list[Any]]) -> str:
        """Of what the pictures are a function of."""
        del gather
        return hashlib.sha256(f"{self.data} {steps}".encode()).hexdigest()


def train_vae(
    vae: AutoencoderKL,
    data: VAEData,
    loop: LoopConfig,
    *,
    steps: int,
    folder: Path,
    kl_weight: float,
    accelerator: Accelerator,
) -> Outcome:
    """Train ``vae`` in place on the embedded world; afterwards its weights are the averaged ones."""
    objective = AutoencoderObjective(vae, kl_weight)
    batches = VAEBatches(data, accelerator.device)
    task = Task(
        objective=objective,
        trained=[name for name, _ in objective.named_parameters()],
        stages=[StageConfig(steps=steps, batch_size=data.batch_size)],
        batches=lambda _: batches,
        loop=loop,
        seed=data.seed,
        folder=folder,
        title="autoencoder",
        identity={"data": asdict(data), "kl_weight": kl_weight},
    )
    return Loop(task, accelerator).run()


def psnr(vae: AutoencoderKL, grade: Grade, *, seed: int, count: int = 64) -> float:
    """Mean peak signal-to-noise ratio in dB of mean-latent reconstructions of ``count`` frames: 10 log₁₀(1/MSE)."""
    stills = np.stack([render_still(scene(seed, i, held_out=True), grade, noise_seed=i) for i in range(count)])
    images = torch.from_numpy(stills).permute(0, 3, 1, 2).float().div(127.5).sub(1)
    with torch.inference_mode():
        device = next(vae.parameters()).device
        images = images.to(device)
        latents = vae.encode(images).latent_dist.mode()  # pyright: ignore[reportAttributeAccessIssue]
        decoded = vae.decode(latents).sample.clamp(-1, 1)  # pyright: ignore[reportAttributeAccessIssue]
    error = (decoded - images).div(2).square().mean(dim=(1, 2, 3))
    return float((-10 * error.log10()).mean())
