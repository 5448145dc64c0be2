"""DINO: does the subject stay itself? Axes: t frames, c channels, h w pixels, d features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perturb.metrics.base import Clip, Context, MetricInfo, Value
from perturb.metrics.learned.files import frozen, pretrained
from perturb.metrics.learned.network import Learned, pixels, through, values
from perturb.metrics.learned.similarity import consistency
from perturb.metrics.learned.weights import hub

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import ViTModel

DINO = hub("facebook/dino-vitb16")


@dataclass(frozen=True)
class DinoEncoder:
    """A ViT and the processor published with it."""

    model: ViTModel
    processor: Any
    device: str

    def prepare(self, clip: Clip) -> Tensor:
        """The frames as the network takes them: `t c h w`, resized and normalised."""
        return self.processor(images=pixels(clip, self.device), return_tensors="pt")["pixel_values"]

    def features(self, frames: Tensor) -> Tensor:
        """The class token after the last layer: `t c h w` → `t d`."""
        return self.model(pixel_values=frames).last_hidden_state[:, 0]


class Dino(Learned[DinoEncoder]):
    """Subject consistency."""

    weights = (DINO,)
    infos = (
        MetricInfo.of(
            "subject_consistency",
            "motion",
            "mean over t ≥ 1 of ½[max(0, cos to previous) + max(0, cos to first)] of DINO ViT-B/16 class tokens",
            "VBench (Huang et al. 2024); Caron et al. 2021",
            "A static clip has 1: read it beside the dynamics. The whole frame counts, not the subject alone. "
            "Frames are squeezed to a square of 224 px, as the published processor does; VBench keeps their "
            "proportions.",
            needs=(DINO.name,),
            depends=("fps",),
        ),
    )

    def load(self, paths: Sequence[Path], device: str) -> DinoEncoder:
        """The network without the pooling layer, which DINO does not have."""
        from transformers import ViTImageProcessor, ViTModel

        model = pretrained(ViTModel, paths[0], add_pooling_layer=False)
        processor = ViTImageProcessor.from_pretrained(paths[0], local_files_only=True)
        return DinoEncoder(frozen(model, device), processor, device)

    def __call__(self, clips: Sequence[Clip], context: Context) -> Mapping[str, Sequence[Value]]:
        encoder = self.network()
        kept = through(encoder.features, clips, encoder.prepare, chunk=self.chunk)
        return values({"subject_consistency": lambda _clip, found: consistency(found)}, clips, kept)
