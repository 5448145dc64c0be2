"""The noise schedule of VideoCrafter. Axes: b batch, c channels, t frames, h w latents."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from perturb.errors import UserError

SCALE_STEPS = 400  # the latent scale falls linearly over the first 400 timesteps, then stays


@dataclass(frozen=True)
class DDIMTable:
    """The numbers of a DDIM run, in ascending time (a sampler walks them backwards); float64 on the CPU.

    timesteps τ_i (int64), alphas ᾱ[τ_i], alphas_prev (ᾱ[0], then ᾱ[τ_{i−1}]), sigmas σ_i, scale s[τ_i], scale_prev.
    """

    timesteps: Tensor
    alphas: Tensor
    alphas_prev: Tensor
    sigmas: Tensor
    scale: Tensor
    scale_prev: Tensor

    def __len__(self) -> int:
        return len(self.timesteps)


class NoiseSchedule:
    """x_t = √ᾱ_t s_t x_0 + √(1 − ᾱ_t) ε with β = linspace(√β_start, √β_end)² and ᾱ = Π(1 − β).

    The latent scale s_t falls linearly from 1 to ``latent_scale`` over the first 400 timesteps and then stays; None
    means s_t = 1. Computed in float64, kept as float32. Source: VideoCrafter1 (arXiv 2310.19512) and its code.
    """

    def __init__(
        self,
        *,
        timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        latent_scale: float | None,
    ) -> None:
        self.timesteps = timesteps
        self.latent_scale = latent_scale
        root = torch.linspace(beta_start**0.5, beta_end**0.5, timesteps, dtype=torch.float64)
        self.betas_exact = root.square()
        self.alphas_cumprod_exact = (1 - self.betas_exact).cumprod(0)
        self.betas = self.betas_exact.float()
        self.alphas_cumprod = self.alphas_cumprod_exact.float()
        self.latent_scale_table = latent_scale_table(latent_scale, timesteps)
        self._signal = self.alphas_cumprod_exact.sqrt().float()
        self._noise = (1 - self.alphas_cumprod_exact).sqrt().float()

    def to(self, device: torch.device | str) -> NoiseSchedule:
        """Moves the per-timestep tables, so that indexing them by a t on ``device`` needs no transfer."""
        for name in ("betas", "alphas_cumprod", "latent_scale_table", "_signal", "_noise"):
            setattr(self, name, getattr(self, name).to(device))
        return self

    def q_sample(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t = √ᾱ_t s_t x_0 + √(1 − ᾱ_t) ε. x0, noise: b c t h w; t: b int64."""
        return _column(self._signal, t) * x0 * _column(self.latent_scale_table, t) + _column(self._noise, t) * noise

    def predict_x0(self, x: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """x̂_0 = (x_t − √(1 − ᾱ_t) ε̂) / (√ᾱ_t s_t), the inverse of ``q_sample``. x, eps: b c t h w; t: b int64."""
        clean = (x - _column(self._noise, t) * eps) / _column(self._signal, t)
        return clean / _column(self.latent_scale_table, t)

    def ddim_table(self, steps: int, eta: float) -> DDIMTable:
        """The DDIM timesteps τ = range(0, T, T // steps) + 1 and their coefficients, as published.

            σ_i = η √((1 − a'_i)/(1 − a_i) · (1 − a_i/a'_i)),   a_i = ᾱ[τ_i],   a'_0 = ᾱ[0],   a'_i = ᾱ[τ_{i−1}]

        A published quirk is kept: when steps does not divide T there are more than ``steps`` of them (7 gives 8, 30
        gives 31). Raises UserError for steps whose last τ falls outside the schedule, and for η outside [0, 1].
        Source: Song et al. 2021 (arXiv 2010.02502), eq. 12 and 16; VideoCrafter's sampler.
        """
        if not 0 <= eta <= 1:
            raise UserError(f"eta must lie in [0, 1] (0 is deterministic DDIM, 1 is DDPM-like); given {eta:g}")
        tau = torch.tensor(self.ddim_timesteps(steps))
        # The published sampler computes from the float32 ᾱ, not from the exact one.
        cumulative, scale = self.alphas_cumprod.cpu().double(), self.latent_scale_table.cpu().double()
        previous = torch.cat([torch.zeros_like(tau[:1]), tau[:-1]])
        a, a_prev = cumulative[tau], cumulative[previous]
        sigmas = eta * ((1 - a_prev) / (1 - a) * (1 - a / a_prev)).sqrt()
        return DDIMTable(tau, a, a_prev, sigmas, scale[tau], scale[previous])

    def ddim_timesteps(self, steps: int) -> list[int]:
        """τ = range(0, T, T // steps) + 1; UserError (naming the nearest usable steps) when that leaves it."""
        if self._usable(steps):
            return list(range(1, self.timesteps + 1, self.timesteps // steps))
        below = next((s for s in range(min(steps, self.timesteps) - 1, 0, -1) if self._usable(s)), None)
        above = next((s for s in range(max(steps, 0) + 1, self.timesteps + 1) if self._usable(s)), None)
        nearest = " or ".join(str(s) for s in (below, above) if s is not None)
        raise UserError(
            f"{steps} sampling steps do not fit a schedule of {self.timesteps} timesteps: their spacing would select "
            f"timestep {self.timesteps}, which does not exist; the nearest usable numbers of steps: {nearest}"
        )

    def _usable(self, steps: int) -> bool:
        spacing = self.timesteps // steps if 1 <= steps <= self.timesteps else 0
        # The largest τ is the largest multiple of the spacing below T, plus 1; it must still be a timestep.
        return spacing > 0 and (self.timesteps - 1) // spacing * spacing + 1 < self.timesteps

    def posterior(self) -> dict[str, Tensor]:
        """q(x_{t−1} | x_t, x_0) without latent scale: variance, clipped log variance, the weights of x_0 and x_t.

            variance_t = β_t (1 − ᾱ_{t−1})/(1 − ᾱ_t),   weight_x0 = β_t √ᾱ_{t−1}/(1 − ᾱ_t),
            weight_xt = (1 − ᾱ_{t−1}) √(1 − β_t)/(1 − ᾱ_t)

        Float64 of length T; DDIM does not need them, official checkpoints carry them.
        Source: Ho et al. 2020 (arXiv 2006.11239), eq. 7.
        """
        beta, cumulative = self.betas_exact, self.alphas_cumprod_exact
        previous = self.alphas_cumprod_prev_exact
        variance = beta * (1 - previous) / (1 - cumulative)
        return {
            "variance": variance,
            "log_variance": variance.clamp(min=1e-20).log(),
            "weight_x0": beta * previous.sqrt() / (1 - cumulative),
            "weight_xt": (1 - previous) * (1 - beta).sqrt() / (1 - cumulative),
        }

    @property
    def alphas_cumprod_prev_exact(self) -> Tensor:
        """ᾱ_{t−1} with ᾱ_{−1} = 1, float64."""
        return torch.cat([torch.ones(1, dtype=torch.float64), self.alphas_cumprod_exact[:-1]])


def latent_scale_table(latent_scale: float | None, length: int) -> Tensor:
    """s_t for t < ``length``: linspace(1, latent_scale, 400), then constant; ones when there is no latent scale."""
    if latent_scale is None:
        return torch.ones(length)
    falling = torch.linspace(1.0, latent_scale, SCALE_STEPS, dtype=torch.float64)
    constant = torch.full((max(length - SCALE_STEPS, 0),), latent_scale, dtype=torch.float64)
    return torch.cat([falling, constant])[:length].float()


def _column(table: Tensor, t: Tensor) -> Tensor:
    return rearrange(table[t.to(table.device)], "b -> b 1 1 1 1").to(t.device)
