"""The DDIM sampler as VideoCrafter and DynamiCrafter publish it. Axes: b batch, c channels, t frames, h w latents."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from perturb.diffusion.conditioning import Conditioning
from perturb.diffusion.guidance import Guidance, guided
from perturb.diffusion.noise import draw
from perturb.diffusion.prediction import Prediction, clean_and_noise
from perturb.diffusion.protocols import Defaults, Denoise, SamplerStep, Work
from perturb.diffusion.schedule import DDIMRow, DDIMTable, NoiseSchedule
from perturb.diffusion.settings import check_number, check_whole, needs
from perturb.diffusion.spacing import Spacing


@dataclass(frozen=True)
class DDIMSampler:
    """DDIM with classifier-free guidance; a setting left None comes from the model (``resolved``).

    From the largest τ_i down, with a_i, a'_i, s_i, s'_i, σ_i of ``NoiseSchedule.ddim_table`` and z ~ N(0, 1):

        o = guided(x, τ_i)                                                            ``Guidance``
        x̂_0, ε̂ = clean_and_noise(o)           of a network that predicts ε: (x − √(1 − a_i) ε̂) / (√a_i s_i), o
        x ← √a'_i s'_i x̂_0 + √(1 − a'_i − σ_i²) ε̂ + σ_i z

    ``spacing``: which τ (``Spacing``). ``keep_scale``: the result keeps the latent scale s[τ_0], as
    DynamiCrafter's does.
    Source: Song et al. 2021 (arXiv 2010.02502), eq. 12; the latent scale s is VideoCrafter's.
    """

    steps: int | None = None
    guidance: float | None = None
    eta: float | None = None
    guidance_rescale: float = 0.0
    guidance_interval: Sequence[int] | None = None
    image_guidance: float | None = None
    spacing: Spacing = "uniform"
    keep_scale: bool = False

    def resolved(self, defaults: Defaults) -> DDIMSampler:
        """The same sampler with every None replaced by the model's default."""
        return dataclasses.replace(
            self,
            steps=defaults.steps if self.steps is None else self.steps,
            guidance=defaults.guidance if self.guidance is None else self.guidance,
            eta=defaults.eta if self.eta is None else self.eta,
        )

    def check(self, schedule: NoiseSchedule, frames: int | None = None) -> None:
        """Raise UserError for settings that are left open, are no numbers, or do not fit ``schedule``."""
        del frames  # any number of them
        needs(self, "steps", "guidance", "eta")
        check_whole("sampler.steps", self.steps)
        for name in ("guidance", "eta", "guidance_rescale"):
            check_number(f"sampler.{name}", getattr(self, name))
        self.how_guided()
        self.table(schedule)

    def table(self, schedule: NoiseSchedule) -> DDIMTable:
        """The coefficients of all steps."""
        steps, _, eta = needs(self, "steps", "guidance", "eta")
        return schedule.ddim_table(steps, eta, spacing=self.spacing, keep_scale=self.keep_scale)

    def work(self, frames: int) -> Work:
        """Every step is one batch of all sides."""
        (steps,), sides = needs(self, "steps"), self.how_guided().sides
        return Work(steps * sides, sides)

    def how_guided(self) -> Guidance:
        """The settings of guidance as one."""
        (scale,) = needs(self, "guidance")
        return Guidance.of(scale, self.guidance_rescale, self.guidance_interval, self.image_guidance)

    def __call__(  # noqa: PLR0917 - the order of the Sampler protocol
        self,
        denoise: Denoise,
        x_T: Tensor,
        cond: Conditioning,
        uncond: Conditioning | None,
        generators: Sequence[torch.Generator],
        schedule: NoiseSchedule,
        on_step: Callable[[SamplerStep], None] | None = None,
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
        on_step: Callable[[SamplerStep], None] | None = None,
    ) -> Tensor:
        """``__call__`` with the source of the noise given: ``noise()`` returns z (b c t h w) of the next step."""
        table, total = self.table(schedule), len(self.table(schedule))
        # Arithmetic in float32 whatever the network computes in: bfloat16 would lose the small steps.
        x = x_T.float()
        for number, i in enumerate(reversed(range(total))):
            timestep = int(table.timesteps[i])
            t = torch.full((len(x),), timestep, device=x.device)
            output = self.predict(number, denoise, x, t, cond, uncond).float()
            x0, x = ddim_step(output, x, table.row(i), noise().to(x), schedule.prediction)
            if on_step is not None:
                on_step(SamplerStep(number + 1, total, timestep, x0, x))
        return x

    def predict(  # noqa: PLR0917 - the order of `guided`
        self, number: int, denoise: Denoise, x: Tensor, t: Tensor, cond: Conditioning, uncond: Conditioning | None
    ) -> Tensor:
        """The guided prediction of step ``number`` (0: the noisiest); b c t h w."""
        del number  # for samplers whose prediction changes on the way
        return guided(denoise, x, t, cond, uncond, self.how_guided())


def ddim_step(output: Tensor, x: Tensor, row: DDIMRow, noise: Tensor, prediction: Prediction) -> tuple[Tensor, Tensor]:
    """x̂_0 and the next x of one step (formula: ``DDIMSampler``); output, x, noise: b c t h w."""
    x0, eps = clean_and_noise(output, x, row.a, row.scale, prediction)
    rest = 1 - row.a_prev - row.sigma**2
    # Where σ² = 1 − a' (η = 1 from ᾱ = 0) rounding may leave −6e-8, whose root would be NaN.
    rest = rest.clamp(min=0) if isinstance(rest, Tensor) else max(rest, 0.0)
    x = row.a_prev**0.5 * row.scale_prev * x0 + rest**0.5 * eps + row.sigma * noise
    return x0, x
