"""What the tests of the samplers share: conditionings, a stand-in for a network, and a network."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from perturb.diffusion import Conditioning, NoiseSchedule, draw, sample_generator
from perturb.diffusion.sampler import Given
from perturb.models.videocrafter.system import VideoSystem

SHAPE = (4, 3, 2, 2)


def conditioning(count: int, seed: int = 0) -> Conditioning:
    text = draw((5, 4), [sample_generator("text", seed, i) for i in range(count)])
    return Conditioning(text, torch.arange(count) + 8)


def toy_denoise(x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
    """A smooth stand-in for a network that depends on every input, sample by sample (and frame by frame)."""
    t = t.reshape(len(x), 1, -1, 1, 1) / 1000
    text = cond.text.mean((-1, -2)).reshape(len(x), 1, -1, 1, 1)
    return torch.tanh(0.7 * x + text + cond.fps.reshape(-1, 1, 1, 1, 1) / 10 + t)


class Knowing:
    """The exact denoiser of data that is one clean latent ``x0``: ε̂ = (x − √ᾱ s x_0)/√(1 − ᾱ), or v̂ of the same."""

    def __init__(self, x0: Tensor, schedule: NoiseSchedule, *, scale: bool = True) -> None:
        self.x0, self.schedule, self.scale = x0, schedule, scale

    def __call__(self, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        t = t.reshape(len(x), 1, -1, 1, 1)
        a = self.schedule.alphas_cumprod[t]
        clean = self.x0 * (self.schedule.latent_scale_table[t] if self.scale else 1)
        eps = (x - a.sqrt() * clean) / (1 - a).sqrt()
        return eps if self.schedule.prediction == "epsilon" else a.sqrt() * eps - (1 - a).sqrt() * clean


@dataclass(frozen=True)
class Replayed(Given):
    """What a sampler is given, with noises that were drawn elsewhere."""

    draws: Iterator[Tensor] = field(default_factory=lambda: iter(()))

    def noise(self, like: Tensor) -> Tensor:
        return next(self.draws)


def replayed(  # noqa: PLR0917 - the order of the Sampler protocol
    denoise: Any,
    cond: Conditioning,
    uncond: Conditioning | None,
    draws: Iterable[Tensor],
    schedule: NoiseSchedule,
    on_step: Any = None,
) -> Given:
    return Replayed(denoise, cond, uncond, [], schedule, on_step, iter(draws))


def noises(shape: tuple[int, ...], *parts: int | str, count: int = 2) -> Tensor:
    return draw(shape, [sample_generator(*parts, i) for i in range(count)])


def told(system: VideoSystem, count: int = 2) -> tuple[Conditioning, Conditioning]:
    """Both sides of guidance for a tiny system, with random tokens."""
    shape = (system.spec.text.tokens, system.spec.unet.context_dim)
    fps = torch.full((count,), 8)
    return Conditioning(noises(shape, "c", count=count), fps), Conditioning(noises(shape, "u", count=count), fps)
