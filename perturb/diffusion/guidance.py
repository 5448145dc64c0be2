"""Classifier-free guidance. Axes: b batch, c channels, t frames, h w latents."""

from __future__ import annotations

import torch
from torch import Tensor

from perturb.diffusion.conditioning import Conditioning
from perturb.diffusion.protocols import Denoise
from perturb.errors import UserError


def guided(  # noqa: PLR0917 - the order of the formula
    denoise: Denoise, x: Tensor, t: Tensor, cond: Conditioning, uncond: Conditioning | None, scale: float
) -> Tensor:
    """ε̂ = ε_u + g (ε_c − ε_u), both predictions from one forward of twice the batch; g = 1 is one forward, ε̂ = ε_c.

    x: b c t h w, t: b int64, result like x. Source: Ho & Salimans 2022 (arXiv 2207.12598), eq. 6, with g = 1 + w.
    Raises UserError when g ≠ 1 and there is no unconditional conditioning.
    """
    if scale == 1:
        return denoise(x, t, cond)
    if uncond is None:
        raise UserError(f"guidance {scale:g} needs the unconditional side; pass uncond, or set guidance to 1")
    both = denoise(torch.cat([x, x]), torch.cat([t, t]), Conditioning.concat([cond, uncond]))
    eps_cond, eps_uncond = both.chunk(2)
    return eps_uncond + scale * (eps_cond - eps_uncond)
