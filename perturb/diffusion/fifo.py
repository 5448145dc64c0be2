"""FIFO-Diffusion: a clip of any length from a queue that is denoised diagonally.

Axes: b batch, c channels, t frames, h w latents, k windows.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import torch
from einops import rearrange, repeat
from torch import Tensor

from perturb.diffusion.conditioning import Conditioning
from perturb.diffusion.ddim import DDIMSampler, ddim_step
from perturb.diffusion.guidance import guided
from perturb.diffusion.protocols import Defaults, SamplerStep, Work
from perturb.diffusion.sampler import Given
from perturb.diffusion.schedule import DDIMTable, NoiseSchedule
from perturb.diffusion.settings import check_whole, needs
from perturb.diffusion.spacing import Spacing
from perturb.errors import UserError

GENERATOR = "generator."


@dataclass
class FIFOState:
    """All that a run needs to go on: the queue b c L h w, iterations done, frames wanted, a generator per sample."""

    queue: Tensor
    done: int
    frames: int
    generators: list[torch.Generator]

    def tensors(self) -> dict[str, Tensor]:
        """The state as tensors on the CPU, to be saved; ``restore`` is the inverse, bit for bit."""
        states = {f"{GENERATOR}{i}": generator.get_state() for i, generator in enumerate(self.generators)}
        numbers = {"done": torch.tensor(self.done), "frames": torch.tensor(self.frames)}
        return {"queue": self.queue.cpu().clone(), **numbers, **states}

    @staticmethod
    def restore(tensors: Mapping[str, Tensor], device: torch.device | str = "cpu") -> "FIFOState":
        """The state that ``tensors`` holds."""
        generators = []
        for i in range(sum(name.startswith(GENERATOR) for name in tensors)):
            generators.append(torch.Generator())
            generators[-1].set_state(tensors[f"{GENERATOR}{i}"])
        return FIFOState(tensors["queue"].to(device), int(tensors["done"]), int(tensors["frames"]), generators)


@dataclass(frozen=True)
class FIFOSampler(DDIMSampler):
    """A queue of latents, each one step noisier than the one before it; every iteration gives one finished frame.

    Of f = ``window`` frames and n = ``partitions``, S = f n timesteps τ = linspace. DDIM gives f clean frames v; then

        Q_i = √a_i v[max(0, i − (S − f))] + √(1 − a_i) ε,   i = 0 … S − 1

    and, N + S − f times: one DDIM step of every frame of Q at its own timestep, the network seeing f frames at once
    (windows 0, f, 2f …); the first frame is finished and leaves; fresh noise joins at the end. The last N are the clip.
    ``lookahead``: f/2 finished frames are kept in front, windows begin every f/2, and only their noisier half is
    written: twice the work. ``latent_scale``: the published code leaves it out of the queue (``published``);
    ``corrected`` has it. ``windows_per_batch`` bounds the memory (None: all windows of an iteration are one batch).

    A conditioning with a text for each of the N frames is a script: the whole queue reads the text of the frame that
    leaves. Source: Kim et al. 2024 (arXiv 2405.11473) and their code.
    """

    spacing: Spacing = "linspace"
    window: int | None = None
    partitions: int = 4
    lookahead: bool = True
    latent_scale: Literal["published", "corrected"] = "published"
    windows_per_batch: int | None = None

    def resolved(self, defaults: Defaults) -> Self:
        """The same sampler with every None replaced by the model's default: f by its frames, steps by f n."""
        window = defaults.frames if self.window is None else self.window
        steps = window * self.partitions if self.steps is None else self.steps
        return dataclasses.replace(super().resolved(defaults), window=window, steps=steps)

    def check(self, schedule: NoiseSchedule, frames: int | None = None) -> None:
        """Raise UserError for settings that cannot be, and for fewer ``frames`` than a window has."""
        needs(self, "window")
        for name in ("window", "partitions", *(() if self.windows_per_batch is None else ("windows_per_batch",))):
            check_whole(f"sampler.{name}", getattr(self, name))
        if self.lookahead and self.frames_seen % 2:
            raise UserError(f"sampler.window is {self.frames_seen}; allowed with lookahead: an even number")
        if self.latent_scale not in ("published", "corrected"):
            raise UserError(f"sampler.latent_scale is {self.latent_scale!r}; allowed: published, corrected")
        super().check(schedule, frames)
        if self.steps != self.length:
            raise UserError(f"sampler.steps is {self.steps}; allowed: null, for window · partitions")
        if frames is not None and frames < self.frames_seen:
            raise UserError(f"FIFO makes at least sampler.window = {self.frames_seen} frames; {frames} are asked for")

    def sample(self, x_T: Tensor, given: Given) -> Tensor:
        """x_0 b c N h w from x_T of the same shape, of which the first f frames are read; N from f."""
        frames = self.stream(self.start(x_T, given), given)
        return torch.stack([frame for number, frame in frames if number >= 0], dim=2)

    def start(self, x_T: Tensor, given: Given) -> FIFOState:
        """The queue before the first iteration: f frames by DDIM, noised again."""
        frames, schedule = x_T.shape[2], given.schedule
        self.check(schedule, frames)
        if given.cond.image_latents is not None:
            raise UserError("FIFO is for models without image latents: a queue has no first frame to join them to")
        total = self.length + self.iterations(frames)
        first = dataclasses.replace(
            given.at_frame(0), on_step=lambda step: given.tell(dataclasses.replace(step, total=total))
        )
        video = super().sample(x_T[:, :, : self.frames_seen], first)
        return FIFOState(self.prepare(video, given), 0, frames, list(given.generators))

    @torch.no_grad()
    def stream(self, state: FIFOState, given: Given) -> Iterator[tuple[int, Tensor]]:
        """The frames as they are finished, b c h w, with their number: negative for those before the clip begins.

        ``state`` is changed in place, and its generators are read; saved after any frame, it goes on from there with
        the same numbers.
        """
        steps, last = self.length, self.iterations(state.frames)
        given = dataclasses.replace(given, generators=state.generators)
        while state.done < last:
            number = state.done - (steps - self.frames_seen)
            queue = self.iterate(state.queue, given.at_frame(max(number, 0)))
            frame = queue[:, :, self.leaves_at].clone()  # a view would keep every queue alive
            state.queue, state.done = shifted(queue, given.noise(frame)), state.done + 1
            given.tell(SamplerStep(steps + state.done, steps + last, 0, frame, queue))
            yield number, frame

    def work(self, frames: int) -> Work:
        """The base run, then all windows at every iteration; a window is f of the frames."""
        sides, share = self.how_guided().sides, self.frames_seen / frames
        windows = len(self.starts())
        at_once = min(self.windows_per_batch or windows, windows)
        return Work(sides * share * (self.length + windows * self.iterations(frames)), sides * share * at_once)

    def starts(self) -> range:
        """The first position of each window."""
        return range(0, self.length, self.frames_seen // 2 if self.lookahead else self.frames_seen)

    def iterations(self, frames: int) -> int:
        """N + S − f: the queue has to run out of the copies that it began with."""
        return frames + self.length - self.frames_seen

    @property
    def frames_seen(self) -> int:
        """f, the frames that the network sees at once."""
        return needs(self, "window")[0]

    @property
    def length(self) -> int:
        """S = f n."""
        return self.frames_seen * self.partitions

    @property
    def leaves_at(self) -> int:
        """The position of the frame that an iteration finishes."""
        return self.frames_seen // 2 if self.lookahead else 0

    def positions(self) -> Tensor:
        """The schedule index of every position of the queue, int64 of length L."""
        return torch.cat([torch.zeros(self.leaves_at, dtype=torch.long), torch.arange(self.length)])

    def queue_table(self, schedule: NoiseSchedule) -> DDIMTable:
        """The coefficients of the queue's steps."""
        table = self.table(schedule)
        if self.latent_scale == "corrected":
            return table
        return dataclasses.replace(table, scale=torch.ones_like(table.scale), scale_prev=torch.ones_like(table.scale))

    def prepare(self, video: Tensor, given: Given) -> Tensor:
        """The first queue, b c L h w, of clean frames b c f h w."""
        table, queue = self.queue_table(given.schedule), []
        for index in self.positions().tolist():
            row = table.row(index)
            clean = video[:, :, max(0, index - (len(table) - self.frames_seen))]
            queue.append(row.a**0.5 * row.scale * clean + (1 - row.a) ** 0.5 * given.noise(clean))
        return torch.stack(queue, dim=2)

    def iterate(self, queue: Tensor, given: Given) -> Tensor:
        """The queue after one step of every frame.

        Windows draw from the last to the first, frame by frame, and also for frames that are not written, as published.
        """
        starts = self.starts()[::-1]
        noises = [torch.stack([given.noise(queue[:, :, 0]) for _ in range(self.frames_seen)], dim=2) for _ in starts]
        size, result = self.windows_per_batch or len(starts), queue.clone()
        for begin in range(0, len(starts), size):
            chunk = starts[begin : begin + size]
            x = torch.cat([queue[:, :, start : start + self.frames_seen] for start in chunk])
            try:
                stepped = self._step(x, torch.cat(noises[begin : begin + size]), chunk, given)
            except torch.OutOfMemoryError:
                raise UserError(
                    f"{len(chunk)} windows at a time do not fit into the memory of the device; set "
                    f"sampler.windows_per_batch={max(len(chunk) // 2, 1)} (1 takes least)"
                ) from None
            for start, window in zip(chunk, stepped.chunk(len(chunk)), strict=True):
                result[:, :, start + self.leaves_at : start + self.frames_seen] = window[:, :, self.leaves_at :]
        return result

    def _step(self, x: Tensor, noise: Tensor, starts: Sequence[int], given: Given) -> Tensor:
        """One DDIM step of windows (k b) c f h w, every frame with the coefficients of its place in the queue."""
        table, positions = self.queue_table(given.schedule), self.positions()
        indices = torch.stack([positions[start : start + self.frames_seen] for start in starts])
        indices = repeat(indices, "k t -> (k b) t", b=len(x) // len(starts))
        cond = Conditioning.concat([given.cond] * len(starts))
        uncond = None if given.uncond is None else Conditioning.concat([given.uncond] * len(starts))
        t = table.timesteps[indices].to(x.device)
        output = guided(given.denoise, x, t, cond, uncond, self.how_guided()).float()
        return ddim_step(output, x, table.rows(indices, x.device), noise.to(x), given.schedule.prediction)[1]


def shifted(queue: Tensor, fresh: Tensor) -> Tensor:
    """The queue b c L h w without its first frame, and with ``fresh`` b c h w at its end."""
    return torch.cat([queue[:, :, 1:], rearrange(fresh, "b c h w -> b c 1 h w").to(queue)], dim=2)
