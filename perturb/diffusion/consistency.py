"""T2V-Turbo's consistency sampler: a few steps, no guidance. Axes: b batch, c channels, t frames, h w latents."""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from perturb.diffusion.conditioning import Conditioning
from perturb.diffusion.prediction import clean_and_noise
from perturb.diffusion.protocols import Defaults, SamplerStep, Work
from perturb.diffusion.sampler import Given, OneCall
from perturb.diffusion.schedule import NoiseSchedule
from perturb.diffusion.settings import check_number, check_whole
from perturb.diffusion.spacing import consistency
from perturb.errors import UserError

DATA_DEVIATION = 0.5  # σ_data of the boundary condition (Song et al. 2023, arXiv 2303.01469, appendix C)
TIME_SCALE = 10.0  # of T2V-Turbo's code: t counts from 0 to 999 there, so that c_out ≈ 1 at every t that is visited


@dataclass(frozen=True)
class ConsistencySampler(OneCall):
    """Jump to x̂_0, add noise of the next timestep, jump again; from the largest τ_i of `spacing.consistency` down:

        d = c_out(τ_i) x̂_0 + c_skip(τ_i) x,   x̂_0 = (x − √(1 − ᾱ) ε̂)/√ᾱ
        x ← √ᾱ' d + √(1 − ᾱ') z                at the next timestep; the result is the last d

    The guidance scale w (and in version 2 the motion scale, which is 0 below timestep T (1 − ``motion_share``)) is an
    input of the network: one forward per step. No latent scale, as published, although the teacher has one. The last
    step draws noise too, unless it is the only one.
    Source: T2V-Turbo (arXiv 2405.18750) algorithm 2, version 2 (arXiv 2410.05677), and their code.
    """

    steps: int = 4
    origin_steps: int = 200
    guidance: float = 7.5
    motion: float | None = None
    motion_share: float = 0.3

    def resolved(self, defaults: Defaults) -> "ConsistencySampler":
        """The sampler itself: the defaults of a model are those of a sampler with many steps."""
        del defaults
        return self

    def check(self, schedule: NoiseSchedule, frames: int | None = None) -> None:
        """Raise UserError for settings that are no numbers or do not fit ``schedule``."""
        del frames  # any number of them
        check_whole("sampler.steps", self.steps)
        check_whole("sampler.origin_steps", self.origin_steps)
        for name in ("guidance", "motion_share", *(() if self.motion is None else ("motion",))):
            check_number(f"sampler.{name}", getattr(self, name))
        if not 0 <= self.motion_share <= 1:
            raise UserError(f"sampler.motion_share is {self.motion_share:g}; allowed: from 0 to 1")
        if schedule.zero_terminal_snr:
            raise UserError("the consistency sampler begins at the last timestep, where ᾱ is 0: use another sampler")
        consistency(schedule.timesteps, self.steps, self.origin_steps)

    def work(self, frames: int) -> Work:
        """One side at every step."""
        return Work(self.steps, 1)

    @torch.no_grad()
    def sample(self, x_T: Tensor, given: Given) -> Tensor:
        """x_0 from x_T, both b c t h w; the unconditional side is not used."""
        schedule = given.schedule
        descending = consistency(schedule.timesteps, self.steps, self.origin_steps)[::-1]
        x = clean = x_T.float()
        for number, t in enumerate(descending):
            output = given.denoise(
                x, torch.full((len(x),), t, device=x.device), self._told(given.cond, t, schedule)
            ).float()
            clean = boundary(output, x, t, schedule)
            if len(descending) > 1:
                a_next = float(schedule.alphas_cumprod[descending[min(number + 1, len(descending) - 1)]])
                x = a_next**0.5 * clean + (1 - a_next) ** 0.5 * given.noise(x).to(x)
            else:
                x = clean
            given.tell(SamplerStep(number + 1, len(descending), t, clean, x))
        return clean

    def _told(self, cond: Conditioning, t: int, schedule: NoiseSchedule) -> Conditioning:
        """``cond`` with the scales as inputs."""
        shape, device, motion = cond.fps.shape, cond.fps.device, None
        if self.motion is not None:
            moving = t >= schedule.timesteps * (1 - self.motion_share)
            motion = torch.full(shape, self.motion if moving else 0.0, device=device)
        return dataclasses.replace(cond, guidance=torch.full(shape, float(self.guidance), device=device), motion=motion)


def boundary_scalings(t: float) -> tuple[float, float]:
    """c_skip = σ²/((10t)² + σ²) and c_out = 10t/√((10t)² + σ²) with σ = 0.5: at t = 0 the output is x itself."""
    scaled, variance = TIME_SCALE * t, DATA_DEVIATION**2
    return variance / (scaled**2 + variance), scaled / (scaled**2 + variance) ** 0.5


def boundary(output: Tensor, x: Tensor, t: int, schedule: NoiseSchedule) -> Tensor:
    """d = c_out x̂_0 + c_skip x, what a consistency model says x_0 is; b c t h w."""
    skip, out = boundary_scalings(t)
    x0, _ = clean_and_noise(output, x, float(schedule.alphas_cumprod[t]), 1.0, schedule.prediction)
    return out * x0 + skip * x


def teacher_step(x0: Tensor, eps: Tensor, index: Tensor, schedule: NoiseSchedule, steps: int = 50) -> Tensor:
    """√ᾱ' x̂_0 + √(1 − ᾱ') ε̂: the teacher's DDIM step from number ``index`` (b int64, ascending) of ``steps``.

    ᾱ' is that of the timestep before, and ᾱ_0 before the first. x0, eps: b c t h w. Source: T2V-Turbo's training code.
    """
    grid = torch.tensor([0, *consistency(schedule.timesteps, steps, steps)])
    a = schedule.alphas_cumprod.to(x0.device)[grid.to(x0.device)[index]].reshape(-1, 1, 1, 1, 1)
    return a.sqrt() * x0 + (1 - a).sqrt() * eps
