"""RIFE: can a frame be guessed from its neighbours? Its network is written here; the weights travel with the package.

Axes: n rows, c channels, h w pixels; a row is three frames in a row, `3 c h w` uint8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from perturb.device import pick_device
from perturb.errors import UserError
from perturb.metrics.base import Clip, Context, MetricInfo, Value
from perturb.metrics.learned.files import frozen
from perturb.metrics.learned.network import Learned, pixels, through, values
from perturb.metrics.learned.weights import Packaged

if TYPE_CHECKING:
    from torch import Tensor

    from perturb.metrics.learned.ifnet import IFNet

RIFE = Packaged(
    "perturb/weights/rife/ifnet_v3.safetensors",
    "https://github.com/hzwer/ECCV2022-RIFE",
    "74460e7f8dab70930d28598004b9e4e3816e4afda3b2d078d4e90f45fbca6f3a",
)
STRIDE = 32  # as published; the coarsest level needs 16


def errors(network: IFNet, triples: Tensor) -> Tensor:
    """mean |I_1 - Î_1| over RGB in [0, 1], Î_1 interpolated from I_0 and I_2: `n 3 c h w` → `n 1`."""
    import torch.nn.functional as F

    before, middle, after = (triples.float() / 255).unbind(1)
    height, width = middle.shape[-2:]
    border = (0, -width % STRIDE, 0, -height % STRIDE)
    guess = network(*(F.pad(frames, border, mode="replicate") for frames in (before, after)))
    return (guess[..., :height, :width] - middle).abs().mean((1, 2, 3))[:, None]


class Rife(Learned["IFNet"]):
    """Error of interpolation between every second frame."""

    weights = (RIFE,)
    infos = (
        MetricInfo.of(
            "rife_error",
            "motion",
            "mean over odd t of mean |I_t - RIFE(I_{t-1}, I_{t+1})|, RGB in [0, 1]",
            "RIFE HD v3 (Huang et al. 2022); in the manner of VBench's motion smoothness, which has AMT",
            "A static clip has .0001, the best there is; a clean one .002. It hears whatever is new in a frame: "
            "noise of .02 gives .020, flicker of ±2 % as much, frames shuffled by two .054, unrelated ones .15. "
            "Looks hardly count, but with a quarter of the contrast or without colour it is half as large. Another "
            "number than VBench's, whose network is AMT. The last frame of an even number is not looked at.",
            direction="down",
            needs=(RIFE.name,),
            depends=("fps",),
        ),
    )

    def load(self, paths: Sequence[Path], device: str) -> IFNet:
        """The published weights, rounded to half precision, without the teacher's block."""
        from safetensors.torch import load_file

        from perturb.metrics.learned.ifnet import IFNet

        network = IFNet()
        network.load_state_dict(load_file(paths[0]))
        return frozen(network, device)

    def __call__(self, clips: Sequence[Clip], context: Context) -> Mapping[str, Sequence[Value]]:
        network, device = self.network(), pick_device(self.device)

        def rows(clip: Clip) -> Tensor:
            if len(clip.frames) < 3:
                raise UserError(f"interpolation is between two frames: needs at least 3, not {len(clip.frames)}")
            return pixels(clip, device).unfold(0, 3, 2).movedim(-1, 1)

        kept = through(lambda triples: errors(network, triples), clips, rows, chunk=self.chunk)
        return values({"rife_error": lambda _clip, found: float(np.mean(found))}, clips, kept)
