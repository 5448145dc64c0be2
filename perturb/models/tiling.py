"""Decoding large frames in tiles, in the memory of one. Axes: b batch, c channels, t frames, h w pixels or latents."""

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

OVERLAP = 4  # a tile overlaps its neighbour by one in so many: experiments/samplers


def decode_in_tiles(decode: Callable[[Tensor], Tensor], latents: Tensor, size: int | None) -> Tensor:
    """``decode(latents)``, b 3 t H W, from tiles of ``size`` × size latents that overlap by a quarter (None: at once):

        y = Σ_k m_k decode(x_k)/Σ_k m_k,   m rising linearly from the edges of a tile to 1 over the overlap

    Not equal to decoding at once, whose group norms and attention see the whole frame; how near it comes is measured in
    experiments/samplers. A frame that fits into one tile is decoded at once, bit for bit.
    """
    height, width = latents.shape[-2:]
    tile = (height, width) if size is None else (min(size, height), min(size, width))
    if tile == (height, width):
        return decode(latents)
    total, mass = torch.zeros(()), torch.zeros(())
    for top, left in product(_starts(height, tile[0]), _starts(width, tile[1])):
        part = decode(latents[..., top : top + tile[0], left : left + tile[1]])
        scale = part.shape[-1] // tile[1]
        if not total.ndim:
            total = part.new_zeros(*part.shape[:-2], height * scale, width * scale)
            mass = part.new_zeros(height * scale, width * scale)
        h, w = part.shape[-2:]
        rows, columns = slice(top * scale, top * scale + h), slice(left * scale, left * scale + w)
        weight = torch.outer(_ramp(h), _ramp(w)).to(part)
        total[..., rows, columns] += weight * part
        mass[rows, columns] += weight
    return total / mass


def _starts(length: int, tile: int) -> list[int]:
    """First positions: as far apart as the overlap allows, the last tile flush with the edge."""
    return [*range(0, length - tile, tile - tile // OVERLAP), length - tile]


def _ramp(length: int) -> Tensor:
    index, rise = torch.arange(length), max(length // OVERLAP, 1)
    return torch.minimum(index, length - 1 - index).add(1).clamp(max=rise) / rise
