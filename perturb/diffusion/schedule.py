"""The noise schedule of VideoCrafter. Axes: b batch, c channels, t frames, h w latents."""

from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor

from perturb.diffusion.prediction import Prediction
from perturb.diffusion.spacing import Spacing, check_spacing, linspace, log_snr, trailing
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

    def row(self, index: int) -> "DDIMRow":
        """The coefficients of one step, as numbers."""
        values = (self.alphas, self.alphas_prev, self.sigmas, self.scale, self.scale_prev)
        return DDIMRow(*(float(table[index]) for table in values))

    def rows(self, indices: Tensor, device: torch.device | str = "cpu") -> "DDIMRow":
        """The coefficients of steps that differ from frame to frame, float32 b 1 t 1 1; indices: b t."""
        values = (self.alphas, self.alphas_prev, self.sigmas, self.scale, self.scale_prev)
        return DDIMRow(*(rearrange(table[indices].float().to(device), "b t -> b 1 t 1 1") for table in values))


@dataclass(frozen=True)
class DDIMRow:
    """a, a', σ, s and s' of one DDIM step: numbers, or tensors that broadcast to b c t h w."""

    a: float | Tensor
    a_prev: float | Tensor
    sigma: float | Tensor
    scale: float | Tensor
    scale_prev: float | Tensor


class NoiseSchedule:
    """x_t = √ᾱ_t s_t x_0 + √(1 − ᾱ_t) ε with β = linspace(√β_start, √β_end)² and ᾱ = Π(1 − β).

    ``beta_schedule`` linear: β = linspace(β_start, β_end), as AnimateDiff has it (arXiv 2307.04725 and its code).

    The latent scale s_t falls linearly from 1 to ``latent_scale`` over the first 400 timesteps and then stays; None
    means s_t = 1. Computed in float64, kept as float32. Source: VideoCrafter1 (arXiv 2310.19512) and its code.

    ``zero_terminal_snr`` rescales √ᾱ so that its last value is 0 and its first is kept (Lin et al. 2023, arXiv
    2305.08891, algorithm 1): x_{T−1} is then pure noise, as it is when sampling begins. A network that predicts v
    (``prediction``; v = √ᾱ_t ε − √(1 − ᾱ_t) s_t x_0) can begin there. For one that predicts ε, at ᾱ = 0 the best
    prediction is x itself, whatever x_0 was, so ε̂ says nothing about x_0 there and x̂_0 would be 0/0. Its sampler must
    begin below the last timestep, as the published spacing does (951 for 20 steps, 981 for 50), and what is gained is
    only that ᾱ where it begins is nearer to 0. Asking for the last timestep is a UserError.
    """

    def __init__(
        self,
        *,
        timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        latent_scale: float | None,
        zero_terminal_snr: bool = False,
        prediction: Prediction = "epsilon",
        beta_schedule: Literal["scaled_linear", "linear"] = "scaled_linear",
    ) -> None:
        self.timesteps = timesteps
        self.latent_scale = latent_scale
        self.zero_terminal_snr = zero_terminal_snr
        self.prediction: Prediction = prediction
        if beta_schedule == "linear":
            self.betas_exact = torch.linspace(beta_start, beta_end, timesteps, dtype=torch.float64)
        else:
            self.betas_exact = torch.linspace(beta_start**0.5, beta_end**0.5, timesteps, dtype=torch.float64).square()
        self.alphas_cumprod_exact = (1 - self.betas_exact).cumprod(0)
        if zero_terminal_snr:
            self.alphas_cumprod_exact = with_zero_terminal_snr(self.alphas_cumprod_exact)
            self.betas_exact = 1 - self.alphas_cumprod_exact / self.alphas_cumprod_prev_exact
        self.betas = self.betas_exact.float()
        self.alphas_cumprod = self.alphas_cumprod_exact.float()
        self.latent_scale_table = latent_scale_table(latent_scale, timesteps)
        self._signal = self.alphas_cumprod_exact.sqrt().float()
        self._noise = (1 - self.alphas_cumprod_exact).sqrt().float()

    def to(self, device: torch.device | str) -> "NoiseSchedule":
        """Moves the per-timestep tables, so that indexing them by a t on ``device`` needs no transfer."""
        for name in ("betas", "alphas_cumprod", "latent_scale_table", "_signal", "_noise"):
            setattr(self, name, getattr(self, name).to(device))
        return self

    def q_sample(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t = √ᾱ_t s_t x_0 + √(1 − ᾱ_t) ε. x0, noise: b c t h w; t: b int64."""
        return _column(self._signal, t) * x0 * _column(self.latent_scale_table, t) + _column(self._noise, t) * noise

    def target(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """What the network is to predict: ε, or v = √ᾱ_t ε − √(1 − ᾱ_t) s_t x_0. x0, noise: b c t h w; t: b int64."""
        if self.prediction == "epsilon":
            return noise
        return _column(self._signal, t) * noise - _column(self._noise, t) * x0 * _column(self.latent_scale_table, t)

    def ddim_table(
        self, steps: int, eta: float, *, spacing: Spacing = "uniform", keep_scale: bool = False
    ) -> DDIMTable:
        """The DDIM timesteps τ (``sampling_timesteps``) and their coefficients, as published.

            σ_i = η √((1 − a'_i)/(1 − a_i) · (1 − a_i/a'_i)),   a_i = ᾱ[τ_i],   a'_0 = ᾱ[0],   a'_i = ᾱ[τ_{i−1}]

        s'_0 = s[0] = 1, so that the result has no latent scale; ``keep_scale``: s'_0 = s[τ_0], as DynamiCrafter has it.
        Raises UserError for steps that do not fit, and for η outside [0, 1].
        Source: Song et al. 2021 (arXiv 2010.02502), eq. 12 and 16; VideoCrafter's sampler.
        """
        if not 0 <= eta <= 1:
            raise UserError(f"eta must lie in [0, 1] (0 is deterministic DDIM, 1 is DDPM-like); given {eta:g}")
        tau = torch.tensor(self.sampling_timesteps(steps, spacing))
        # The published sampler computes from the float32 ᾱ, not from the exact one.
        cumulative, scale = self.alphas_cumprod.cpu().double(), self.latent_scale_table.cpu().double()
        previous = torch.cat([torch.zeros_like(tau[:1]), tau[:-1]])
        a, a_prev = cumulative[tau], cumulative[previous]
        sigmas = eta * ((1 - a_prev) / (1 - a) * (1 - a / a_prev)).sqrt()
        scale_prev = scale[torch.cat([tau[:1], tau[:-1]])] if keep_scale else scale[previous]
        return DDIMTable(tau, a, a_prev, sigmas, scale[tau], scale_prev)

    def sampling_timesteps(self, steps: int, spacing: Spacing = "uniform") -> list[int]:
        """τ ascending: ``ddim_timesteps`` if uniform, else of ``perturb.diffusion.spacing``; UserError if unusable."""
        check_spacing(spacing)
        if spacing == "uniform":
            return self.ddim_timesteps(steps)
        if spacing == "log_snr":
            if self.zero_terminal_snr:
                raise UserError("sampler.spacing=log_snr is not for zero_terminal_snr, whose log-SNR begins at −∞")
            return log_snr((self._signal * self.latent_scale_table / self._noise).cpu().numpy(), steps)
        chosen = (trailing if spacing == "trailing" else linspace)(self.timesteps, steps)
        if self._ends_early and chosen[-1] == self.timesteps - 1:
            raise UserError(
                f"sampler.spacing={spacing} visits timestep {chosen[-1]}, where ᾱ is 0 (zero_terminal_snr) and the "
                "noise says nothing about x_0; allowed for a network that predicts ε: uniform"
            )
        return chosen

    @property
    def _ends_early(self) -> bool:
        """Whether the last timestep is of no use: ᾱ = 0 there, and the network predicts ε."""
        return self.zero_terminal_snr and self.prediction == "epsilon"

    def ddim_timesteps(self, steps: int) -> list[int]:
        """τ = range(0, T, T // steps) + 1; UserError (naming the nearest usable steps) when it holds a useless one.

        Useless: T, which does not exist, and for ε with ``zero_terminal_snr`` T − 1, where ᾱ = 0. A published quirk is
        kept: when steps does not divide T there are more than ``steps`` of them (7 gives 8, 30 gives 31).
        """
        if self._usable(steps):
            return list(range(1, self.timesteps + 1, self.timesteps // steps))
        below = next((s for s in range(min(steps, self.timesteps) - 1, 0, -1) if self._usable(s)), None)
        above = next((s for s in range(max(steps, 0) + 1, self.timesteps + 1) if self._usable(s)), None)
        nearest = " or ".join(str(s) for s in (below, above) if s is not None) or "none"
        if self._largest(steps) == self.timesteps - 1:
            reason = f"{self.timesteps - 1}, where ᾱ is 0 (zero_terminal_snr) and the noise says nothing about x_0"
        else:
            reason = f"{self.timesteps}, which does not exist"
        raise UserError(
            f"{steps} sampling steps do not fit a schedule of {self.timesteps} timesteps: their spacing would select "
            f"timestep {reason}; the nearest usable numbers of steps: {nearest}"
        )

    def _largest(self, steps: int) -> int:
        """The largest τ: the largest multiple of the spacing below T, plus 1. T for steps without a spacing."""
        spacing = self.timesteps // steps if 1 <= steps <= self.timesteps else 1
        return (self.timesteps - 1) // spacing * spacing + 1

    def _usable(self, steps: int) -> bool:
        return self._largest(steps) < self.timesteps - self._ends_early

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


def with_zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    """ᾱ of the same length with √ᾱ'_t = (√ᾱ_t − √ᾱ_{T−1}) · √ᾱ_0 / (√ᾱ_0 − √ᾱ_{T−1}): first kept, last exactly 0.

    Source: Lin et al. 2023 (arXiv 2305.08891), algorithm 1.
    """
    root = alphas_cumprod.sqrt()
    first, last = root[0], root[-1]
    return ((root - last) * (first / (first - last))).square()


def _column(table: Tensor, t: Tensor) -> Tensor:
    return rearrange(table[t.to(table.device)], "b -> b 1 1 1 1").to(t.device)
