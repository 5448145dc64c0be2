"""Training of the KL autoencoder of the embedded world.

L = |x − x̂| + (x − x̂)² + λ KL(q(z|x) ‖ N(0, 1)), each averaged over elements (Kingma and Welling 2013; Rombach et al.
2022 without their adversarial and perceptual terms, which need pretrained networks).

The object covers a tenth of a frame. Training therefore starts on crops around it, which cost a quarter and show it in
four times as many of their pixels, and ends on whole frames.

Axis letters: b batch, c channels, h w pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from perturb.data.shapes.render import Grade, render_still
from perturb.data.shapes.world import SIZE, frame_times, scene
from perturb.stages.training_loop import LoopConfig, optimise

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


def train_vae(
    vae: AutoencoderKL, data: VAEData, config: LoopConfig, folder: Path, *, kl_weight: float
) -> dict[str, float]:
    """Train ``vae`` in place on the embedded world; returns the last logged row."""
    generator = torch.Generator()

    def loss_of_step(step: int) -> Tensor:
        images = data.batch(step)
        generator.manual_seed(data.seed * 1_000_003 + step)
        with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bfloat16"):
            posterior = vae.encode(images).latent_dist  # pyright: ignore[reportAttributeAccessIssue]
            decoded = vae.decode(posterior.sample(generator)).sample.float()  # pyright: ignore[reportAttributeAccessIssue]
        error = decoded - images
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
        return error.abs().mean() + error.square().mean() + kl_weight * kl

    return optimise(dict(vae.named_parameters()), loss_of_step, config, folder, title="autoencoder")


def psnr(vae: AutoencoderKL, grade: Grade, *, seed: int, count: int = 64) -> float:
    """Mean peak signal-to-noise ratio in dB of mean-latent reconstructions of ``count`` frames: 10 log₁₀(1/MSE)."""
    stills = np.stack([render_still(scene(seed, i, held_out=True), grade, noise_seed=i) for i in range(count)])
    images = torch.from_numpy(stills).permute(0, 3, 1, 2).float().div(127.5).sub(1)
    with torch.inference_mode():
        latents = vae.encode(images).latent_dist.mode()  # pyright: ignore[reportAttributeAccessIssue]
        decoded = vae.decode(latents).sample.clamp(-1, 1)  # pyright: ignore[reportAttributeAccessIssue]
    error = (decoded - images).div(2).square().mean(dim=(1, 2, 3))
    return float((-10 * error.log10()).mean())
