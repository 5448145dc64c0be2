"""Embeddings of the two scalars that condition the network: the timestep and the frame rate.

Axes: b batch (rows of any kind), d features.
"""

import math
from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn


def sinusoid(values: Tensor, width: int) -> Tensor:
    """Sinusoidal features of scalars: ``[cos(v·f), sin(v·f)]`` with ``f_k = exp(−ln 10⁴ · k / (width // 2))``.

    values: b (any real dtype) → b d with d = width; computed in float32. An odd width ends with a zero column.
    Source: Vaswani et al. 2017, with the cosines first as in the published VideoCrafter code.
    """
    half = width // 2
    # The order of these operations matters: at t ≈ 1000 a last-bit difference in f moves the angle by 1e-4.
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float32, device=values.device) / half)
    angles = rearrange(values.float(), "b -> b 1") * frequencies
    features = torch.cat([angles.cos(), angles.sin()], dim=-1)
    return nn.functional.pad(features, (0, width % 2))


class ScalarEmbedding(nn.Module):
    """Two-layer perceptron on the sinusoid of a scalar: ``W₂ · SiLU(W₁ · sinusoid(v))``; b → b d.

    It belongs to neither space nor time: the timestep and the frame rate steer both.
    """

    group: ClassVar[str] = "conditioning"

    def __init__(self, *, width: int, out_width: int) -> None:
        super().__init__()
        self.width = width
        self.expand = nn.Linear(width, out_width)
        self.mix = nn.Linear(out_width, out_width)

    def forward(self, values: Tensor) -> Tensor:
        features = sinusoid(values, self.width).to(self.expand.weight.dtype)
        return self.mix(nn.functional.silu(self.expand(features)))
