"""Randomness as an argument: one generator per sample, so that a clip does not depend on its batch.

Axes: b batch, c channels, t frames, h w latents.
"""

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from perturb.errors import UserError


def sample_generator(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded by a stable hash of ``parts`` (the same on every machine and in every process).

    >>> sample_generator("x_T", "p000", 1).initial_seed() == sample_generator("x_T", "p000", 1).initial_seed()
    True
    >>> sample_generator("p0", 1).initial_seed() == sample_generator("p", 1).initial_seed()
    False
    """
    # repr keeps 1 and "1" apart, and quotes keep ("ab", "c") and ("a", "bc") apart.
    digest = hashlib.sha256(repr(tuple(parts)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def draw(
    shape: Sequence[int],
    generators: Sequence[torch.Generator],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Standard normal noise ``b *shape``, sample i from generator i.

    Drawn on the CPU in float32 and then moved, so that a clip has the same noise on every device.
    """
    rows = [torch.randn(*shape, generator=generator) for generator in generators]
    return torch.stack(rows).to(device, dtype)


def offset(noise: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """ε + strength · n with one n ~ N(0, 1) per sample and channel: noise whose mean over a clip is noisy too.

    noise: b c t h w, result like it; n is drawn on the CPU and also at strength 0, which gives ε back exactly, so that
    the strength does not shift the random stream. A network trained on it learns to change the overall brightness of a
    clip. Raises UserError unless ``strength`` is a finite number from 0. Source: Guttenberg 2023, "Diffusion with
    offset noise".
    """
    if not (math.isfinite(strength) and strength >= 0):
        raise UserError(f"the strength of the offset noise is {strength!r}; allowed: a finite number from 0 (0: none)")
    shift = torch.randn(*noise.shape[:2], 1, 1, 1, generator=generator)
    return noise + strength * shift.to(noise.device, noise.dtype)
