"""What a fitting step sees: latents, noise, timesteps and conditioning, as a pure function of (seed, step, place).

Axes: b batch, c channels, t frames, h w pixels or latents, l text tokens, m image tokens, d features.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from einops import rearrange, repeat
from torch import Tensor

from perturb.data.images import ImageSet
from perturb.diffusion import Conditioning
from perturb.diffusion.draws import Shuffled, draw_sample
from perturb.diffusion.guidance import beside
from perturb.errors import UserError
from perturb.loop.task import Drawn
from perturb.models.base import Batch, VideoModel
from perturb.structured import check_range


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How to fit. None means the model's own default; ``frames`` is used by ``images.as_video=repeat`` only.

    ``schedule`` is that of the learning rate after its warm-up. ``seed`` draws the adapter, the order of the images,
    noise, timesteps and dropout. ``precision`` is that of autocast: the adapter, its optimiser and the loss stay in
    float32. Raises UserError for values out of range.
    """

    batch_size: int = 32
    learning_rate: float = 3e-4
    warmup_steps: int = 10
    weight_decay: float = 0.0
    gradient_clip: float = 1.0
    text_dropout: float = 0.1
    precision: Literal["float32", "bfloat16"] = "float32"
    schedule: Literal["constant", "cosine"] = "constant"
    seed: int = 0
    fps: int | None = None
    frames: int | None = None
    height: int | None = None
    width: int | None = None
    cache_latents: bool = True
    gradient_checkpointing: bool = False
    save_every: int = 50

    def __post_init__(self) -> None:
        for name in ("batch_size", "fps", "frames", "height", "width", "save_every"):
            check_range(f"fit.{name}", getattr(self, name), low=1)
        for name in ("warmup_steps", "weight_decay", "seed"):
            check_range(f"fit.{name}", getattr(self, name), low=0)
        check_range("fit.text_dropout", self.text_dropout, low=0, high=1)
        for name in ("learning_rate", "gradient_clip"):
            if not getattr(self, name) > 0:
                raise UserError(f"fit.{name} is {getattr(self, name)!r}; allowed: more than 0")
        if self.precision not in ("float32", "bfloat16"):
            raise UserError(f"fit.precision is {self.precision!r}; allowed: float32, bfloat16")


class FitData(Drawn):
    """Batches of an image set for one model, as the loop wants them.

    Each image is encoded by itself, so that its latent does not depend on where a run was resumed; captions likewise.
    """

    def __init__(self, model: VideoModel, images: ImageSet, config: FitConfig) -> None:
        defaults = model.sampling
        self.model, self.images, self.config = model, images, config
        self.height, self.width = config.height or defaults.height, config.width or defaults.width
        _check_size(model, height=self.height, width=self.width)
        self.frames = 1 if images.as_video == "single_frame" else config.frames or defaults.frames
        self.latent_frames = model.latent_shape(self.frames, self.height, self.width)[1]  # refuses a number here
        self.fps = config.fps or defaults.fps
        self._moments: dict[int, tuple[Tensor, Tensor]] = {}
        self._told: dict[str | int | None, Conditioning] = {}
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
        drawn = (self.sample("fit", step, place, self.order[step * self.config.batch_size + place]) for place in places)
        x0, noise, t, cond = zip(*drawn, strict=True)
        x0, t, noise = (torch.stack(part).to(self.model.device) for part in (x0, t, noise))
        return (Batch(x0, t, noise, Conditioning.concat(cond).to(self.model.device)),)

    def digest(self, steps: int, gather: Callable[[list[Any]], list[Any]]) -> str:
        """SHA-256 of what the samples are a function of."""
        del gather
        return hashlib.sha256(f"{self.describe()} {self.config} {steps}".encode()).hexdigest()

    def sample(self, stream: str, step: int, place: int, index: int) -> tuple[Tensor, Tensor, Tensor, Conditioning]:
        """x0 and noise c t h w, t, and what is told of image ``index``, drawn from (stream, seed, step, place)."""
        mean, std = self._posterior(index)
        drawn = draw_sample(
            stream,
            self.config.seed,
            step,
            place,
            timesteps=self.model.schedule.timesteps,
            text_dropout=self.config.text_dropout,
            latent=mean.shape,
            frames=self.latent_frames,
        )
        # one latent for all frames: a repeated still does not flicker; only the diffusion noise differs
        x0 = self.model.latent_scale * (mean + std * drawn.posterior)
        x0 = torch.cat([x0[:, :1]] * (self.latent_frames - x0.shape[1]) + [x0], dim=1)
        told = self._cond(index)
        return x0, drawn.noise, drawn.timestep, beside(self._cond(None), told) if drawn.dropped else told

    def _load(self, index: int) -> Tensor:
        return self.images.load(index, self.height, self.width)

    def _posterior(self, index: int) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation c 1 h w (c t h w where the autoencoder shortens clips) of the raw latent."""
        if index in self._moments:
            return self._moments[index]
        seen = self.frames if self.latent_frames < self.frames else 1
        mean, std = self.model.posterior(repeat(self._load(index), "c h w -> 1 c t h w", t=seen))
        moments = mean[0].cpu(), std[0].cpu()
        if self.config.cache_latents:
            self._moments[index] = moments
        return moments

    def _cond(self, index: int | None) -> Conditioning:
        """What the caption says, and the still itself to image-to-video models; None: what guidance leads away from."""
        image = self.model.takes_image
        key = index if index is None or image else self.images.caption(index)
        if key in self._told:
            return self._told[key]
        if index is None:
            cond = self.model.unconditional(1, self.fps).to("cpu")
        else:
            still = rearrange(self._load(index), "c h w -> 1 c h w") if image else None
            cond = self.model.conditioning([self.images.caption(index)], self.fps, still).to("cpu")
        if self.config.cache_latents or not isinstance(key, int):
            self._told[key] = cond
        return cond


def _check_size(model: VideoModel, **sizes: int) -> None:
    for name, value in sizes.items():
        if value % model.size_multiple:
            raise UserError(f"fit.{name} is {value}; allowed for {model.name}: multiples of {model.size_multiple}")
