"""What a network is fitted to, from the configuration of its scheduler. One value per noise level."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from perturb.errors import UserError

EDM_LOG_SIGMA = (-1.2, 1.2)
"""Mean and standard deviation of ln σ in training: Karras et al. 2022 (arXiv 2206.00364), table 1."""
SVD_LOG_SIGMA = (0.7, 1.6)
"""The same for Stable Video Diffusion, whose scheduler does not say it: what the public trainings of it draw from."""


@dataclass(frozen=True)
class Objective:
    """The network sees signal · x_0 + noise · ε, is told ``told``, and is to say say_noise · ε − say_clean · x_0.

    One value for each of the T noise levels of training, float32; training draws levels uniformly.
    """

    name: str
    signal: Tensor
    noise: Tensor
    say_noise: Tensor
    say_clean: Tensor
    told: Tensor


def objective(scheduler: Any) -> Objective:
    """That of a scheduler of diffusers. Raises UserError for one that is not understood."""
    config: Mapping[str, Any] = scheduler.config
    kind, levels = config.get("prediction_type", "epsilon"), config["num_train_timesteps"]
    quantiles = (torch.arange(levels, dtype=torch.float64) + 0.5) / levels
    if type(scheduler).__name__.startswith("FlowMatch") or kind == "flow_prediction":
        if config.get("invert_sigmas"):
            raise UserError(f"{type(scheduler).__name__} with invert_sigmas, time backwards, is not understood")
        shift = 1.0 if config.get("use_dynamic_shifting") else config.get("shift", config.get("flow_shift", 1.0))
        u = torch.arange(1, levels + 1, dtype=torch.float64) / levels
        return flow(shift * u / (1 + (shift - 1) * u), levels)
    if "sigma_data" in config and kind in ("epsilon", "v_prediction"):
        sigma = log_normal(quantiles, EDM_LOG_SIGMA, config["sigma_min"], config["sigma_max"])
        return edm(sigma, config["sigma_data"], 1 if kind == "epsilon" else -1)
    if config.get("timestep_type") == "continuous" and kind == "v_prediction":
        sigma = log_normal(quantiles, SVD_LOG_SIGMA, config["sigma_min"], config["sigma_max"])
        return edm(sigma, 1.0, -1)
    if hasattr(scheduler, "alphas_cumprod") and kind in ("epsilon", "v_prediction", "sample"):
        return variance_preserving(scheduler.alphas_cumprod.double(), kind)
    raise UserError(
        f"what {type(scheduler).__name__} with prediction_type={kind} trains is not known here; allowed: schedulers "
        "with ᾱ (epsilon, v_prediction, sample), EDM's (epsilon, v_prediction) and flow matching"
    )


def variance_preserving(alphas: Tensor, kind: str) -> Objective:
    """x = √ᾱ x_0 + √(1 − ᾱ) ε; told t; says ε, v = √ᾱ ε − √(1 − ᾱ) x_0, or x_0 (``sample``). alphas: ᾱ of all t.

    Source: Ho et al. 2020 (arXiv 2006.11239); v: Salimans & Ho 2022 (arXiv 2202.00512).
    """
    signal, noise = alphas.sqrt(), (1 - alphas).sqrt()
    one, zero = torch.ones_like(alphas), torch.zeros_like(alphas)
    says = {"epsilon": (one, zero), "v_prediction": (signal, noise), "sample": (zero, -one)}[kind]
    return _objective(kind, signal, noise, says, torch.arange(len(alphas)))


def edm(sigma: Tensor, data: float, sign: int) -> Objective:
    """x = c_in (x_0 + σ ε); told ln σ / 4; says F with x_0 = c_skip (x_0 + σ ε) + c_out F. σ_d: ``data``.

        c_in = 1/√(σ² + σ_d²),   c_skip = σ_d² c_in²,   c_out = ± σ σ_d c_in   (``sign``)
        F = ∓ σ_d c_in ε ± σ c_in/σ_d x_0

    Its weight λ(σ) = 1/c_out² makes the loss on x_0 the plain square of F. With σ_d = 1 and − F is v at
    ᾱ = 1/(1 + σ²): Stable Video Diffusion. Source: Karras et al. 2022 (arXiv 2206.00364), eq. 7–8 and table 1.
    """
    c_in = (sigma**2 + data**2).rsqrt()
    says = -sign * data * c_in, -sign * sigma * c_in / data
    return _objective("edm", c_in, sigma * c_in, says, sigma.log() / 4)


def flow(sigma: Tensor, levels: int) -> Objective:
    """x = (1 − σ) x_0 + σ ε; told T σ; says dx/dσ = ε − x_0. Source: Lipman et al. 2022 (arXiv 2210.02747), eq. 23."""
    one = torch.ones_like(sigma)
    return _objective("flow", 1 - sigma, sigma, (one, one), levels * sigma)


def log_normal(quantiles: Tensor, log_sigma: tuple[float, float], low: float, high: float) -> Tensor:
    """σ at ``quantiles`` of ln σ ~ N(mean, std²), held within [low, high]: uniform quantiles draw from it."""
    mean, std = log_sigma
    return (mean + std * torch.special.ndtri(quantiles)).exp().clamp(low, high)


def _objective(name: str, signal: Tensor, noise: Tensor, says: tuple[Tensor, Tensor], told: Tensor) -> Objective:
    return Objective(name, signal.float(), noise.float(), says[0].float(), says[1].float(), told.float())
