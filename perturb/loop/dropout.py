"""Dropout whose masks belong to samples, so that a step does not depend on how its batch is divided.

Axes: b batch, n frames or positions per sample.
"""

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn

from perturb.diffusion import sample_generator


class PlacedDropout(nn.Module):
    """x·m/(1 − p), the mask m of a sample drawn from (layer, seed, step, place in the global batch).

    The leading axis is ``b`` or ``(b n)``. Drawn where x is, so the masks of a CPU and of a GPU differ.
    """

    def __init__(self, p: float, name: str) -> None:
        super().__init__()
        self.p, self.name = p, name
        self.seed, self.step, self.places = 0, 0, range(0)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        rows = rearrange(x, "(b n) ... -> b n ...", b=len(self.places))
        masks = [self._mask(place, rows) for place in self.places]
        return x * rearrange(torch.stack(masks), "b n ... -> (b n) ...").to(x.dtype)

    def _mask(self, place: int, rows: Tensor) -> Tensor:
        seed = sample_generator("dropout", self.name, self.seed, self.step, place).initial_seed()
        generator = torch.Generator(rows.device).manual_seed(seed)
        kept = torch.rand(rows.shape[1:], generator=generator, device=rows.device) >= self.p
        return kept / (1 - self.p)


def place_dropouts(module: nn.Module) -> list[PlacedDropout]:
    """Replace every active dropout in ``module`` by one that is drawn per sample; returns them."""
    placed = []
    active = [(n, m) for n, m in module.named_modules() if isinstance(m, nn.Dropout) and m.p and m.training]
    for name, layer in active:
        parent, _, child = name.rpartition(".")
        placed.append(PlacedDropout(layer.p, name))
        setattr(module.get_submodule(parent), child, placed[-1])
    return placed


def restore_dropouts(module: nn.Module) -> None:
    """Put plain dropouts back."""
    for name, layer in [(n, m) for n, m in module.named_modules() if isinstance(m, PlacedDropout)]:
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, nn.Dropout(layer.p).train(layer.training))


def move_to(placed: Sequence[PlacedDropout], seed: int, step: int, places: range) -> None:
    """Say which samples the next forward pass sees."""
    for layer in placed:
        layer.seed, layer.step, layer.places = seed, step, places
