"""One clip at a time: a script of texts, frames written as they are finished, a queue that survives a kill.

Axes: b batch, c channels, t frames, h w pixels or latents, l text tokens, d features.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from perturb.data.script import Line
from perturb.diffusion import Conditioning, SamplerStep, draw, sample_generator
from perturb.diffusion.conditioning import by_frame
from perturb.diffusion.fifo import FIFOSampler, FIFOState
from perturb.diffusion.sampler import Given
from perturb.disks import writing
from perturb.errors import UserError
from perturb.store.rundir import run_id, write_atomic
from perturb.study.sample import Generator, save_clip, show_clip

IDENTITY = "identity"
SHOW_EVERY = 16  # frames between two mp4 of a growing clip: encoding all of them again costs little then


def scripted(cond: Conditioning, script: Sequence[Line], frames: int, blend: int = 0) -> Conditioning:
    """One sample with a text for each frame (`by_frame`), of the conditionings of the script's lines (in its order)."""
    if script[-1].frame >= frames:
        raise UserError(f"the script goes on to frame {script[-1].frame}; sample.frames is {frames}, allowed: more")
    if cond.asked and len(script) > 1:
        raise UserError("a pipeline is asked one text per clip, so it follows no script of several; give prompt=…")
    text = by_frame(cond.text, [line.frame for line in script], frames, blend)
    return dataclasses.replace(cond.index([0]), text=text[None])


@dataclass(frozen=True)
class Story:
    """One clip and where it goes: ``path`` (.npy), an mp4 beside it, and while it is made its frames and its queue.

    ``cond`` is that of one sample; all noise comes from the clip's ``id`` and ``seed``. ``identity`` is whatever else
    the clip depends on (weights, texts): an unfinished clip goes on only with the same.
    """

    generate: Generator
    cond: Conditioning
    id: str
    seed: int
    path: Path
    playback_fps: int
    identity: dict[str, Any]

    def tell(self, advance: Callable[[float], None]) -> np.ndarray:
        """Frames uint8 t h w c, also written; ``advance`` is told which share of the work is done."""

        def on_step(step: SamplerStep) -> None:
            advance(1 / step.total)

        make, generators = self.generate, [sample_generator("clip", self.id, self.seed)]
        given = Given(make.denoise, self.cond, make.uncond, generators, make.model.schedule, on_step)
        with make.quantised(), make.autocast():
            if isinstance(make.sampler, FIFOSampler):
                frames = self._stream(make.sampler, given, advance)
            else:
                x_T, uncond = self._noise(generators), make.uncond
                latents = make.sampler(make.denoise, x_T, self.cond, uncond, generators, given.schedule, on_step)
                frames = self._decode(latents)
        show_clip(self.path, frames, self.playback_fps)
        save_clip(self.path, frames)
        for leftover in (self._queue, self._raw):
            leftover.unlink(missing_ok=True)
        return frames

    def _stream(self, sampler: FIFOSampler, given: Given, advance: Callable[[float], None]) -> np.ndarray:
        state = self._resume()
        if state is None:
            state = sampler.start(self._noise(given.generators), given)
            with writing(self._raw):
                self._raw.parent.mkdir(parents=True, exist_ok=True)
                self._raw.write_bytes(b"")
            self._save(state)
        else:
            total = sampler.length + sampler.iterations(state.frames)
            advance((sampler.length + state.done) / total)
        for number, latent in sampler.stream(state, given):
            if number >= 0:
                # what a kill left behind the last saved queue is overwritten
                with writing(self._raw), self._raw.open("r+b") as file:
                    file.seek(number * self._frame_bytes)
                    file.write(self._decode(latent[:, :, None]).tobytes())
            self._save(state)
            if number > 0 and number % SHOW_EVERY == 0:
                show_clip(self.path, self._frames(number + 1), self.playback_fps)
        return self._frames(state.frames)

    def _resume(self) -> FIFOState | None:
        """The saved queue of this very clip; UserError when another one was begun in its place."""
        if not self._queue.is_file():
            return None
        tensors = load(self._queue.read_bytes())
        if bytes(tensors.pop(IDENTITY).tolist()).decode() != self._identity:
            raise UserError(
                f"{self._queue} is the queue of another clip (model, text, sampler or size differ): give another "
                "output=…, or delete it to begin anew"
            )
        return FIFOState.restore(tensors, self.generate.model.device)

    def _save(self, state: FIFOState) -> None:
        identity = torch.tensor(list(self._identity.encode()), dtype=torch.uint8)
        write_atomic(self._queue, save(state.tensors() | {IDENTITY: identity}))

    def _noise(self, generators: Sequence[torch.Generator]) -> Tensor:
        model = self.generate.model
        return draw(self.generate.format.latent(model), generators, model.device)

    def _decode(self, latents: Tensor) -> np.ndarray:
        return self.generate.decode(latents)[0]

    def _frames(self, count: int) -> np.ndarray:
        form = self.generate.format
        shape = (count, form.height, form.width, 3)
        return np.fromfile(self._raw, np.uint8, count * self._frame_bytes).reshape(shape)

    @property
    def _identity(self) -> str:
        return run_id(self.identity | self.generate.describe() | {"id": self.id, "seed": self.seed})

    @property
    def _frame_bytes(self) -> int:
        return self.generate.format.height * self.generate.format.width * 3

    @property
    def _queue(self) -> Path:
        return self.path.with_suffix(".queue.safetensors")

    @property
    def _raw(self) -> Path:
        return self.path.with_suffix(".frames")
