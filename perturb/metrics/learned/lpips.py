"""LPIPS: drift from the clip of the same prompt and noise at step 0, and flicker from frame to frame.

Axes: n pairs of frames, c channels, h w pixels; a row is a pair, `2 c h w`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from perturb.errors import UserError
from perturb.metrics.base import Clip, Context, MetricInfo, Value
from perturb.metrics.learned.files import frozen, state_dict
from perturb.metrics.learned.network import Learned, pick_device, pixels, through, values
from perturb.metrics.learned.weights import WeightFile
from perturb.metrics.perceptual import paired

if TYPE_CHECKING:
    from torch import Tensor, nn

TITLES = {"alex": "AlexNet", "vgg": "VGG-16"}
FILES = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}


class Lpips(Learned["nn.Module"]):
    """Mean LPIPS distance to the step-0 clip, and between adjacent frames; trunk "alex" (default) or "vgg"."""

    paired = True

    def __init__(self, *, net: str = "alex", device: str = "auto", weights: str | None = None, chunk: int = 16) -> None:
        if net not in FILES:
            raise UserError(f"the trunk of LPIPS is {net!r}; allowed: {', '.join(FILES)}")
        super().__init__(device=device, weights=weights, chunk=chunk)
        self.net = net
        self.weights = (WeightFile(FILES[net], f"https://download.pytorch.org/models/{FILES[net]}"),)
        self.prefix = "lpips" if net == "alex" else "lpips_vgg"

        needs, title = (self.weights[0].name,), TITLES[net]
        self.infos = (
            MetricInfo(
                f"{self.prefix}_drift",
                "drift",
                "1",
                (0.0, None),
                "down",
                needs,
                f"mean LPIPS v0.1 ({title}) with the clip of the same prompt and noise at step 0",
                "Zhang et al. 2018 (lpips)",
                depends=("size",),
                pitfalls="Frame by frame: the same scene moving at another speed counts as drift.",
            ),
            MetricInfo(
                f"{self.prefix}_flicker",
                "motion",
                "1",
                (0.0, None),
                "band",
                needs,
                f"mean LPIPS v0.1 ({title}) of adjacent frames",
                "Zhang et al. 2018 (lpips)",
                depends=("fps", "size"),
                pitfalls="Two-sided: motion raises it as flicker does, and a static clip has 0.",
            ),
        )

    def load(self, paths: Sequence[Path], device: str) -> nn.Module:
        """LPIPS v0.1 with its trunk read from torchvision's file and its heads from the lpips wheel."""
        import lpips

        state = state_dict(paths[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchvision's notes on `pretrained`, which lpips still passes
            network = lpips.LPIPS(net=self.net, pnet_rand=True, verbose=False)
        for name, parameter in network.net.named_parameters():
            _, _, place = name.partition(".")  # slice1.0.weight: lpips keeps torchvision's layer numbers in its slices
            value = state[f"features.{place}"]
            if value.shape != parameter.shape:
                raise UserError(f"features.{place} has shape {tuple(value.shape)}, not {tuple(parameter.shape)}")
            parameter.data.copy_(value)
        return frozen(network, device)

    def __call__(self, clips: Sequence[Clip], context: Context) -> Mapping[str, Sequence[Value]]:
        """Both measures; drift is unavailable without the step-0 clip, flicker failed for a single frame."""
        network, device = self.network(), pick_device(self.device)

        def distances(pairs: Tensor) -> Tensor:
            return network(*(pairs.float() / 127.5 - 1).unbind(1)).flatten(1)

        def drifting(clip: Clip) -> Tensor:
            _, original = paired(clip, context)
            before = Clip(original, clip.fps, clip.prompt_id, clip.seed, 0)
            return _pairs(pixels(clip, device), pixels(before, device))

        def flickering(clip: Clip) -> Tensor:
            if len(clip.frames) < 2:
                raise UserError("flicker is between adjacent frames: needs at least 2, not 1")
            frames = pixels(clip, device)
            return _pairs(frames[1:], frames[:-1])

        results: dict[str, list[Value]] = {}
        for name, rows in ((f"{self.prefix}_drift", drifting), (f"{self.prefix}_flicker", flickering)):
            kept = through(distances, clips, rows, chunk=self.chunk)
            results |= values({name: lambda _clip, one: float(np.mean(one))}, clips, kept)
        return results


def _pairs(now: Tensor, before: Tensor) -> Tensor:
    import torch

    return torch.stack([now, before], dim=1)
