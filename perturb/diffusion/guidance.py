"""Classifier-free guidance. Axes: b batch, c channels, t frames, h w latents."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from perturb.diffusion.conditioning import Conditioning
from perturb.diffusion.protocols import Denoise
from perturb.errors import UserError


@dataclass(frozen=True)
class Guidance:
    """How strongly the text (and the image) steer; o is what the network predicts, ε or v.

        o = o_u + g (o_c − o_u)
        o = o_u + g_image (o_i − o_u) + g (o_c − o_i)          with ``image_scale`` g_image: two conditions
        o ← φ o std(o_c)/std(o) + (1 − φ) o                    with ``rescale`` φ; std over c, t, h, w

    u is the unconditional (or negative) side, i its text with the image of c. At timesteps outside ``interval`` (low,
    high; both included) o = o_c. g = 1 needs no other side and is never rescaled.
    Sources: Ho & Salimans 2022 (arXiv 2207.12598) eq. 6 with g = 1 + w; rescaling: Lin et al. 2023 (arXiv 2305.08891)
    eq. 15–16; two conditions: Brooks et al. 2022 (arXiv 2211.09800) eq. 3, as in DynamiCrafter's code; interval:
    Kynkäänniemi et al. 2024 (arXiv 2404.07724).
    """

    scale: float
    rescale: float = 0.0
    interval: tuple[int, int] | None = None
    image_scale: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.rescale <= 1:
            raise UserError(f"sampler.guidance_rescale is {self.rescale:g}; allowed: from 0 (off) to 1")

    @property
    def sides(self) -> int:
        """How many sides one guided prediction takes."""
        if self.image_scale is not None:
            return 3
        return 1 if self.scale == 1 else 2

    @staticmethod
    def of(scale: float, rescale: float, interval: Sequence[int] | None, image_scale: float | None) -> "Guidance":
        """From a sampler's settings; UserError for those that cannot be."""
        if interval is None:
            return Guidance(scale, rescale, None, image_scale)
        if len(interval) != 2 or interval[0] > interval[1]:
            raise UserError(f"sampler.guidance_interval is {list(interval)}; allowed: [lowest, highest] timestep")
        return Guidance(scale, rescale, (interval[0], interval[1]), image_scale)


def guided(  # noqa: PLR0917 - the order of the formula
    denoise: Denoise, x: Tensor, t: Tensor, cond: Conditioning, uncond: Conditioning | None, guidance: Guidance | float
) -> Tensor:
    """The guided prediction o (formula: ``Guidance``), all sides from one forward of two or three times the batch.

    x: b c t h w, t: b or b t int64, result like x; a number is the scale alone.
    Raises UserError when g ≠ 1 and there is no unconditional conditioning, or no image to guide by.
    """
    guidance = guidance if isinstance(guidance, Guidance) else Guidance(guidance)
    inside = _inside(t, guidance.interval)
    if (guidance.scale == 1 and guidance.image_scale is None) or inside is False:
        return denoise(x, t, cond)
    sides = [cond, *_others(cond, uncond, guidance)]
    count = len(sides)
    o_c, o_u, *o_i = denoise(torch.cat([x] * count), torch.cat([t] * count), Conditioning.concat(sides)).chunk(count)
    if o_i:
        assert guidance.image_scale is not None
        o = o_u + guidance.image_scale * (o_i[0] - o_u) + guidance.scale * (o_c - o_i[0])
    else:
        o = o_u + guidance.scale * (o_c - o_u)
    o = rescaled(o, o_c, guidance.rescale) if guidance.rescale else o
    return torch.where(inside, o, o_c) if isinstance(inside, Tensor) else o


def beside(uncond: Conditioning, cond: Conditioning) -> Conditioning:
    """``uncond`` with the image latents of ``cond``: guidance is away from a text, not from what is joined to x."""
    asked = tuple(u.beside(c) for u, c in zip(uncond.asked, cond.asked, strict=True))
    return dataclasses.replace(uncond, image_latents=cond.image_latents, asked=asked)


def rescaled(o: Tensor, o_cond: Tensor, strength: float) -> Tensor:
    """φ o std(o_c)/std(o) + (1 − φ) o, std (unbiased) over all of a sample: guidance without its gain in contrast."""
    axes = tuple(range(1, o.ndim))
    matched = o * (o_cond.std(axes, keepdim=True) / o.std(axes, keepdim=True))
    return strength * matched + (1 - strength) * o


def _others(cond: Conditioning, uncond: Conditioning | None, guidance: Guidance) -> list[Conditioning]:
    """The sides besides ``cond``: unconditional, and with the image alone where that is asked for."""
    if uncond is None:
        raise UserError(f"guidance {guidance.scale:g} needs the unconditional side; pass uncond, or set guidance to 1")
    uncond = dataclasses.replace(beside(uncond, cond), windows=cond.windows, dilation=cond.dilation)
    if guidance.image_scale is None:
        return [uncond]
    if cond.image is None:
        raise UserError("sampler.image_guidance is for models that take an image; leave it null")
    return [uncond, dataclasses.replace(uncond, image=cond.image)]


def _inside(t: Tensor, interval: tuple[int, int] | None) -> bool | Tensor:
    """Whether the timesteps lie in the interval: all, none, or which (b 1 t 1 1, or b 1 1 1 1)."""
    if interval is None:
        return True
    inside = (t >= interval[0]) & (t <= interval[1])
    if inside.all() or not inside.any():
        return bool(inside.all())
    return rearrange(inside, "b t -> b 1 t 1 1") if t.ndim == 2 else rearrange(inside, "b -> b 1 1 1 1")
