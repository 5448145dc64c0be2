"""What is random in a training sample, by the name of a stream and (seed, step, place) alone.

So a sample does not depend on how its batch is divided, nor on where a run was resumed.
Axes: c channels, t frames, h w latents.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import Tensor

from perturb.diffusion.noise import offset, sample_generator


@dataclass(frozen=True)
class SampleDraw:
    """Timestep t, whether the text is dropped, z of the latent μ + σ z, and the diffusion noise ε c t h w."""

    timestep: Tensor
    dropped: bool
    posterior: Tensor
    noise: Tensor


def draw_sample(
    stream: str,
    seed: int,
    step: int,
    place: int,
    *,
    timesteps: int,
    text_dropout: float,
    latent: Sequence[int],
    frames: int | None = None,
    offset_noise: float = 0.0,
) -> SampleDraw:
    """The draws for ``place`` of the batch of ``step``: t uniform below ``timesteps``, z and ε standard normal.

    ``latent``: shape c t h w of the posterior; ``frames``: of ε where a single latent frame is repeated so often;
    ``offset_noise``: see `offset`.
    """
    generator = sample_generator(stream, seed, step, place)
    timestep = torch.randint(timesteps, (), generator=generator)
    dropped = bool(torch.rand((), generator=generator) < text_dropout)
    posterior = torch.randn(*latent, generator=generator)
    c, t, h, w = latent
    noise = torch.randn(c, t if frames is None else frames, h, w, generator=generator)
    return SampleDraw(timestep, dropped, posterior, offset(noise[None], offset_noise, generator)[0])


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """A permutation of ``count`` samples, int64, drawn from (seed, epoch)."""
    return torch.randperm(count, generator=sample_generator("order", seed, epoch))


class Shuffled:
    """Which of ``count`` samples comes at a position: shuffled epochs one after the other, by `epoch_order`."""

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self._order = lru_cache(maxsize=2)(partial(epoch_order, count, seed))

    def __getitem__(self, position: int) -> int:
        epoch, place = divmod(position, self.count)
        return int(self._order(epoch)[place])
