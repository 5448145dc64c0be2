"""What a training on files sees: samples of a feed, encoded by the frozen autoencoder on the way.

Every draw of a sample is a function of (seed, step, place), so that it does not depend on how a batch is divided.
Axes: b batch, c channels, t frames, h w pixels or latents, l text tokens, d features.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor

from perturb.data.feed import Feed
from perturb.data.source import Sample
from perturb.diffusion.draws import draw_sample
from perturb.models.videocrafter.system import VideoSystem

PROBES = 64  # values of a sample's frames that go into the digest: enough to tell another start or crop

Entry = tuple[int, int, str]
"""Step, place and digest of one sample that was seen."""


@dataclass(frozen=True, kw_only=True)
class FeedSettings:
    """``frames``: how many a repeated still gets, None: it stays one frame. ``still_fps``: what is told of stills."""

    seed: int
    text_dropout: float
    offset_noise: float
    frames: int | None
    still_fps: int
    text_ids: bool
    prefetch: bool


class FeedBatches:
    """Batches of one stage from ``feed``. The digest is a chain over the samples in the order of the global batches."""

    def __init__(self, system: VideoSystem, feed: Feed, settings: FeedSettings) -> None:
        self.system, self.feed, self.settings = system, feed, settings
        self.chain = ""
        self.seen: list[Entry] = []
        self.position: dict[str, Any] = feed.state()
        self.loader = ThreadPoolExecutor(1, "feed") if settings.prefetch else None
        self.pending: dict[tuple[int, range], Future[tuple[list[Sample], dict[str, Any]]]] = {}

    def load(self, step: int, places: range) -> list[Sample]:
        """The samples at ``places`` of the batch of ``step``, waited for where their loading has begun."""
        future = self.pending.pop((step, places), None)
        samples, self.position = self._load(step, places) if future is None else future.result()
        return samples

    def inputs(self, step: int, places: range, loaded: Sequence[Sample]) -> tuple[Tensor, ...]:
        """x0, t, noise, text and fps of the samples that were loaded, on the model's device."""
        rows = [self._row(step, place, sample) for place, sample in zip(places, loaded, strict=True)]
        return tuple(torch.stack(part).to(self.system.device) for part in zip(*rows, strict=True))

    def expect(self, step: int, places: range) -> None:
        """Begin to load these in the background."""
        if self.loader is not None:
            self.pending[step, places] = self.loader.submit(self._load, step, places)

    def digest(self, steps: int, gather: Callable[[list[Any]], list[Any]]) -> str:
        """SHA-256 chained over every sample seen, in the order of steps and places."""
        del steps
        self._settle(gather)
        return self.chain

    def state(self, gather: Callable[[list[Any]], list[Any]]) -> dict[str, Any]:
        """Where the feed is after the last samples that were used, and the digest of all that was seen."""
        self._settle(gather)
        return {"feed": self.position, "chain": self.chain}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self.feed.restore(state["feed"])
        self.position, self.chain = dict(state["feed"]), state["chain"]

    def _load(self, step: int, places: range) -> tuple[list[Sample], dict[str, Any]]:
        """Samples, and where the feed is after them: it may be further on by the time they are used."""
        return self.feed.samples(step, places), self.feed.state()

    def _row(self, step: int, place: int, sample: Sample) -> tuple[Tensor, ...]:
        """Of one sample x0 c t h w, t, noise c t h w, text (ids l or tokens l d) and fps."""
        settings = self.settings
        # one by one: a latent must not depend on which samples share its micro-batch
        mean, std = (x[0].cpu() for x in self.system.posterior(rearrange(sample.frames, "c t h w -> 1 c t h w")))
        still = mean.shape[1] == 1
        frames = settings.frames if still else None
        drawn = draw_sample(
            "train",
            settings.seed,
            step,
            place,
            timesteps=self.system.spec.schedule.timesteps,
            text_dropout=settings.text_dropout,
            latent=mean.shape,
            frames=frames,
            offset_noise=settings.offset_noise,
        )
        x0 = self.system.spec.vae.scale_factor * (mean + std * drawn.posterior)
        if frames is not None:
            x0 = repeat(x0, "c 1 h w -> c t h w", t=frames)
        fps = settings.still_fps if still else round(sample.fps)
        self.seen.append((step, place, _digest(sample, (fps, int(drawn.timestep), drawn.dropped), drawn.noise)))
        text = self._text("" if drawn.dropped else sample.caption)
        return x0, drawn.timestep, drawn.noise, text, torch.tensor(fps)

    def _text(self, caption: str) -> Tensor:
        return self.system.tokenizer([caption])[0] if self.settings.text_ids else self.system.embed([caption])[0].cpu()

    def _settle(self, gather: Callable[[list[Any]], list[Any]]) -> None:
        """Take what all processes have seen since the last time into the chain."""
        for step, place, digest in sorted(gather(self.seen)):
            self.chain = hashlib.sha256(f"{self.chain} {step} {place} {digest}".encode()).hexdigest()
        self.seen = []


def _digest(sample: Sample, drawn: tuple[int, int, bool], noise: Tensor) -> str:
    """SHA-256 over which sample, which part of it, and what was drawn for it."""
    values = sample.frames.flatten()
    probes = values[:: max(1, len(values) // PROBES)].contiguous()
    digest = hashlib.sha256(repr((sample.key, sample.caption, tuple(sample.frames.shape), *drawn)).encode())
    digest.update(probes.numpy().tobytes())
    digest.update(noise.flatten()[:1].numpy().tobytes())
    return digest.hexdigest()
