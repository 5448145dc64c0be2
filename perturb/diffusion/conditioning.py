"""What a denoiser is told besides the noisy latent.

Axes: b batch, c channels, t frames, h w latents, l text tokens, m image tokens, d features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import repeat
from torch import Tensor

from perturb.nn.windows import Windows

PER_SAMPLE = ("text", "fps", "image", "image_latents", "guidance", "motion", "injected")
SHARED = ("windows", "dilation")
TOKENS = ("text", "image", "injected")
SCALES = ("guidance", "motion")


@dataclass(frozen=True)
class Conditioning:
    """Text tokens, frame rate and what else a network can be told; None: not told.

    text ``b l d``, or ``b t l d`` for a text per frame · fps ``b`` (int64, frames per second) · image ``b m d`` image
    tokens, or ``b t m d`` · image_latents ``b c k h w``, joined to x along channels: of all t frames, of one image for
    all frames, or of the first and the last frame · guidance and motion ``b``: the scales that a distilled network
    takes as inputs · injected: a text that the way down and the middle read instead · windows: those of temporal
    attention · dilation: factors of convolutions by pattern. These two say how the network runs, and are the same for
    all samples · asked: one per sample, of a model that encodes its prompts by itself, with
    a method ``beside`` (`guidance.beside`).
    """

    text: Tensor
    fps: Tensor
    image: Tensor | None = None
    image_latents: Tensor | None = None
    guidance: Tensor | None = None
    motion: Tensor | None = None
    injected: Tensor | None = None
    windows: Windows | None = None
    dilation: Mapping[str, float] | None = None
    asked: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        for name, tokens in ((name, getattr(self, name)) for name in TOKENS):
            shape = None if tokens is None else tuple(tokens.shape)
            assert shape is None or len(shape) in {3, 4}, f"{name} must be b · d or b t · d, not {shape}"
        assert self.fps.ndim == 1, f"fps must be b, not {tuple(self.fps.shape)}"
        lengths = {name: len(value) for name, value in self._present(PER_SAMPLE).items()}
        assert len(set(lengths.values())) == 1, f"not one batch: {lengths}"

    def __len__(self) -> int:
        return len(self.text)

    def index(self, which: slice | list[int]) -> Conditioning:
        """The samples chosen by a slice or a list of positions, in that order."""
        told = {name: value[which] for name, value in self._present(PER_SAMPLE).items()}
        positions = range(len(self.asked))[which] if isinstance(which, slice) else which if self.asked else ()
        return dataclasses.replace(self, **told, asked=tuple(self.asked[i] for i in positions))

    def at_frame(self, number: int) -> Conditioning:
        """The same for one frame: tokens that are told per frame become those of frame ``number`` (or the last)."""
        tokens = {name: value for name, value in self._present(TOKENS).items() if value.ndim == 4}
        return dataclasses.replace(self, **{n: v[:, min(number, v.shape[1] - 1)] for n, v in tokens.items()})

    @staticmethod
    def concat(parts: Sequence[Conditioning]) -> Conditioning:
        """All samples one after the other along ``b``; every part is told the same kinds of things.

        A text for the whole clip next to one per frame is repeated over the frames; a part without an injected text
        next to one with it keeps reading its own.
        """
        assert len({tuple((name, repr(getattr(part, name))) for name in SHARED) for part in parts}) == 1
        if any(part.injected is not None for part in parts):
            parts = [p if p.injected is not None else dataclasses.replace(p, injected=p.text) for p in parts]
        told = {name for part in parts for name in part._present(PER_SAMPLE)}
        joined = {}
        for name in told:
            values = [getattr(part, name) for part in parts]
            assert all(value is not None for value in values), f"some parts have {name} and some have none"
            joined[name] = torch.cat(_alike(values) if name in TOKENS else values)
        return dataclasses.replace(parts[0], **joined, asked=tuple(each for part in parts for each in part.asked))

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Conditioning:
        """The same conditioning on ``device``; ``dtype`` is for tokens and image latents alone."""
        cast = {name for name in PER_SAMPLE if name != "fps" and name not in SCALES}
        return dataclasses.replace(
            self,
            **{n: v.to(device, dtype if n in cast else None) for n, v in self._present(PER_SAMPLE).items()},
        )

    def _present(self, names: Sequence[str]) -> dict[str, Tensor]:
        return {name: value for name in names if (value := getattr(self, name)) is not None}


def by_frame(texts: Tensor, starts: Sequence[int], frames: int, blend: int = 0) -> Tensor:
    """A text for each frame, t l d, of texts k l d: text i from frame ``starts``[i] on, which rise from 0.

    Around a start the text before passes into the next one linearly over ``blend`` frames. FreeNoise's code for two
    prompts and F frames has starts 0 and F/2, and a blend of F − 2 ⌊3F/8⌋.
    """
    place = torch.zeros(frames)
    for start in starts[1:]:
        since = torch.arange(frames) - start
        place += (since >= 0) if blend < 2 else ((since + blend // 2) / (blend - 1)).clamp(0, 1)
    text = place.floor().long()
    share = (place - text).to(texts).reshape(-1, 1, 1)
    return texts[text] + share * (texts[(text + 1).clamp(max=len(texts) - 1)] - texts[text])


def _alike(tokens: Sequence[Tensor]) -> list[Tensor]:
    """All ``b · d``, or, where one is for each frame, all ``b t · d``."""
    frames = next((each.shape[1] for each in tokens if each.ndim == 4), None)
    return [repeat(e, "b l d -> b t l d", t=frames) if frames and e.ndim == 3 else e for e in tokens]
