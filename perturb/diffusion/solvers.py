"""DPM-Solver++(2M) and UniPC, by diffusers' schedulers. Axes: b batch, c channels, t frames, h w latents."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from perturb.diffusion.conditioning import Conditioning
from perturb.diffusion.guidance import Guidance, guided
from perturb.diffusion.prediction import clean_and_noise
from perturb.diffusion.protocols import Defaults, Denoise, SamplerStep, Work
from perturb.diffusion.schedule import DDIMTable, NoiseSchedule
from perturb.diffusion.settings import check_number, check_whole, needs
from perturb.diffusion.spacing import Spacing

SMALLEST = 2.0**-24  # stands for an ᾱ of 0, whose log-SNR is −∞; the value of diffusers
LONGER = 1.2  # chosen on the embedded model (nano_full, 5–20 steps, distance to 250 DDIM steps): 2 is worse, ∞ diverges


@dataclass(frozen=True)
class SolverSampler:
    """An exponential integrator of the probability-flow ODE of order ``order``, on DDIM's timesteps and ᾱ; no noise.

    The latent scale s makes x = √ᾱ s x_0 + √(1 − ᾱ) ε, which does not preserve variance. The solver works on

        y = x/√(ᾱ s² + 1 − ᾱ),   which does, with ᾱ_y = ᾱ s²/(ᾱ s² + 1 − ᾱ),

    and is told x̂_0: exact, whatever s is and whether the network predicts ε or v. Order 1 is DDIM with η = 0. A step
    of the log-SNR over ``LONGER`` times the one before it is taken with order 1: what came before says too little about
    it. The last steps of a spacing that is even in t are such ones; ``spacing=log_snr`` has none.
    A setting left None comes from the model (``resolved``).
    """

    steps: int | None = None
    guidance: float | None = None
    order: int = 2
    guidance_rescale: float = 0.0
    guidance_interval: Sequence[int] | None = None
    image_guidance: float | None = None
    spacing: Spacing = "uniform"

    def resolved(self, defaults: Defaults) -> Self:
        """The same sampler with every None replaced by the model's default."""
        return dataclasses.replace(
            self,
            steps=defaults.steps if self.steps is None else self.steps,
            guidance=defaults.guidance if self.guidance is None else self.guidance,
        )

    def check(self, schedule: NoiseSchedule, frames: int | None = None) -> None:
        """Raise UserError for settings that are left open, are no numbers, or do not fit ``schedule``."""
        del frames  # any number of them
        needs(self, "steps", "guidance")
        check_whole("sampler.steps", self.steps)
        check_whole("sampler.order", self.order, high=3)
        for name in ("guidance", "guidance_rescale"):
            check_number(f"sampler.{name}", getattr(self, name))
        self.how_guided()
        self.table(schedule)

    def table(self, schedule: NoiseSchedule) -> DDIMTable:
        """The timesteps of DDIM with their ᾱ and latent scale."""
        return schedule.ddim_table(*needs(self, "steps"), eta=0.0, spacing=self.spacing)

    def work(self, frames: int) -> Work:
        """Every step is one batch of all sides."""
        (steps,), sides = needs(self, "steps"), self.how_guided().sides
        return Work(steps * sides, sides)

    def how_guided(self) -> Guidance:
        """The settings of guidance as one."""
        (scale,) = needs(self, "guidance")
        return Guidance.of(scale, self.guidance_rescale, self.guidance_interval, self.image_guidance)

    def scheduler(self, steps: int) -> Any:
        """diffusers' scheduler, which is told x̂_0."""
        raise NotImplementedError

    @torch.no_grad()
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
        """x_0 from x_T, both b c t h w; ``generators`` are not used: nothing but x_T is random."""
        del generators
        table, guidance = self.table(schedule), self.how_guided()
        scheduler, total = self.scheduler(len(table)), len(table)
        size = _size(table.alphas, table.scale)
        longer = _prepare(scheduler, table)
        y = x_T.float() / float(size[-1])
        for number, i in enumerate(reversed(range(total))):
            timestep, row = int(table.timesteps[i]), table.row(i)
            x = y * float(size[i])
            t = torch.full((len(x),), timestep, device=x.device)
            output = guided(denoise, x, t, cond, uncond, guidance).float()
            x0, _ = clean_and_noise(output, x, row.a, row.scale, schedule.prediction)
            if longer[number]:
                scheduler.lower_order_nums = 0  # as at the first step
            y = scheduler.step(x0, timestep, y, return_dict=False)[0]
            if on_step is not None:
                left = float(size[i - 1]) if i else 1.0
                on_step(SamplerStep(number + 1, total, timestep, x0, y * left))
        return y  # at ᾱ[0], where s = 1: y = x


@dataclass(frozen=True)
class DPMSolverSampler(SolverSampler):
    """DPM-Solver++(2M): order 2 from the last two x̂_0 (midpoint). Source: Lu et al. 2022 (arXiv 2211.01095), alg. 2."""

    def scheduler(self, steps: int) -> Any:
        """diffusers' scheduler, which is told x̂_0."""
        from diffusers import DPMSolverMultistepScheduler

        del steps
        return DPMSolverMultistepScheduler(
            solver_order=self.order,
            prediction_type="sample",
            algorithm_type="dpmsolver++",
            final_sigmas_type="sigma_min",
        )


@dataclass(frozen=True)
class UniPCSampler(SolverSampler):
    """UniPC in B_2(h): a predictor of order ``order``, and (``corrector``) the correction of each x by the next x̂_0.

    The corrector costs no forward and raises the order by one: order 1 is DDIM only without it.
    Source: Zhao et al. 2023 (arXiv 2302.04867), algorithms 5 and 8.
    """

    corrector: bool = True

    def scheduler(self, steps: int) -> Any:
        """diffusers' scheduler, which is told x̂_0."""
        from diffusers import UniPCMultistepScheduler

        return UniPCMultistepScheduler(
            solver_order=self.order,
            prediction_type="sample",
            predict_x0=True,
            solver_type="bh2",
            final_sigmas_type="sigma_min",
            disable_corrector=[] if self.corrector else list(range(steps)),
        )


def _size(alphas: Tensor, scale: Tensor) -> Tensor:
    """√(ᾱ s² + 1 − ᾱ): x over y."""
    return (alphas * scale**2 + 1 - alphas).sqrt()


def _prepare(scheduler: Any, table: DDIMTable) -> list[bool]:
    """Put our timesteps in the place of the scheduler's own, with σ_y/α_y = √(1 − ᾱ)/(√ᾱ s) at each, and at time 0.

    Result: which steps are much longer than the one before.
    """
    scheduler.set_timesteps(len(table))
    a = torch.cat([table.alphas.flip(0), table.alphas_prev[:1]]).clamp(min=SMALLEST)
    scale = torch.cat([table.scale.flip(0), table.scale_prev[:1]])
    scheduler.timesteps = table.timesteps.flip(0)
    sigmas = (1 - a).sqrt() / (a.sqrt() * scale)
    scheduler.sigmas = sigmas.float()
    lengths = -sigmas.log().diff()
    return [False, *(lengths[1:] > LONGER * lengths[:-1]).tolist()]
