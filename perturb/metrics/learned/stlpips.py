"""Shift-tolerant LPIPS: as `lpips.py`, by a network that small shifts of a picture move less."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from perturb.metrics.learned.files import frozen, state_dict
from perturb.metrics.learned.lpips import Lpips, lpips_infos
from perturb.metrics.learned.network import Learned
from perturb.metrics.learned.weights import packaged

if TYPE_CHECKING:
    from torch import nn

STLPIPS = packaged(
    "stlpips-pytorch",
    "stlpips_pytorch/weights/vST0.0/alex_shift_tolerant.pth",
    "b356b382f96010f77d085ee8343ecd9fd322d0a56e8de2b2d0549fafcad8b9ee",
)


class ShiftTolerant(Lpips):
    """Mean shift-tolerant LPIPS distance (AlexNet) to the step-0 clip, and between adjacent frames."""

    weights = (STLPIPS,)
    prefix = "stlpips"
    infos = lpips_infos(
        prefix,
        "shift-tolerant LPIPS (AlexNet)",
        "Ghildyal and Liu 2022 (stlpips-pytorch, ST0.0)",
        STLPIPS,
        drift="Not LPIPS v0.1: jitter of 2 px .01, flicker of ±10 % .01, half of the frames repeated .05, noise of .1 "
        "and blur of 2.5 px .3, a quarter of the contrast .5, as much as unrelated frames.",
        flicker="Flicker of the light by ±10 % raises it by a fifth only, shuffled frames fivefold; without colour, or "
        "with a quarter of the contrast, it falls by a third.",
    )

    def __init__(self, *, device: str = "auto", weights: str | None = None, chunk: int = 16) -> None:
        Learned.__init__(self, device=device, weights=weights, chunk=chunk)

    def load(self, paths: Sequence[Path], device: str) -> nn.Module:
        """The package's network, without its own way of reading the file, which would pass over missing keys."""
        from stlpips_pytorch.stlpips import LPIPS

        network = LPIPS(net="alex", variant="shift_tolerant", pretrained=False, verbose=False)
        state = state_dict(paths[0])
        heads = {f"lins.{key[3:]}": value for key, value in state.items() if key.startswith("lin")}  # by both names
        network.load_state_dict({**state, **heads})
        return frozen(network, device)
