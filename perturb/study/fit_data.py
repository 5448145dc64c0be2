"""What a fitting step sees: latents, noise, timesteps and conditioning, as a pure function of (seed, step, place).

Axes: b batch, c channels, t frames, h w pixels or latents, l text tokens, m image tokens, d features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange, repeat
from torch import Tensor

from perturb.data.images import ImageSet
from perturb.diffusion import Conditioning
from perturb.diffusion.draws import Shuffled, draw_sample
from perturb.errors import UserError
from perturb.loop.task import Drawn
from perturb.models.videocrafter.spec import ModelSpec
from perturb.models.videocrafter.system import VideoSystem

if TYPE_CHECKING:
    from perturb.study.fit import FitConfig


@dataclass(frozen=True)
class Batch:
    """x0 and noise b c t h w (scaled latents), t b int64, and the conditioning."""

    x0: Tensor
    t: Tensor
    noise: Tensor
    cond: Conditioning


class FitData(Drawn):
    """Batches of an image set for one model, as the loop wants them.

    Each image is encoded by itself, so that its latent does not depend on where a run was resumed; captions likewise.
    """

    def __init__(self, system: VideoSystem, images: ImageSet, config: FitConfig) -> None:
        defaults = system.spec.sampling
        self.system, self.images, self.config = system, images, config
        self.height, self.width = config.height or defaults.height, config.width or defaults.width
        _check_size(system.spec, height=self.height, width=self.width)
        self.frames = 1 if images.as_video == "single_frame" else config.frames or defaults.frames
        self.fps = config.fps or defaults.fps
        self._moments: dict[int, tuple[Tensor, Tensor]] = {}
        self._image_tokens: dict[int, Tensor] = {}
        self._texts: dict[str, Tensor] = {}
        self._null_image: Tensor | None = None
        self.order = Shuffled(len(images), config.seed)

    def describe(self) -> dict[str, object]:
        """For the manifest: the image set and how its stills became videos."""
        shape = {"height": self.height, "width": self.width, "frames": self.frames, "fps": self.fps}
        return {**self.images.describe(), "as_video": self.images.as_video, **shape}

    def load(self, step: int, places: range) -> None:
        """Nothing: an image is read when its latent is wanted for the first time."""

    def inputs(self, step: int, places: range, loaded: None = None) -> tuple[Batch]:
        """``places`` of the batch of ``step`` (from 0); every draw comes from a generator of (seed, step, place)."""
        del loaded
        x0, noise, t, text, image = zip(*(self._sample(step, place) for place in places), strict=True)
        device = self.system.device
        cond = Conditioning(
            text=torch.stack(text),
            fps=torch.full((len(x0),), self.fps, dtype=torch.long),
            image=None if image[0] is None else torch.stack(image),
        )
        x0, t, noise = (torch.stack(part).to(device) for part in (x0, t, noise))
        return (Batch(x0, t, noise, cond.to(device)),)

    def digest(self, steps: int, gather: Callable[[list[Any]], list[Any]]) -> str:
        """SHA-256 of what the samples are a function of."""
        del gather
        return hashlib.sha256(f"{self.describe()} {self.config} {steps}".encode()).hexdigest()

    def _sample(self, step: int, place: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        """x0 and noise c t h w, t, text l d, image tokens m d or None."""
        index = self.order[step * self.config.batch_size + place]
        mean, std = self._posterior(index)
        drawn = draw_sample(
            "fit",
            self.config.seed,
            step,
            place,
            timesteps=self.system.spec.schedule.timesteps,
            text_dropout=self.config.text_dropout,
            latent=mean.shape,
            frames=self.frames,
        )
        # one latent for all frames: a repeated still does not flicker; only the diffusion noise differs
        x0 = repeat(
            self.system.spec.vae.scale_factor * (mean + std * drawn.posterior), "c 1 h w -> c t h w", t=self.frames
        )
        text = self._text("" if drawn.dropped else self.images.caption(index))
        return x0, drawn.noise, drawn.timestep, text, self._image(index, drawn.dropped)

    def _load(self, index: int) -> Tensor:
        return self.images.load(index, self.height, self.width)

    def _posterior(self, index: int) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation c 1 h w of the latent, not scaled."""
        if index in self._moments:
            return self._moments[index]
        mean, std = self.system.posterior(rearrange(self._load(index), "c h w -> 1 c 1 h w"))
        moments = mean[0].cpu(), std[0].cpu()
        if self.config.cache_latents:
            self._moments[index] = moments
        return moments

    def _text(self, caption: str) -> Tensor:
        if caption not in self._texts:
            self._texts[caption] = self.system.embed([caption])[0].cpu()
        return self._texts[caption]

    def _image(self, index: int, dropped: bool) -> Tensor | None:
        """Tokens m d of the still itself for image-to-video models; dropped together with the text, as in guidance."""
        if self.system.image_encoder is None:
            return None
        if dropped:
            if self._null_image is None:
                self._null_image = self.system.null_image_embedding()[0].cpu()
            return self._null_image
        if index in self._image_tokens:
            return self._image_tokens[index]
        tokens = self.system.embed_image(rearrange(self._load(index), "c h w -> 1 c h w"))[0].cpu()
        if self.config.cache_latents:
            self._image_tokens[index] = tokens
        return tokens


def _check_size(spec: ModelSpec, **sizes: int) -> None:
    for name, value in sizes.items():
        if value % spec.size_multiple:
            raise UserError(f"fit.{name} is {value}; allowed for {spec.name}: multiples of {spec.size_multiple}")
