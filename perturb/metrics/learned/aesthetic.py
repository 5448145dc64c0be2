"""LAION's aesthetic predictor: a linear map of CLIP ViT-L/14 embeddings. Axes: t frames, d features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from perturb.metrics.base import Clip, Context, MetricInfo, Value
from perturb.metrics.learned.clip import ClipEncoder
from perturb.metrics.learned.files import frozen, state_dict
from perturb.metrics.learned.network import Learned, through, values
from perturb.metrics.learned.weights import WeightFile, hub

if TYPE_CHECKING:
    from torch import Tensor, nn

CLIP_LARGE = hub("openai/clip-vit-large-patch14")
HEAD = WeightFile(
    "sa_0_4_vit_l_14_linear.pth",
    "https://github.com/LAION-AI/aesthetic-predictor/raw/main/sa_0_4_vit_l_14_linear.pth",
    licence="MIT (LAION-AI/aesthetic-predictor)",
)


@dataclass(frozen=True)
class AestheticModel:
    """CLIP and the linear head on its normalised embeddings."""

    encoder: ClipEncoder
    head: nn.Linear

    def rate(self, frames: Tensor) -> Tensor:
        """LAION's rating of each prepared frame, nominally 1 to 10: `t c h w` → `t 1`."""
        import torch

        return self.head(torch.nn.functional.normalize(self.encoder.images(frames), dim=-1))


class Aesthetic(Learned[AestheticModel]):
    """LAION's rating, mean over frames, in tenths."""

    weights = (CLIP_LARGE, HEAD)
    infos = (
        MetricInfo.of(
            "aesthetic",
            "visual",
            "mean over frames of (w·x/‖x‖ + b)/10, x = CLIP ViT-L/14 embedding",
            "LAION aesthetic predictor v1 (Schuhmann et al. 2022), as in VBench (Huang et al. 2024)",
            "The range is nominal: the head is linear and not clamped. It likes artwork and saturation, and sees "
            "only the central square of 224 px.",
            needs=(CLIP_LARGE.name, HEAD.name),
        ),
    )

    def load(self, paths: Sequence[Path], device: str) -> AestheticModel:
        """CLIP from its snapshot, the head from LAION's file; their widths must agree."""
        from torch import nn

        encoder = ClipEncoder.read(paths[0], device)
        head = nn.Linear(encoder.model.visual_projection.out_features, 1)
        head.load_state_dict(state_dict(paths[1]))
        return AestheticModel(encoder, frozen(head, device))

    def __call__(self, clips: Sequence[Clip], context: Context) -> Mapping[str, Sequence[Value]]:
        model = self.network()
        kept = through(model.rate, clips, model.encoder.prepare, chunk=self.chunk)
        return values({"aesthetic": lambda _clip, found: float(np.mean(found)) / 10}, clips, kept)
