"""The shapes of a denoiser and of a sampler. Axes: b batch, c channels, t frames, h w latents."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor

from perturb.diffusion.conditioning import Conditioning
from perturb.diffusion.schedule import NoiseSchedule

# (x_t: b c t h w, t: b int64 (or b t: one per frame), conditioning) → ε̂ (or v̂): b c t h w
Denoise = Callable[[Tensor, Tensor, Conditioning], Tensor]


class Defaults(Protocol):
    """How a published model is sampled when the user does not say (``ModelSpec.sampling`` has this form)."""

    @property
    def steps(self) -> int: ...

    @property
    def guidance(self) -> float: ...

    @property
    def eta(self) -> float: ...

    @property
    def frames(self) -> int: ...


@dataclass(frozen=True)
class SamplerStep:
    """One finished step: ``number`` of ``total`` (from 1), its timestep, the prediction x̂_0 and the new latent x."""

    number: int
    total: int
    timestep: int
    predicted_x0: Tensor
    x: Tensor


@dataclass(frozen=True)
class Work:
    """Forwards of one clip, in forwards of all of its frames on one side of guidance; and how many are one batch."""

    forwards: float
    at_once: float


class Sampler(Protocol):
    """From noise to a latent: ``(denoise, x_T, cond, uncond, generators, schedule) → x_0``."""

    def resolved(self, defaults: Defaults) -> Self:
        """The same sampler with every setting left open taken from ``defaults``."""
        ...

    def check(self, schedule: NoiseSchedule, frames: int | None = None) -> None:
        """Raise UserError for what ``schedule``, or clips of ``frames``, cannot take: before anything expensive."""
        ...

    def work(self, frames: int) -> Work:
        """What a clip of ``frames`` costs, of a sampler without open settings."""
        ...

    def __call__(  # noqa: PLR0917 - the order in which a sampler reads: from what, told what, with what
        self,
        denoise: Denoise,
        x_T: Tensor,
        cond: Conditioning,
        uncond: Conditioning | None,
        generators: Sequence[torch.Generator],
        schedule: NoiseSchedule,
        on_step: Callable[[SamplerStep], None] | None = None,
    ) -> Tensor:
        """x_0 ``b c t h w`` from x_T of the same shape; ``generators`` holds one CPU generator per sample."""
        ...
