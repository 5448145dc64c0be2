"""Randomness as an argument: one generator per sample, so that a clip does not depend on its batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


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
