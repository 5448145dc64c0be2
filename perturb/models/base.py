"""What a model is to a study. A family of models implements `VideoModel`; nothing else of it is looked at.

Axes: b batch, c channels, t frames, h w pixels or latents, l text tokens, m image tokens, d features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from einops import rearrange
from torch import Tensor, nn

from perturb.diffusion import Conditioning, Defaults, NoiseSchedule
from perturb.models.partition import Partition


@dataclass(frozen=True)
class Batch:
    """x0 and noise b c t h w (scaled latents), t b int64, and the conditioning."""

    x0: Tensor
    t: Tensor
    noise: Tensor
    cond: Conditioning


class SamplingDefaults(Defaults, Protocol):
    """How a model is sampled when the user does not say: size in pixels, frames, frames per second."""

    @property
    def height(self) -> int: ...

    @property
    def width(self) -> int: ...

    @property
    def frames(self) -> int: ...

    @property
    def fps(self) -> int: ...


class Architecture(Protocol):
    """What is known of a model before its weights are read."""

    @property
    def name(self) -> str: ...

    @property
    def sampling(self) -> SamplingDefaults: ...

    @property
    def size_multiple(self) -> int:
        """What height and width in pixels must be multiples of."""
        ...

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Shape c t h w of the latent of a video of this size in pixels."""
        ...


class VideoModel(Architecture, Protocol):
    """A diffusion model of videos in the latents of an autoencoder, on one device, all parts in eval mode."""

    schedule: NoiseSchedule
    provenance: dict[str, Any]
    """Where the weights came from, for the manifest."""

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether `loss` computes activations again instead of keeping them; can be set, or is a UserError to set."""
        ...

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, value: bool) -> None: ...

    @property
    def network(self) -> nn.Module:
        """The denoiser: what is partitioned and perturbed."""
        ...

    @property
    def device(self) -> torch.device: ...

    @property
    def takes_image(self) -> bool:
        """Whether clips are conditioned on an image."""
        ...

    @property
    def crops_image(self) -> bool:
        """Whether that image is cut to the proportions of the clip; if not, it is stretched to them."""
        ...

    @property
    def latent_scale(self) -> float:
        """Factor from the latents of `posterior` to those of `denoise`, `loss` and `decode`."""
        ...

    def modules(self) -> dict[str, nn.Module]:
        """Everything that holds weights, by name: a study shows by hashes that only its perturbation moved."""
        ...

    def partition(self) -> Partition:
        """The parameters of `network` by what they model. Call it before anything is attached."""
        ...

    def check_prompts(self, prompts: Mapping[str, str]) -> None:
        """Warn of prompts (id → text) that are cut; UserError for two that the model cannot tell apart."""
        ...

    def conditioning(self, prompts: Sequence[str], fps: int, image: Tensor | None = None) -> Conditioning:
        """What the prompts say at ``fps``; image b 3 h w or 1 3 h w in [−1, 1].

        Raises UserError without an image where the model takes one, and with an image where it takes none.
        """
        ...

    def unconditional(self, count: int, fps: int, negative: str = "") -> Conditioning:
        """The other side of classifier-free guidance, ``negative`` what to stay away from.

        It is also what a sample is told whose text is dropped.
        """
        ...

    def posterior(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation b c t h w of the latent, not scaled, of video b 3 t h w in [−1, 1]."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Video b 3 t h w (about [−1, 1], not clamped) of scaled latents b c t h w."""
        ...

    def denoise(self, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        """ε̂ b c t h w (float32) of x of the same shape at timesteps t (b int64)."""
        ...

    def loss(self, batch: Batch) -> Tensor:
        """What fitting minimises, one value per sample: b."""
        ...


def to_uint8(video: Tensor) -> Tensor:
    """Frames b t h w c uint8 of video b c t h w: (clamp(x, −1, 1) + 1)/2·255, truncated as published."""
    levels = (video.float().clamp(-1, 1) + 1) / 2 * 255
    return rearrange(levels, "b c t h w -> b t h w c").to(torch.uint8)
