"""The published preparation of an image for the CLIP vision transformer. Axes: b batch, c channels, h w pixels."""

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

# Mean and standard deviation of CLIP's training images (red, green, blue, in [0, 1]).
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def preprocess_image(image: Tensor, size: int) -> Tensor:
    """b 3 h w in [−1, 1] → b 3 size size in CLIP's normalisation: ((resize(x) + 1)/2 − mean)/std, aspect not kept.

    The resize reproduces the published one: a Gaussian blur against aliasing when an axis shrinks, then bicubic
    (a = −0.75) with the corner pixels' centres aligned.
    """
    # The all-zero image goes the same way: it becomes mid grey, not black.
    image = F.interpolate(_blur(image, size), (size, size), mode="bicubic", align_corners=True)
    mean, std = (rearrange(torch.tensor(v).to(image), "c -> 1 c 1 1") for v in (CLIP_MEAN, CLIP_STD))
    return ((image + 1) / 2 - mean) / std


def _blur(image: Tensor, size: int) -> Tensor:
    """Separable Gaussian with σ = max((f − 1)/2, 0.001) for the shrink factor f of each axis; reflect padding."""
    factors = [length / size for length in image.shape[-2:]]
    if max(factors) <= 1:
        return image
    for axis, factor in zip((-2, -1), factors, strict=True):
        sigma = max((factor - 1) / 2, 0.001)
        width = int(max(4 * sigma, 3)) // 2 * 2 + 1
        image = _smooth(image, _gaussian(width, sigma).to(image), axis)
    return image


def _gaussian(width: int, sigma: float) -> Tensor:
    """Samples of exp(−x²/2σ²) at the ``width`` integers around 0, normalised to sum 1."""
    x = torch.arange(width, dtype=torch.float64) - width // 2
    weights = torch.exp(-x.square() / (2 * sigma**2))
    return (weights / weights.sum()).float()


def _smooth(image: Tensor, kernel: Tensor, axis: int) -> Tensor:
    """Convolution of every channel with ``kernel`` along ``axis`` (−2 or −1), the image mirrored at its borders."""
    half = len(kernel) // 2
    along_h = axis == -2
    padded = F.pad(image, (0, 0, half, half) if along_h else (half, half, 0, 0), mode="reflect")
    weight = rearrange(kernel, "k -> 1 1 k 1" if along_h else "k -> 1 1 1 k")
    return F.conv2d(padded, weight.expand(image.shape[1], 1, -1, -1), groups=image.shape[1])
