"""Temporal attention in overlapping windows of frames, fused. Axes: n rows, k heads, t frames, d features."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from perturb.errors import UserError

# (query, key, value), each n k · d → n k · d
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Windows:
    """Frames attend within windows of ``length`` frames that begin every ``stride`` frames.

        y_i = Σ_w m_{i−w} softmax(Q_w K_wᵀ/√d) V_w / Σ_w m_{i−w},   m = 1, 2, …, ⌈length/2⌉, …, 2, 1

    over the windows w that hold frame i; Q, K, V come from all frames at once. One window is plain attention.
    Source: FreeNoise (Qiu et al. 2023, arXiv 2310.15169) §3.2 and its published code.
    """

    length: int = 16
    stride: int = 4

    def __post_init__(self) -> None:
        if self.length < 1 or not 1 <= self.stride <= self.length:
            raise UserError(
                f"windows of {self.length} frames every {self.stride}: allowed are a length from 1 and a stride from 1 "
                "to the length, so that every frame lies in a window"
            )

    def check(self, frames: int) -> None:
        """Raise UserError unless the windows cover all frames and nothing else.

        The published code leaves out the frames that no window holds and gives them an attention of zero.
        """
        if frames < self.length or (frames - self.length) % self.stride:
            below = max(frames - self.length, 0) // self.stride * self.stride + self.length
            raise UserError(
                f"{frames} frames do not fit windows of {self.length} every {self.stride}; allowed: {self.length} "
                f"frames and any multiple of {self.stride} more, such as {below} or {below + self.stride}"
            )

    def views(self, frames: int) -> list[tuple[int, int]]:
        """First frame and end (exclusive) of each window."""
        return [(start, start + self.length) for start in range(0, frames - self.length + 1, self.stride)]

    def weights(self) -> Tensor:
        """m: the weight of each frame of a window, int64 of ``length``."""
        index = torch.arange(self.length)
        return torch.minimum(index, self.length - 1 - index) + 1

    def attend(self, attend: Attend, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The fused attention, n k t d, of query, key and value of all t frames."""
        self.check(query.shape[-2])
        weights = rearrange(self.weights().to(query), "t -> t 1")
        total, mass = torch.zeros_like(query), torch.zeros_like(query[..., :1])
        for start, end in self.views(query.shape[-2]):
            frames = slice(start, end)
            total[..., frames, :] += weights * attend(query[..., frames, :], key[..., frames, :], value[..., frames, :])
            mass[..., frames, :] += weights
        return total / mass.clamp(min=1)  # of frames in no window, had `check` let them pass: 0, as published
