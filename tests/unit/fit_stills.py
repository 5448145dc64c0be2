"""What the fit tests share: five stills of noise with captions, and settings for a short fit."""

from typing import Any

import pytest
import torch
from torch import Tensor

from perturb.data.images import ImageSet, Policy
from perturb.models.base import VideoModel
from perturb.study.fit import FitConfig, Objective, Setup
from perturb.study.fit_data import Batch, FitData

SMALL = FitConfig(batch_size=2, warmup_steps=2, save_every=3, learning_rate=0.01)


def setup(model: VideoModel, images: ImageSet | None = None, config: FitConfig = SMALL, **more: Any) -> Setup:
    """The model with its own partition."""
    return Setup(model=model, partition=model.partition(), images=images or Stills(), config=config, **more)


def cut_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the loss be computed so often, and end the process after it (as far as a test can)."""
    real, left = Objective.forward, iter(range(steps))

    def forward(self: Objective, batch: Batch) -> Tensor:
        if next(left, None) is None:
            raise KeyError("power cut")
        return real(self, batch)

    monkeypatch.setattr(Objective, "forward", forward)


def whole(data: FitData, step: int) -> Batch:
    """The batch of ``step``, undivided."""
    (batch,) = data.inputs(step, range(data.config.batch_size))
    return batch


class Stills:
    """Five images of noise."""

    captions = ("a red circle", "a blue star", "a green square", "a cyan circle", "a purple star")

    def __init__(self, as_video: Policy = "single_frame") -> None:
        self.as_video: Policy = as_video
        self.loaded: list[int] = []

    def __len__(self) -> int:
        return len(self.captions)

    def load(self, index: int, height: int, width: int) -> Tensor:
        self.loaded.append(index)
        generator = torch.Generator().manual_seed(index)
        return torch.rand(3, height, width, generator=generator) * 2 - 1

    def caption(self, index: int) -> str:
        return self.captions[index]

    def describe(self) -> dict[str, Any]:
        return {"source": "test", "count": len(self)}
