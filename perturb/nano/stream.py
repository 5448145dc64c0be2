"""What a training on the embedded world sees: latents encoded once, drawn by (seed, step).

Twins see the same clips in the same order with the same noises and timesteps: every draw of a step is a function of
(seed, step) and of nothing else. ``digest`` is the proof.

Axes: b batch, c channels, t frames, h w latents, l text tokens, d features.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from einops import repeat
from torch import Tensor

from perturb.diffusion import sample_generator
from perturb.diffusion.draws import epoch_order
from perturb.diffusion.noise import offset
from perturb.errors import UserError
from perturb.loop.task import Drawn
from perturb.models.videocrafter.system import VideoSystem
from perturb.nano.latents import LatentSet


@dataclass(frozen=True)
class Draw:
    """Everything random in one step: which samples, timesteps, noises ``b c t h w``, and whose caption is dropped."""

    index: Tensor
    timestep: Tensor
    noise: Tensor
    posterior_noise: Tensor
    dropped: Tensor


@dataclass(frozen=True, kw_only=True)
class Stream:
    """What a training sees, step by step: a pure function of (seed, step), whatever is trained.

    ``frames``: how many frames the diffusion noise has, None: as many as the latents (another number repeats stills).
    """

    latents: LatentSet
    batch_size: int
    seed: int
    text_dropout: float
    timesteps: int
    frames: int | None = None

    def __post_init__(self) -> None:
        if self.batch_size > len(self.latents):
            raise UserError(
                f"a batch of {self.batch_size} cannot be drawn from {len(self.latents)} samples of the embedded world: "
                "raise the count of data.world and data.world_stills, or lower the batch_size of stages"
            )

    def draw(self, step: int) -> Draw:
        """The draws of ``step``. Samples come epoch by epoch, each a permutation seeded by (seed, epoch)."""
        per_epoch = len(self.latents) // self.batch_size
        order = epoch_order(len(self.latents), self.seed, step // per_epoch)
        begin = step % per_epoch * self.batch_size
        generator = sample_generator("step", self.seed, step)
        shape = (self.batch_size, *self.latents.mean.shape[1:])
        noise_shape = shape if self.frames is None else (*shape[:2], self.frames, *shape[3:])
        return Draw(
            index=order[begin : begin + self.batch_size],
            timestep=torch.randint(self.timesteps, (self.batch_size,), generator=generator),
            noise=torch.randn(noise_shape, generator=generator),
            posterior_noise=torch.randn(shape, generator=generator),
            dropped=torch.rand(self.batch_size, generator=generator) < self.text_dropout,
        )

    def digest(self, steps: int) -> str:
        """SHA-256 over samples, timesteps, dropped captions and each sample's first noise value, for all steps."""
        return digest_of(self.draw(step) for step in range(steps))


def digest_of(draws: Iterable[Draw]) -> str:
    """SHA-256 over samples, timesteps, dropped captions and each sample's first noise value."""
    digest = hashlib.sha256()
    for d in draws:
        for part in (d.index, d.timestep, d.dropped, d.noise.flatten(1)[:, 0]):
            digest.update(part.numpy().tobytes())
    return digest.hexdigest()


class WorldBatches(Drawn):
    """Batches of the embedded world for one stage: of ``video``, or by a draw of (seed, step) of ``stills``.

    ``offset_noise`` is the strength of the noise's own mean. With ``text_ids`` the text comes as ids instead of tokens.
    """

    def __init__(
        self,
        system: VideoSystem,
        video: Stream,
        *,
        stills: Stream | None = None,
        image_share: float = 0.0,
        offset_noise: float = 0.0,
        text_ids: bool,
    ) -> None:
        self.system, self.video, self.stills = system, video, stills
        self.image_share, self.offset_noise = image_share, offset_noise
        self.captions = {id(s): Captions(system, s.latents, as_ids=text_ids) for s in (video, stills) if s is not None}
        self.draw = lru_cache(maxsize=1)(self._draw)

    def load(self, step: int, places: range) -> Draw:
        """The draws of the whole batch; the latents are in memory."""
        del places
        return self.draw(step)

    def inputs(self, step: int, places: range, loaded: Draw) -> tuple[Tensor, ...]:
        """x0, t, noise, text and fps of ``places`` of the batch of ``step``, on the model's device."""
        stream, d = self.stream(step), loaded
        rows = slice(places.start, places.stop)
        index, latents = d.index[rows], stream.latents
        mean, std = latents.mean[index].float(), latents.std[index].float()
        x0 = self.system.spec.vae.scale_factor * (mean + std * d.posterior_noise[rows])
        if x0.shape[2] != d.noise.shape[2]:
            x0 = repeat(x0, "b c 1 h w -> b c t h w", t=d.noise.shape[2])
        text = self.captions[id(stream)](index, d.dropped[rows])
        parts = (x0, d.timestep[rows], d.noise[rows], text, latents.fps[index])
        return tuple(part.to(self.system.device) for part in parts)

    def stream(self, step: int) -> Stream:
        """Which of the two streams ``step`` takes its whole batch from."""
        if self.stills is None:
            return self.video
        share = torch.rand((), generator=sample_generator("joint", self.video.seed, step))
        return self.stills if float(share) < self.image_share else self.video

    def digest(self, steps: int, gather: Callable[[list[Any]], list[Any]]) -> str:
        """Of all draws; every process knows the whole batch, so nothing has to be gathered."""
        del gather
        return digest_of(self._draw(step) for step in range(steps))

    def _draw(self, step: int) -> Draw:
        d = self.stream(step).draw(step)
        if self.offset_noise == 0:
            return d
        noise = offset(d.noise, self.offset_noise, sample_generator("offset", self.video.seed, step))
        return Draw(d.index, d.timestep, noise, d.posterior_noise, d.dropped)


class Captions:
    """Text of samples, the empty prompt where a caption is dropped: ids ``b l``, or tokens ``b l d`` encoded once."""

    def __init__(self, system: VideoSystem, latents: LatentSet, *, as_ids: bool) -> None:
        unique = ["", *sorted(set(latents.captions))]
        position = {caption: i for i, caption in enumerate(unique)}
        self.position = torch.tensor([position[caption] for caption in latents.captions])
        self.table = system.tokenizer(unique) if as_ids else system.embed(unique).cpu()

    def __call__(self, index: Tensor, dropped: Tensor) -> Tensor:
        return self.table[self.position[index].masked_fill(dropped, 0)]
