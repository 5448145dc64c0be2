"""How well a model predicts an image set: the loss that says whether a fit has converged and how far D_I is.

    L(D) = mean over stills i and timesteps t of the model's loss,  t = (2k + 1)/10 · T, k = 0 … 4

on the same stills, latents and noises every time it is asked, without text dropout.
Axes: c channels, t frames, h w latents.
"""

import dataclasses

import torch

from perturb.data.images import ImageSet
from perturb.diffusion import Conditioning
from perturb.models.base import Batch, VideoModel
from perturb.study.fit_data import FitConfig, FitData

LEVELS = 5
"""Timesteps, the middles of as many equal parts of the schedule: 100, 300, 500, 700, 900 of 1000, as in validations."""
STILLS = 32
"""Of the set, evenly spaced: the standard error of L is then about 5 % (shipped twins, high-grade stills)."""


class ProbeLoss:
    """L(D) of ``model`` as it is whenever this is called."""

    def __init__(self, model: VideoModel, images: ImageSet, config: FitConfig) -> None:
        self.model = model
        self.data = FitData(model, images, dataclasses.replace(config, text_dropout=0.0))
        count = min(STILLS, len(images))
        self.stills = [i * len(images) // count for i in range(count)]

    @torch.no_grad()
    def __call__(self) -> float:
        """The mean over stills and timesteps, float64."""
        total = self.model.schedule.timesteps
        losses = []
        for level in range(LEVELS):
            timestep = (2 * level + 1) * total // (2 * LEVELS)
            for first in range(0, len(self.stills), self.data.config.batch_size):
                losses.append(self.model.loss(self._batch(first, timestep)).double().cpu())
        return float(torch.cat(losses).mean())

    def _batch(self, first: int, timestep: int) -> Batch:
        """As many stills as a fitting step has; noise by (timestep, still)."""
        places = range(first, min(first + self.data.config.batch_size, len(self.stills)))
        parts = [self.data.sample("probe", timestep, place, self.stills[place]) for place in places]
        x0, noise, _, cond = zip(*parts, strict=True)
        device = self.model.device
        t = torch.full((len(places),), timestep, device=device)
        return Batch(torch.stack(x0).to(device), t, torch.stack(noise).to(device), Conditioning.concat(cond).to(device))
