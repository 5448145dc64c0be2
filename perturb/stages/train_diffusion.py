"""Training of the denoiser: the image model θ_S⁰, and from it the twins M_F (θ_S and θ_T) and M_P (θ_T alone).

Twins see the same clips in the same order with the same noises and timesteps: every draw of a step is a function of
(seed, step) and of nothing else. ``stream_digest`` is the proof.

Axis letters: b batch, c channels, t frames, h w latents, l text tokens, d features.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from perturb.diffusion import Conditioning, NoiseSchedule, sample_generator
from perturb.diffusion.loss import epsilon_loss
from perturb.partition import Partition
from perturb.stages.hashing import hash_modules, moved
from perturb.stages.latents import LatentSet
from perturb.stages.training_loop import LoopConfig, optimise
from perturb.videocrafter.system import VideoSystem

Recipe = Literal["image", "full", "partial"]

TRAINED: dict[Recipe, str] = {
    "image": "θ_S and conditioning of the UNet, on stills (t = 1); θ_T stays the identity",
    "full": "θ_S, θ_T and conditioning",
    "partial": "θ_T and the fps embedding; θ_S and the time embedding stay those of the image model",
}


MAX_WEIGHT = 20.0  # of the loss at the noisiest steps


@dataclass(frozen=True)
class Draw:
    """Everything random in one step: which samples, timesteps, noises ``b c t h w``, and whose caption is dropped."""

    index: Tensor
    timestep: Tensor
    noise: Tensor
    posterior_noise: Tensor
    dropped: Tensor


@dataclass(frozen=True, kw_only=True)
class Stream:
    """What a training sees, step by step: a pure function of (seed, step), whatever is trained."""

    latents: LatentSet
    batch_size: int
    seed: int
    text_dropout: float
    timesteps: int

    def draw(self, step: int) -> Draw:
        """The draws of ``step``. Samples come epoch by epoch, each a permutation seeded by (seed, epoch)."""
        per_epoch = len(self.latents) // self.batch_size
        order = torch.randperm(len(self.latents), generator=sample_generator("order", self.seed, step // per_epoch))
        begin = step % per_epoch * self.batch_size
        generator = sample_generator("step", self.seed, step)
        shape = (self.batch_size, *self.latents.mean.shape[1:])
        return Draw(
            index=order[begin : begin + self.batch_size],
            timestep=torch.randint(self.timesteps, (self.batch_size,), generator=generator),
            noise=torch.randn(shape, generator=generator),
            posterior_noise=torch.randn(shape, generator=generator),
            dropped=torch.rand(self.batch_size, generator=generator) < self.text_dropout,
        )

    def digest(self, steps: int) -> str:
        """SHA-256 over samples, timesteps, dropped captions and each sample's first noise value, for all steps."""
        digest = hashlib.sha256()
        for step in range(steps):
            d = self.draw(step)
            for part in (d.index, d.timestep, d.dropped, d.noise.flatten(1)[:, 0]):
                digest.update(part.numpy().tobytes())
        return digest.hexdigest()


def trained_parameters(system: VideoSystem, recipe: Recipe) -> dict[str, nn.Parameter]:
    """Name → parameter of what ``recipe`` trains; see ``TRAINED``."""
    partition = Partition.of(system.unet)
    conditioning = partition.names("conditioning")
    names = {
        "image": (*partition.names("spatial"), *conditioning),
        "full": (*partition.names("spatial"), *partition.names("temporal"), *conditioning),
        "partial": (*partition.names("temporal"), *(name for name in conditioning if name.startswith("fps_embedding"))),
    }[recipe]
    return {f"unet.{name}": system.unet.get_parameter(name) for name in names}


def loss_weights(schedule: NoiseSchedule, gamma: float) -> Tensor:
    """Weight of the ε-loss at every timestep: clip(γ / SNR_t, 1, 20) with SNR_t = ᾱ_t s_t² / (1 − ᾱ_t); γ = 0: all 1.

    Uniform weights leave next to nothing for the noisiest steps, where a caption decides where things are and where
    they go; a small model on a small budget then never learns to listen. After Hang et al. 2023 (arXiv 2303.09556).
    """
    alphas = schedule.alphas_cumprod
    snr = alphas * schedule.latent_scale_table[: len(alphas)] ** 2 / (1 - alphas)
    return (gamma / snr).clamp(1, MAX_WEIGHT).float()


def train_diffusion(
    system: VideoSystem, stream: Stream, recipe: Recipe, config: LoopConfig, folder: Path, *, gamma: float
) -> dict[str, Any]:
    """Train ``system`` in place by the ε-loss with latent scale; returns what the model card must say.

    ``gamma``: see ``loss_weights``. Anything outside the recipe that moved is an assertion failure, by hash.
    """
    trained = trained_parameters(system, recipe)
    before = _frozen_hashes(system, trained)
    for module in system.modules().values():
        module.requires_grad_(False)
    for parameter in trained.values():
        parameter.requires_grad_(True)
    # Dropout of the temporal convolutions acts only where θ_T is trained.
    system.unet.train(recipe != "image")
    weights = loss_weights(system.schedule, gamma)
    captions = _Captions(system, stream.latents)

    def loss_of_step(step: int) -> Tensor:
        d = stream.draw(step)
        torch.manual_seed(sample_generator("dropout", stream.seed, step).initial_seed())
        mean, std = stream.latents.mean[d.index].float(), stream.latents.std[d.index].float()
        x0 = system.spec.vae.scale_factor * (mean + std * d.posterior_noise)
        cond = Conditioning(captions(d), stream.latents.fps[d.index])
        with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bfloat16"):
            losses = epsilon_loss(system.denoise, system.schedule, x0, d.timestep, d.noise, cond)
        return (weights[d.timestep] * losses).mean()

    last = optimise(trained, loss_of_step, config, folder, title=f"{recipe} model")
    system.unet.eval()
    difference = moved(before, _frozen_hashes(system, trained))
    assert not difference, f"frozen tensors moved: {difference[:5]}"
    return {
        "recipe": recipe,
        "trained": TRAINED[recipe],
        "parameters": sum(parameter.numel() for parameter in trained.values()),
        "last": last,
        "sample_stream_sha256": stream.digest(config.steps),
    }


def _frozen_hashes(system: VideoSystem, trained: dict[str, nn.Parameter]) -> dict[str, dict[str, str]]:
    hashes = hash_modules(system.modules())
    return {
        component: {name: value for name, value in tensors.items() if f"{component}.{name}" not in trained}
        for component, tensors in hashes.items()
    }


class _Captions:
    """Text tokens ``b l d`` of a draw, the empty prompt where the caption is dropped; encoded once."""

    def __init__(self, system: VideoSystem, latents: LatentSet) -> None:
        unique = ["", *sorted(set(latents.captions))]
        position = {caption: i for i, caption in enumerate(unique)}
        self.position = torch.tensor([position[caption] for caption in latents.captions])
        self.tokens = system.embed(unique)

    def __call__(self, d: Draw) -> Tensor:
        return self.tokens[self.position[d.index].masked_fill(d.dropped, 0)]
