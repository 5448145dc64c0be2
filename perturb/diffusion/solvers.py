"""DPM-Solver++(2M) and UniPC, by diffusers' schedulers. Axes: b batch, c channels, t frames, h w latents."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from perturb.diffusion.prediction import clean_and_noise
from perturb.diffusion.sampler import Given, GuidedSampler
from perturb.diffusion.schedule import DDIMTable, NoiseSchedule
from perturb.diffusion.settings import check_whole

SMALLEST = 2.0**-24  # stands for an ᾱ of 0, whose log-SNR is −∞; the value of diffusers
LONGER = 1.2  # chosen on the embedded model (nano_full, 5–20 steps, distance to 250 DDIM steps): 2 is worse, ∞ diverges


@dataclass(frozen=True)
class SolverSampler(GuidedSampler):
    """An exponential integrator of the probability-flow ODE of order ``order``, on DDIM's timesteps and ᾱ; no noise.

    The latent scale s makes x = √ᾱ s x_0 + √(1 − ᾱ) ε, which does not preserve variance. The solver works on

        y = x/√(ᾱ s² + 1 − ᾱ),   which does, with ᾱ_y = ᾱ s²/(ᾱ s² + 1 − ᾱ),

    and is told x̂_0: exact, whatever s is and whether the network predicts ε or v. Order 1 is DDIM with η = 0. A step
    of the log-SNR over ``LONGER`` times the one before it is taken with order 1: what came before says too little about
    it. The last steps of a spacing that is even in t are such ones; ``spacing=log_snr`` has none.
    """

    order: int = 2

    def check(self, schedule: NoiseSchedule, frames: int | None = None) -> None:
        """Raise UserError for settings that are left open, are no numbers, or do not fit ``schedule``."""
        super().check(schedule, frames)
        check_whole("sampler.order", self.order, high=3)

    def scheduler(self, steps: int) -> Any:
        """diffusers' scheduler, which is told x̂_0."""
        raise NotImplementedError

    def stepping(self, table: DDIMTable, given: Given) -> Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]:
        """One step of the solver, which remembers what it was told before; nothing but x_T is random."""
        scheduler, a = self.scheduler(len(table)), table.alphas
        size = (a * table.scale**2 + 1 - a).sqrt()  # √(ᾱ s² + 1 − ᾱ): x over y
        longer, prediction = _prepare(scheduler, table), given.schedule.prediction

        def step(i: int, output: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            row = table.row(i)
            x0, _ = clean_and_noise(output, x, row.a, row.scale, prediction)
            if longer[len(table) - 1 - i]:
                scheduler.lower_order_nums = 0  # as at the first step
            y = scheduler.step(x0, int(table.timesteps[i]), x / float(size[i]), return_dict=False)[0]
            return x0, y * float(size[i - 1]) if i else y  # at ᾱ[0] s = 1, and y = x

        return step


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
