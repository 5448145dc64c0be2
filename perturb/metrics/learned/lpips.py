"""LPIPS: drift from the clip of the same prompt and noise at step 0, and flicker from frame to frame.

The trunk sees every frame once: a row is a frame, with that of step 0 where there is one, and is compared with the row
before it. Axes: n rows, k = 1 or 2 frames of a row, t frames, c channels, h w pixels.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from perturb.device import pick_device
from perturb.errors import UserError
from perturb.metrics.base import Clip, Context, MetricInfo, Value
from perturb.metrics.embedded.perceptual import paired
from perturb.metrics.learned.files import frozen, state_dict
from perturb.metrics.learned.network import Learned, pixels, through, values
from perturb.metrics.learned.weights import WeightFile, Weights

if TYPE_CHECKING:
    from torch import Tensor, nn

TITLES = {"alex": "AlexNet", "vgg": "VGG-16"}
FILES = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}
DIGESTS = {
    "alex": "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
    "vgg": "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
}


def lpips_infos(
    prefix: str, title: str, source: str, needed: Weights, *, drift: str = "", flicker: str = ""
) -> tuple[MetricInfo, ...]:
    """Drift and flicker by one network; what is known of their pitfalls beside those of every network."""
    needs = (needed.name,)
    return (
        MetricInfo.of(
            f"{prefix}_drift",
            "drift",
            f"mean {title} with the clip of the same prompt and noise at step 0",
            source,
            f"Frame by frame: the same scene moving at another speed counts as drift. {drift}".rstrip(),
            range=(0.0, None),
            direction="down",
            needs=needs,
            depends=("size",),
        ),
        MetricInfo.of(
            f"{prefix}_flicker",
            "motion",
            f"mean {title} of adjacent frames",
            source,
            f"Two-sided: motion raises it as flicker does, and a static clip has 0. {flicker}".rstrip(),
            range=(0.0, None),
            direction="band",
            needs=needs,
            depends=("fps", "size"),
        ),
    )


class Lpips(Learned["nn.Module"]):
    """Mean LPIPS distance to the step-0 clip, and between adjacent frames; trunk "alex" (default) or "vgg"."""

    paired = True

    def __init__(self, *, net: str = "alex", device: str = "auto", weights: str | None = None, chunk: int = 16) -> None:
        if net not in FILES:
            raise UserError(f"the trunk of LPIPS is {net!r}; allowed: {', '.join(FILES)}")
        super().__init__(device=device, weights=weights, chunk=chunk)
        self.net = net
        url = f"https://download.pytorch.org/models/{FILES[net]}"
        self.weights = (WeightFile(FILES[net], url, licence="BSD-3-Clause (torchvision)", digest=DIGESTS[net]),)
        self.prefix = "lpips" if net == "alex" else "lpips_vgg"

        self.infos = lpips_infos(
            self.prefix, f"LPIPS v0.1 ({TITLES[net]})", "Zhang et al. 2018 (lpips)", self.weights[0]
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
        import torch

        network, device = self.network(), pick_device(self.device)

        def rows(clip: Clip) -> Tensor:
            frames = [pixels(clip, device)]
            with suppress(UserError):  # drift says the reason
                frames.append(pixels(replace(clip, frames=paired(clip, context)[1]), device))
            return torch.stack(frames, dim=1)

        def drift(clip: Clip, found: np.ndarray) -> float:
            paired(clip, context)
            return float(np.mean(found[:, 1]))

        def flicker(_clip: Clip, found: np.ndarray) -> float:
            if len(found) < 2:
                raise UserError("flicker is between adjacent frames: needs at least 2, not 1")
            return float(np.mean(found[1:, 0]))

        kept = through(_Distances(network), clips, rows, chunk=self.chunk)
        return values({f"{self.prefix}_drift": drift, f"{self.prefix}_flicker": flicker}, clips, kept)


class _Distances:
    """LPIPS of each row's frame to that of the row before and, where there is one, to its own of step 0.

    Rows of one shape must come in their order. The first row of a clip is compared with what lay before it, another
    clip or nothing: its number means nothing.
    """

    def __init__(self, network: Any) -> None:
        self.network = network  # lpips.LPIPS
        self.last: dict[Any, list[Tensor]] = {}

    def __call__(self, rows: Tensor) -> Tensor:
        """uint8 `n k c h w` → `n k`."""
        import torch

        now, *step_0 = ([*self._features(frames)] for frames in rows.unbind(1))
        last = self.last.get(rows.shape, [torch.zeros_like(layer[:1]) for layer in now])
        before = [torch.cat([one, layer[:-1]]) for one, layer in zip(last, now, strict=True)]
        self.last[rows.shape] = [layer[-1:].clone() for layer in now]  # a view would keep the whole chunk
        return torch.stack([self._compared(now, other) for other in (before, *step_0)], dim=1)

    def _features(self, frames: Tensor) -> Iterator[Tensor]:
        """The trunk's layers, each pixel's features of length 1."""
        from lpips import normalize_tensor

        yield from map(normalize_tensor, self.network.net(self.network.scaling_layer(frames.float() / 127.5 - 1)))

    def _compared(self, one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
        """Σ over layers of the mean over pixels of the weighted squared difference: `n`."""
        import torch

        layers = zip(self.network.lins, one, other, strict=True)
        return torch.stack([head((a - b) ** 2).mean((1, 2, 3)) for head, a, b in layers]).sum(0)
