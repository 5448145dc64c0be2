"""The DDIM sampler as VideoCrafter and DynamiCrafter publish it. Axes: b batch, c channels, t frames, h w latents."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from perturb.diffusion.prediction import Prediction, clean_and_noise
from perturb.diffusion.sampler import Given, GuidedSampler
from perturb.diffusion.schedule import DDIMRow, DDIMTable, NoiseSchedule
from perturb.diffusion.settings import check_number, needs


@dataclass(frozen=True)
class DDIMSampler(GuidedSampler):
    """DDIM with classifier-free guidance; a setting left None comes from the model (``resolved``).

    From the largest τ_i down, with a_i, a'_i, s_i, s'_i, σ_i of ``NoiseSchedule.ddim_table`` and z ~ N(0, 1):

        o = guided(x, τ_i)                                                            ``Guidance``
        x̂_0, ε̂ = clean_and_noise(o)           of a network that predicts ε: (x − √(1 − a_i) ε̂) / (√a_i s_i), o
        x ← √a'_i s'_i x̂_0 + √(1 − a'_i − σ_i²) ε̂ + σ_i z

    ``keep_scale``: the result keeps the latent scale s[τ_0], as DynamiCrafter's does.
    Source: Song et al. 2021 (arXiv 2010.02502), eq. 12; the latent scale s is VideoCrafter's.
    """

    eta: float | None = None
    keep_scale: bool = False

    def check(self, schedule: NoiseSchedule, frames: int | None = None) -> None:
        """Raise UserError for settings that are left open, are no numbers, or do not fit ``schedule``."""
        if self.eta is not None:
            check_number("sampler.eta", self.eta)
        super().check(schedule, frames)

    def table(self, schedule: NoiseSchedule) -> DDIMTable:
        """The coefficients of all steps."""
        return schedule.ddim_table(*needs(self, "steps", "eta"), spacing=self.spacing, keep_scale=self.keep_scale)

    def stepping(self, table: DDIMTable, given: Given) -> Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]:
        """DDIM's step; noise is drawn also when σ = 0, as published: eta does not shift the random stream."""
        return lambda i, output, x: ddim_step(output, x, table.row(i), given.noise(x).to(x), given.schedule.prediction)


def ddim_step(output: Tensor, x: Tensor, row: DDIMRow, noise: Tensor, prediction: Prediction) -> tuple[Tensor, Tensor]:
    """x̂_0 and the next x of one step (formula: ``DDIMSampler``); output, x, noise: b c t h w."""
    x0, eps = clean_and_noise(output, x, row.a, row.scale, prediction)
    rest = 1 - row.a_prev - row.sigma**2
    # Where σ² = 1 − a' (η = 1 from ᾱ = 0) rounding may leave −6e-8, whose root would be NaN.
    rest = rest.clamp(min=0) if isinstance(rest, Tensor) else max(rest, 0.0)
    x = row.a_prev**0.5 * row.scale_prev * x0 + rest**0.5 * eps + row.sigma * noise
    return x0, x
