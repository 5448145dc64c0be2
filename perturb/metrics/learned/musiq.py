"""MUSIQ: how good, technically, are single frames? With the optional package pyiqa. Axes: t frames, c channels, h w."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from perturb.device import pick_device
from perturb.metrics.base import Clip, Context, MetricInfo, Value
from perturb.metrics.learned.files import frozen, state_dict
from perturb.metrics.learned.network import Learned, pixels, through, values
from perturb.metrics.learned.weights import WeightFile

if TYPE_CHECKING:
    from torch import Tensor, nn

MUSIQ_FILE = "musiq_spaq_ckpt-358bb6af.pth"
MUSIQ = WeightFile(
    MUSIQ_FILE,
    f"https://github.com/chaofengc/IQA-PyTorch/releases/download/v0.1-weights/{MUSIQ_FILE}",
    licence="not for commercial use (IQA-PyTorch)",
    digest="358bb6af275e28ea56821d44fb55c6cb83645db11f394d3ad65b2d149965ab50",
    package="pyiqa",
    extra="musiq",
)
LONGEST = 512


def prepared(frames: Tensor) -> Tensor:
    """uint8 `t c h w` as VBench gives them to MUSIQ: a longer side above 512 px is brought to 512, bilinearly."""
    from torchvision.transforms.functional import resize

    size = frames.shape[-2:]
    if max(size) <= LONGEST:
        return frames
    scale = LONGEST / max(size)
    return resize(frames, [int(scale * side) for side in size], antialias=False)


class Musiq(Learned["nn.Module"]):
    """VBench's imaging quality."""

    weights = (MUSIQ,)
    packages = ("pyiqa",)
    infos = (
        MetricInfo.of(
            "imaging_quality",
            "visual",
            "mean over frames of MUSIQ's rating (trained on SPAQ) / 100, the longer side at most 512 px",
            "VBench (Huang et al. 2024); MUSIQ: Ke et al. 2021 (pyiqa)",
            "The range is nominal. Knows photographs of telephones; sees no motion. pyiqa and the weights are "
            "for non-commercial use, and pyiqa brings opencv-python, which lies in the same folder as ours.",
            needs=(MUSIQ.name,),
            depends=("size",),
        ),
    )

    def load(self, paths: Sequence[Path], device: str) -> nn.Module:
        """pyiqa's network. It would unpickle anything, so the file is read safely here."""
        from pyiqa.archs.arch_util import clean_state_dict  # pyright: ignore[reportMissingImports]
        from pyiqa.archs.musiq_arch import MUSIQ as Network  # pyright: ignore[reportMissingImports]

        network = Network(pretrained=False)
        network.load_state_dict(clean_state_dict(state_dict(paths[0])))
        return frozen(network, device)

    def __call__(self, clips: Sequence[Clip], context: Context) -> Mapping[str, Sequence[Value]]:
        network, device = self.network(), pick_device(self.device)

        def rate(frames: Tensor) -> Tensor:
            return network(frames.float() / 255)

        kept = through(rate, clips, lambda clip: prepared(pixels(clip, device)), chunk=self.chunk)
        return values({"imaging_quality": lambda _clip, found: float(np.mean(found)) / 100}, clips, kept)
