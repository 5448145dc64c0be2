"""The DDIM sampler as VideoCrafter publishes it. Axes: b batch, c channels, t frames, h w latents."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from perturb.diffusion.conditioning import Conditioning
from perturb.diffusion.guidance import guided
from perturb.diffusion.noise import draw
from perturb.diffusion.protocols import Defaults, Denoise
from perturb.diffusion.schedule import NoiseSchedule
from perturb.errors import UserError


@dataclass(frozen=True)
class DDIMStep:
    """One finished step: ``number`` of ``total`` (from 1), its timestep, the prediction x̂_0 and the new latent x."""

    number: int
    total: int
    timestep: int
    predicted_x0: Tensor
    x: Tensor


@dataclass(frozen=True)
class DDIMSampler:
    """DDIM with classifier-free guidance; a setting left None comes from the model (``resolved``).

    From the largest τ_i down, with a_i, a'_i, s_i, s'_i, σ_i of ``NoiseSchedule.ddim_table`` and z ~ N(0, 1):

        ε̂ = ε_u + g (ε_c − ε_u)
        x̂_0 = (x − √(1 − a_i) ε̂) / (√a_i s_i)
        x ← √a'_i s'_i x̂_0 + √(1 − a'_i − σ_i²) ε̂ + σ_i z

    Source: Song et al. 2021 (arXiv 2010.02502), eq. 12; the latent scale s is VideoCrafter's.
    """

    steps: int | None = None
    guidance: float | None = None
    eta: float | None = None

    def resolved(self, defaults: Defaults) -> DDIMSampler:
        """The same sampler with every None replaced by the model's default."""
        return dataclasses.replace(
            self,
            steps=defaults.steps if self.steps is None else self.steps,
            guidance=defaults.guidance if self.guidance is None else self.guidance,
            eta=defaults.eta if self.eta is None else self.eta,
        )

    def check(self, schedule: NoiseSchedule) -> None:
        """Raise UserError for settings that are left open, are no numbers, or do not fit ``schedule``."""
        if self.steps is None or self.guidance is None or self.eta is None:
            raise UserError(f"{self} leaves settings open; call .resolved(spec.sampling) before sampling")
        if type(self.steps) is not int:
            raise UserError(f"sampler.steps is {self.steps!r}; allowed: a whole number from 1")
        for name, value in (("guidance", self.guidance), ("eta", self.eta)):
            if type(value) not in (int, float) or not math.isfinite(value):
                raise UserError(f"sampler.{name} is {value!r}; allowed: a finite number")
        schedule.ddim_table(self.steps, self.eta)

    def __call__(  # noqa: PLR0917 - the order of the Sampler protocol
        self,
        denoise: Denoise,
        x_T: Tensor,
        cond: Conditioning,
        uncond: Conditioning | None,
        generators: Sequence[torch.Generator],
        schedule: NoiseSchedule,
        on_step: Callable[[DDIMStep], None] | None = None,
    ) -> Tensor:
        """x_0 from x_T, both b c t h w; the noise of sample i comes from generator i only.

        Noise is drawn at every step, also when σ = 0, as published: eta does not shift the random stream.
        """

        def noise() -> Tensor:
            return draw(x_T.shape[1:], generators, x_T.device)

        return self.integrate(denoise, x_T, cond, uncond, noise, schedule, on_step)

    @torch.no_grad()
    def integrate(  # noqa: PLR0917 - the order of the Sampler protocol
        self,
        denoise: Denoise,
        x_T: Tensor,
        cond: Conditioning,
        uncond: Conditioning | None,
        noise: Callable[[], Tensor],
        schedule: NoiseSchedule,
        on_step: Callable[[DDIMStep], None] | None = None,
    ) -> Tensor:
        """``__call__`` with the source of the noise given: ``noise()`` returns z (b c t h w) of the next step."""
        if self.steps is None or self.guidance is None or self.eta is None:
            raise UserError(f"{self} leaves settings open; call .resolved(spec.sampling) before sampling")
        table = schedule.ddim_table(self.steps, self.eta)
        # Arithmetic in float32 whatever the network computes in: bfloat16 would lose the small steps.
        x = x_T.float()
        for i in reversed(range(len(table))):
            timestep = int(table.timesteps[i])
            a, a_prev, sigma = (float(values[i]) for values in (table.alphas, table.alphas_prev, table.sigmas))
            t = torch.full((len(x),), timestep, device=x.device)
            eps = guided(denoise, x, t, cond, uncond, self.guidance).float()
            x0 = (x - (1 - a) ** 0.5 * eps) / (a**0.5 * float(table.scale[i]))
            direction = (1 - a_prev - sigma**2) ** 0.5 * eps
            x = a_prev**0.5 * float(table.scale_prev[i]) * x0 + direction + sigma * noise().to(x)
            if on_step is not None:
                on_step(DDIMStep(len(table) - i, len(table), timestep, x0, x))
        return x
