"""Embeddings of the scalars that condition the network: timestep and frame rate; in distilled ones also guidance.

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


def frame_sinusoid(frames: int, width: int, device: torch.device | str) -> Tensor:
    """Positions of frames: ``p[t, 2k] = sin(t·f_k)``, ``p[t, 2k+1] = cos(t·f_k)``, ``f_k = exp(−ln 10⁴ · 2k/d)``; t d.

    d = ``width``, even; float32. Source: Vaswani et al. 2017, as AnimateDiff has it.
    """
    frequencies = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10_000) / width))
    angles = rearrange(torch.arange(frames, dtype=torch.float32, device=device), "t -> t 1") * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


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

    def forward(self, values: Tensor, shift: Tensor | None = None) -> Tensor:
        """``shift`` (b d of the sinusoid's width) is added to the sinusoid."""
        features = sinusoid(values, self.width).to(self.expand.weight.dtype)
        features = features if shift is None else features + shift
        return self.mix(nn.functional.silu(self.expand(features)))


def scale_sinusoid(scales: Tensor, width: int) -> Tensor:
    """Sinusoidal features of guidance scales: ``[sin(1000·w·f), cos(1000·w·f)]``, ``f_k = exp(−ln 10⁴·k/(half − 1))``.

    half = width // 2. scales: b → b d with d = width; computed in float32. An odd width ends with a zero column. It
    differs from ``sinusoid`` in the order and in the last frequency, as published. Source: T2V-Turbo's code (arXiv
    2405.18750).
    """
    half = width // 2
    # Angles reach 15,000: like the other one, this must keep its order of operations, and float32.
    step = math.log(10_000) / (half - 1)
    frequencies = torch.exp(torch.arange(half, dtype=torch.float32, device=scales.device) * -step)
    angles = rearrange(scales.float() * 1000, "b -> b 1") * frequencies
    features = torch.cat([angles.sin(), angles.cos()], dim=-1)
    return nn.functional.pad(features, (0, width % 2))


class GuidanceEmbedding(nn.Module):
    """What a network distilled from guidance is told of it; it shifts the timestep's sinusoid.

        c = P_w e(w)                  guidance scale w alone
        c = P [P_w e(w); P_m e(m)]    with a motion guidance scale m too

    b → b d with d = ``out_width``; e = ``scale_sinusoid``. Without w the shift is 0: the undistilled network.
    Source: T2V-Turbo (arXiv 2405.18750) and its version 2 (arXiv 2410.05677).
    """

    group: ClassVar[str] = "conditioning"

    def __init__(self, *, width: int, out_width: int, motion: bool) -> None:
        super().__init__()
        self.width = width
        self.guidance = nn.Linear(width, out_width, bias=False)
        self.motion = nn.Linear(width, out_width, bias=False) if motion else None
        self.combine = nn.Linear(2 * out_width, out_width, bias=False) if motion else None

    def forward(self, guidance: Tensor, motion: Tensor | None) -> Tensor:
        shift = self._project(self.guidance, guidance)
        if motion is None:
            return shift
        assert self.motion is not None
        assert self.combine is not None
        return self.combine(torch.cat([shift, self._project(self.motion, motion)], dim=-1))

    def _project(self, layer: nn.Linear, scales: Tensor) -> Tensor:
        return layer(scale_sinusoid(scales, self.width).to(layer.weight.dtype))
