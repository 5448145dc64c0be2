"""What a denoiser is told besides the noisy latent. Axes: b batch, l text tokens, m image tokens, d features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """Text tokens ``b l d``, frame rate ``b`` (int64, frames per second) and image tokens ``b m d`` or none."""

    text: Tensor
    fps: Tensor
    image: Tensor | None = None

    def __post_init__(self) -> None:
        assert self.text.ndim == 3, f"text must be b l d, not {tuple(self.text.shape)}"
        assert self.fps.shape == self.text.shape[:1], f"fps {tuple(self.fps.shape)}, text {tuple(self.text.shape)}"
        assert self.image is None or (self.image.ndim == 3 and len(self.image) == len(self.text)), "image must be b m d"

    def __len__(self) -> int:
        return len(self.text)

    def index(self, which: slice | list[int]) -> Conditioning:
        """The samples chosen by a slice or a list of positions, in that order."""
        return Conditioning(self.text[which], self.fps[which], None if self.image is None else self.image[which])

    @staticmethod
    def concat(parts: Sequence[Conditioning]) -> Conditioning:
        """All samples one after the other along ``b``; either every part has image tokens or none has."""
        images = [part.image for part in parts if part.image is not None]
        assert len(images) in {0, len(parts)}, "some parts have image tokens and some have none"
        return Conditioning(
            text=torch.cat([part.text for part in parts]),
            fps=torch.cat([part.fps for part in parts]),
            image=torch.cat(images) if images else None,
        )

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Conditioning:
        """The same conditioning on ``device``; ``dtype`` applies to the tokens, fps stays int64."""
        return Conditioning(
            text=self.text.to(device, dtype),
            fps=self.fps.to(device),
            image=None if self.image is None else self.image.to(device, dtype),
        )
