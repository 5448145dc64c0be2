"""Stills in some steps of a training and videos in the others."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from perturb.data.feed import Feed
from perturb.data.source import Sample
from perturb.diffusion import sample_generator
from perturb.structured import check_range

BLOCK = 4096  # steps whose draws are made together


class JointFeed:
    """Stills in some steps and videos in the others, so that all samples of a step have the same number of frames.

    A step takes its whole batch from ``images`` with probability ``image_share``, by a draw of (seed, step). Each feed
    counts its own steps, so that its epochs stay whole.
    """

    def __init__(self, images: Feed, videos: Feed, *, image_share: float, seed: int) -> None:
        check_range("image_share", image_share, low=0, high=1)
        self.images, self.videos, self.image_share, self.seed = images, videos, image_share, seed
        self._drawn: list[Tensor] = []  # per block of steps: how many image steps up to and including each
        self._before = [0]  # and before the block

    def samples(self, step: int, places: Sequence[int]) -> list[Sample]:
        """See `Feed.samples`."""
        still, own_step = self.turn(step)
        return (self.images if still else self.videos).samples(own_step, places)

    def turn(self, step: int) -> tuple[bool, int]:
        """Whether ``step`` sees stills, and which step of that feed it is."""
        block, offset = divmod(step, BLOCK)
        while len(self._drawn) <= block:
            generator = sample_generator("joint", self.seed, len(self._drawn))
            still = torch.rand(BLOCK, generator=generator) < self.image_share
            self._drawn.append(still.cumsum(0))
            self._before.append(self._before[-1] + int(still.sum()))
        so_far = self._drawn[block]
        before = int(so_far[offset - 1]) if offset else 0
        stills = self._before[block] + before
        return (True, stills) if int(so_far[offset]) > before else (False, step - stills)

    def state(self) -> dict[str, Any]:
        """See `Feed.state`."""
        return {"images": self.images.state(), "videos": self.videos.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Feed.restore`."""
        self.images.restore(state["images"])
        self.videos.restore(state["videos"])
