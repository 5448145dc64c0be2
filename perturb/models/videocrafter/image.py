"""What an image-to-video network is told of its images. Axes: b batch, c channels, t frames, k key frames, m tokens."""

import torch
from einops import rearrange
from torch import Tensor

from perturb.errors import UserError
from perturb.models.videocrafter.spec import ImageSpec, ModelSpec


def per_frame(tokens: Tensor, spec: ImageSpec) -> Tensor:
    """Image tokens b m d as the network reads them: b t m d where each frame has its own."""
    return tokens if spec.frames is None else rearrange(tokens, "b (t m) d -> b t m d", t=spec.frames)


def key_frames(image: Tensor, spec: ModelSpec) -> Tensor | None:
    """The images whose latents are joined, b 3 k h w, of image b 3 h w or b 3 2 h w; None for a model that joins none.

    Raises UserError for two images where only the first frame, or none, is joined.
    """
    joins = None if spec.image is None else spec.image.joins
    if image.ndim == 5 and joins != "ends":
        raise UserError(
            f"{spec.name} takes one image, and two are given; an interpolation model takes the last one too"
        )
    if joins is None:
        return None
    alone = image.unsqueeze(2) if image.ndim == 4 else image
    return alone.expand(-1, -1, 2, -1, -1) if joins == "ends" else alone


def at_frames(latents: Tensor, frames: int) -> Tensor:
    """Latents of key frames b c k h w placed on a clip, b c t h w.

    k = 1: at every frame; 2: at the first and at the last one, zeros between; t: as they are. UserError for others.
    Source: DynamiCrafter (arXiv 2310.12190) and its code.
    """
    count = latents.shape[2]
    if count == frames:
        return latents
    if count == 1:
        return latents.expand(-1, -1, frames, -1, -1)
    if count != 2:
        raise UserError(
            f"latents of {count} images are joined to {frames} frames; allowed: 1 (at all), 2 (at both ends), {frames}"
        )
    between = latents.new_zeros(*latents.shape[:2], frames - 2, *latents.shape[3:])
    return torch.cat([latents[:, :, :1], between, latents[:, :, 1:]], dim=2)
