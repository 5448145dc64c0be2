"""To and from the latents of an autoencoder of diffusers. Axes: b batch, c channels, t frames, h w."""

from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderKLTemporalDecoder
from einops import rearrange
from torch import Tensor

FRAMES_AT_ONCE = 8  # of an image autoencoder, which decodes each by itself


class Latents:
    """z = s (y − m)/d of what the autoencoder makes, y: s the scaling factor, m and d the latents' mean and deviation.

    An image autoencoder sees frames one by one; Stable Video Diffusion's decodes all frames of a clip together.
    """

    def __init__(self, vae: Any) -> None:
        self.vae: Any = vae
        config: Any = vae.config
        self.by_frame = isinstance(vae, (AutoencoderKL, AutoencoderKLTemporalDecoder))
        self.together = isinstance(vae, AutoencoderKLTemporalDecoder)
        self.channels: int = config.get("latent_channels") or config["z_dim"]
        self.mean = _column(config.get("latents_mean") or [0.0])
        self.factor = (config.get("scaling_factor") or 1.0) / _column(config.get("latents_std") or [1.0])

    @torch.no_grad()
    def posterior(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation b c t h w (float32) of z of video b 3 t h w in [−1, 1]."""
        pixels = video.to(self.vae.device, self.vae.dtype)
        if self.by_frame:
            pixels = rearrange(pixels, "b c t h w -> (b t) c h w")
        latent = self.vae.encode(pixels).latent_dist
        mean, std = latent.mean.float(), latent.std.float()
        if self.by_frame:
            mean, std = (rearrange(y, "(b t) c h w -> b c t h w", b=len(video)) for y in (mean, std))
        factor = self.factor.to(mean)
        return (mean - self.mean.to(mean)) * factor, std * factor

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Video b 3 t h w (about [−1, 1], float32) of z b c t h w."""
        z = z.to(self.vae.device)
        y = (z / self.factor.to(z) + self.mean.to(z)).to(self.vae.dtype)
        return torch.cat([self._decode(clip[None]) for clip in y]).float()

    def _decode(self, y: Tensor) -> Tensor:
        if not self.by_frame:
            return self.vae.decode(y).sample
        frames = rearrange(y, "1 c t h w -> t c h w")
        if self.together:
            decoded = self.vae.decode(frames, num_frames=len(frames)).sample
        else:
            decoded = torch.cat([self.vae.decode(part).sample for part in frames.split(FRAMES_AT_ONCE)])
        return rearrange(decoded, "t c h w -> 1 c t h w")


def _column(values: list[float]) -> Tensor:
    return rearrange(torch.tensor(values), "c -> 1 c 1 1 1")
