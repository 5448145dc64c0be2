"""Re-dilated convolutions: a network trained on small images for large ones. Axes: n rows, o i channels, h w."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial

from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate

from perturb.errors import UserError


def redilated_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, *, stride: int, factor: float) -> Tensor:
    """A k×k convolution whose field of view is ``factor`` ≥ 1 times as wide; n i h w → n o h/stride w/stride.

    With D = ⌈factor⌉ and r = D/factor: resize x by r, convolve with dilation D, resize to h/stride × w/stride (rounded
    down, as published: a plain strided convolution rounds up). Bilinear, corners not aligned, no antialiasing.
    Source: ScaleCrafter (He et al. 2023, arXiv 2310.07702) §3.2 and its published code.
    """
    height, width = x.shape[-2:]
    dilation = math.ceil(factor)
    ratio = dilation / factor
    x = _resized(x, round(height * ratio), round(width * ratio))
    padding = dilation * (1 + (weight.shape[-1] - 3) // 2)
    y = conv2d(x, weight, bias, stride=stride, padding=padding, dilation=dilation)
    return _resized(y, height // stride, width // stride)


def dispersed(weight: Tensor, transform: Tensor) -> Tensor:
    """A larger kernel R vec(w): o i 3 3 with ``transform`` R (k² × 9) → o i k k.

    Source: ScaleCrafter §3.3. No published setting uses one: all switch it off (``inflate_tau`` 0).
    """
    size = math.isqrt(len(transform))
    return rearrange(weight.flatten(2) @ transform.mT, "o i (h w) -> o i h w", h=size)


@contextmanager
def dilated(network: nn.Module, factors: Mapping[str, float]) -> Iterator[None]:
    """Inside, the 3×3 convolutions whose path fits a pattern of ``factors`` are re-dilated by its factor.

    Patterns are those of a shell (``down.[123].*``); a later one wins. Temporal and 1×1 convolutions never fit.
    UserError for a pattern that fits nothing, and for a factor below 1.
    """
    chosen = chosen_convolutions(network, factors)
    try:
        for conv, factor in chosen.values():
            # On the instance, so that the module's own forward is back as soon as it is removed.
            conv.__dict__["forward"] = partial(_forward, conv, factor)
        yield
    finally:
        for conv, _ in chosen.values():
            conv.__dict__.pop("forward", None)


def chosen_convolutions(network: nn.Module, factors: Mapping[str, float]) -> dict[str, tuple[nn.Conv2d, float]]:
    """Path → convolution and factor of everything that ``dilated`` changes, in the network's order."""
    convolutions = {
        name: m for name, m in network.named_modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)
    }
    chosen: dict[str, tuple[nn.Conv2d, float]] = {}
    for pattern, factor in factors.items():
        if factor < 1:
            raise UserError(f"dilation of {pattern!r} is {factor:g}; allowed: a number from 1 (1: as trained)")
        found = [name for name in convolutions if fnmatchcase(name, pattern)]
        if not found:
            raise UserError(f"no 3×3 convolution fits {pattern!r}; the first ones are {', '.join([*convolutions][:4])}")
        chosen |= {name: (convolutions[name], factor) for name in found}
    return {name: chosen[name] for name in convolutions if name in chosen}


def _forward(conv: nn.Conv2d, factor: float, x: Tensor) -> Tensor:
    if factor == 1:
        return nn.Conv2d.forward(conv, x)
    return redilated_conv2d(x, conv.weight, conv.bias, stride=conv.stride[0], factor=factor)


def _resized(x: Tensor, height: int, width: int) -> Tensor:
    if x.shape[-2:] == (height, width):
        return x
    return interpolate(x, size=(height, width), mode="bilinear", align_corners=False)
