"""Sample the same prompts from the same noises, in one state after the other.

Axes: b batch, c channels, t frames, h w pixels or latents.
"""

import io
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from perturb.data.images import load_conditioning_image
from perturb.data.prompts import Prompt
from perturb.diffusion import Conditioning, Sampler, draw, sample_generator
from perturb.disks import convenience
from perturb.errors import UserError
from perturb.loop.rank import mine, processes, wait_for
from perturb.models.base import Architecture, VideoModel, to_uint8
from perturb.models.execution import Quantised, check_quantised, quantised
from perturb.models.tiling import decode_in_tiles
from perturb.perturbation import Perturbation
from perturb.progress import progress
from perturb.store.rundir import RunDir, write_atomic
from perturb.store.states import State
from perturb.store.video import write_mp4
from perturb.structured import check_range
from perturb.study.shared import SharedClips, place


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """What to sample: one clip per prompt and noise seed; None means the model's default.

    ``fps`` is what the model is told, ``playback_fps`` that of the mp4; ``precision`` is that of autocast;
    ``negative_prompt`` is what guidance leads away from; ``tile`` pixels is the side of the overlapping tiles in which
    frames are decoded (``decode_in_tiles``), None: at once; ``quantise`` is what Linear weights of the network are
    rounded to (`quantised`), None: they are not.
    """

    seeds: tuple[int, ...] = (0,)
    batch_size: int = 32
    height: int | None = None
    width: int | None = None
    frames: int | None = None
    fps: int | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    negative_prompt: str = ""
    tile: int | None = None
    quantise: Quantised | None = None
    playback_fps: int = 8

    def __post_init__(self) -> None:
        for name in ("batch_size", "height", "width", "frames", "tile", "playback_fps"):
            check_range(f"sample.{name}", getattr(self, name), low=1)
        check_range("sample.fps", self.fps, low=0)
        if not self.seeds or len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0:
            raise UserError(f"sample.seeds is {list(self.seeds)}; allowed: different whole numbers from 0")


@dataclass(frozen=True)
class ClipFormat:
    """Size of a clip in pixels and frames, and the frame rate the model is told."""

    height: int
    width: int
    frames: int
    fps: int

    @staticmethod
    def of(config: SampleConfig, model: Architecture) -> "ClipFormat":
        """The configured format, the model's where left open. UserError for a size the network cannot take."""
        chosen = {
            name: getattr(model.sampling if getattr(config, name) is None else config, name)
            for name in ("height", "width", "frames", "fps")
        }
        for name in ("height", "width"):
            if chosen[name] % model.size_multiple:
                allowed = f"multiples of {model.size_multiple}"
                raise UserError(f"sample.{name} is {chosen[name]}; allowed for {model.name}: {allowed}")
        return ClipFormat(**chosen)

    def latent(self, model: Architecture) -> tuple[int, int, int, int]:
        """Shape c t h w of a latent."""
        return model.latent_shape(self.frames, self.height, self.width)


def tile_of(config: SampleConfig, model: Architecture) -> int | None:
    """The side of a tile in latents, None for whole frames. UserError for one that is no whole number of latents."""
    if config.tile is None:
        return None
    pixels = model.size_multiple
    if config.tile % pixels:
        raise UserError(f"sample.tile is {config.tile}; allowed for {model.name}: multiples of {pixels}, or null")
    return model.latent_shape(model.sampling.frames, config.tile, config.tile)[-1]


class Generator:
    """Frames from (prompt, noise seed) for a fixed list of prompts; their text is encoded once, here.

    ``image`` is the file that conditions the clips of prompts without images of their own, or pixels for each prompt as
    `VideoModel.conditioning` takes them: image-to-video models need one of them, the others refuse all.
    """

    def __init__(
        self,
        model: VideoModel,
        sampler: Sampler,
        prompts: Sequence[Prompt],
        config: SampleConfig,
        *,
        image: str | Tensor | None,
    ) -> None:
        self.model, self.sampler = model, sampler.resolved(model.sampling)
        self.prompts, self.precision = prompts, config.precision
        self.format = ClipFormat.of(config, model)
        # here, because fitting comes before the first clip
        self.shape = self.format.latent(model)
        self.sampler.check(model.schedule, self.format.frames)
        self.tile = tile_of(config, model)
        self.quantise: Quantised | None = config.quantise
        check_quantised(self.quantise)
        model.check_prompts({prompt.id: prompt.text for prompt in prompts})
        self.cond = self._told(image)
        self.uncond = model.unconditional(1, self.format.fps, config.negative_prompt)
        self.jobs = [(index, seed) for seed in config.seeds for index in range(len(prompts))]
        # The same division whatever is done already: a clip depends on its batch in the last bits.
        self.batches = [self.jobs[i : i + config.batch_size] for i in range(0, len(self.jobs), config.batch_size)]

    def _told(self, image: str | Tensor | None) -> Conditioning:
        """Of all prompts in their order. Images that differ are encoded one by one: each as if it were alone."""
        texts, fps = [prompt.text for prompt in self.prompts], self.format.fps
        if isinstance(image, Tensor):
            return self._one_by_one(image.split(1)) if len(image) > 1 else self.model.conditioning(texts, fps, image)
        given = [prompt.images or (() if image is None else (image,)) for prompt in self.prompts]
        if len(set(given)) == 1:
            return self.model.conditioning(texts, fps, self._pixels(given[0]))
        if lacking := [prompt.id for prompt, files in zip(self.prompts, given, strict=True) if not files]:
            raise UserError(
                f"{len(lacking)} prompts have no image, e.g. {lacking[0]}: give each one, or image=… for them"
            )
        return self._one_by_one(map(self._pixels, given))

    def _one_by_one(self, images: Iterable[Tensor | None]) -> Conditioning:
        pairs = zip(self.prompts, images, strict=True)
        return Conditioning.concat([self.model.conditioning([p.text], self.format.fps, image) for p, image in pairs])

    def _pixels(self, files: Sequence[str]) -> Tensor | None:
        """1 3 h w of one image, 1 3 2 h w of a first and a last one."""
        size, crop = (self.format.height, self.format.width), self.model.crops_image
        images = [load_conditioning_image(file, *size, crop=crop) for file in files]
        return torch.stack(images, dim=2) if len(images) > 1 else next(iter(images), None)

    def __call__(self, batch: Sequence[tuple[int, int]], advance: Callable[[float], None]) -> np.ndarray:
        """Frames uint8 b t h w c of (prompt index, noise seed) pairs; ``advance`` hears how many clips' work is done.

        All noise of a clip comes from its prompt id and seed: x_T first, then what the sampler draws.
        """
        generators = [sample_generator("clip", self.prompts[index].id, seed) for index, seed in batch]
        x_T = draw(self.shape, generators, self.model.device)
        with self.quantised(), self.autocast():  # autocast here for a sampler that calls the network itself
            latents = self.sampler(
                self.denoise,
                x_T,
                self.cond.index([index for index, _ in batch]),
                self.uncond.index([0] * len(batch)),
                generators,
                self.model.schedule,
                lambda step: advance(len(batch) / step.total),
            )
        return self.decode(latents)

    def decode(self, latents: Tensor) -> np.ndarray:
        """Frames uint8 b t h w c of latents b c t h w, in tiles where that was asked for."""
        return to_uint8(decode_in_tiles(self.model.decode, latents, self.tile)).cpu().numpy()

    def denoise(self, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        """The system's prediction in the configured precision."""
        with self.autocast():
            return self.model.denoise(x, t, cond)

    def autocast(self) -> torch.autocast:
        """Inside, the network computes in the precision that was asked for."""
        return torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    def quantised(self) -> AbstractContextManager[None]:
        """Inside, the network's weights are quantised where that was asked for."""
        return quantised(self.model.network, self.quantise)

    @property
    def samples(self) -> list[tuple[str, int]]:
        """(prompt id, noise seed) of every clip of one state."""
        return [(self.prompts[index].id, seed) for index, seed in self.jobs]

    def describe(self) -> dict[str, Any]:
        """For the manifest: format, sampler with its settings, number of clips, hashes of the prompts' own images."""
        seeds = sorted({seed for _, seed in self.jobs})
        images = {prompt.id: prompt.digests() for prompt in self.prompts if prompt.images}
        return (
            asdict(self.format)
            | {"sampler": repr(self.sampler), "precision": self.precision, "seeds": seeds}
            | ({"images": images} if images else {})
            | {name: value for name in ("tile", "quantise") if (value := getattr(self, name)) is not None}
        )


def sample(
    generate: Generator,
    perturbation: Perturbation,
    states: Sequence[State],
    run: RunDir,
    *,
    playback_fps: int,
    shared: SharedClips | None,
) -> None:
    """Write the clips of every state: ``.npy`` (uint8 t h w c, lossless) and ``.mp4``; what is there is kept.

    ``perturbation`` is attached; it is loaded with the adapter of each state. A batch of which any clip is missing is
    made again as a whole, so that a resumed run has the bytes of an uninterrupted one. Processes take batches by turns;
    the one that writes the run waits for all of them. A state without Δ is the same in every run of its model: its
    batches are taken from ``shared``, and left there.
    """
    batches = {
        state.id: [Batch(generate, jobs, _paths(run, state.id, generate, jobs)) for jobs in generate.batches]
        for state in states
        if not run.is_done("sample", state.id)
    }
    todo = [
        (state, [b for b in mine(batches[state.id]) if not b.is_whole(b.files)])
        for state in states
        if state.id in batches
    ]
    total = sum(len(batch.jobs) for _, pending in todo for batch in pending)
    with progress("sample", total) as advance:
        for state, pending in todo:
            perturbation.load(run.adapter(state.id))
            with perturbation.merged():
                for batch in pending:
                    if shared is not None and state.magnitude == 0:
                        batch.share(shared, advance, playback_fps)
                    else:
                        batch.make(advance, playback_fps)
            if processes() == 1:
                run.mark_done("sample", state.id)
    for state, made in batches.items() if run.writes else ():
        wait_for(lambda made=made: all(batch.is_whole(batch.files) for batch in made))
        run.mark_done("sample", state)


@dataclass(frozen=True)
class Batch:
    """Clips that are sampled together: (prompt index, noise seed) pairs, and the file of each."""

    generate: Generator
    jobs: Sequence[tuple[int, int]]
    files: Sequence[Path]

    def is_whole(self, files: Sequence[Path]) -> bool:
        """Whether clips of the format lie there."""
        return all(_is_clip(file, self.generate.format) for file in files)

    def make(self, advance: Callable[[float], None], fps: float) -> None:
        """Sample and write them."""
        for frames, file in zip(self.generate(self.jobs, advance), self.files, strict=True):
            show_clip(file, frames, fps)
            save_clip(file, frames)  # last: the clip counts as made from here on

    def share(self, shared: SharedClips, advance: Callable[[float], None], fps: float) -> None:
        """Take them from ``shared``; where they are not there yet, make them and leave them there."""
        prompts = self.generate.prompts
        with shared.batch([(prompts[i].id, prompts[i].text, seed) for i, seed in self.jobs]) as folder:
            pairs = [(folder / file.name, file) for file in self.files]
            if self.is_whole([kept for kept, _ in pairs]):
                for kept, file in pairs:
                    show_clip(file, np.load(kept), fps)
                    place(kept, file)
                return advance(len(self.jobs))
            self.make(advance, fps)
            with convenience("shared clips are"):
                for kept, file in pairs:
                    place(file, kept)
        return None


def show_clip(path: Path, frames: np.ndarray, fps: float) -> None:
    """The mp4 for eyes beside the .npy ``path``; a warning where the disk does not take it."""
    with convenience("the mp4 beside clips are"):
        write_mp4(path.with_suffix(".mp4"), frames, fps)


def save_clip(path: Path, frames: np.ndarray) -> None:
    """Frames uint8 t h w c as .npy, atomically."""
    buffer = io.BytesIO()
    np.save(buffer, frames)
    write_atomic(path, buffer.getvalue())


def _paths(run: RunDir, state: str, generate: Generator, batch: Sequence[tuple[int, int]]) -> list[Path]:
    return [run.clip(state, generate.prompts[index].id, seed) for index, seed in batch]


def _is_clip(path: Path, form: ClipFormat) -> bool:
    """Whether a whole clip of this format lies there."""
    try:
        frames = np.load(path, mmap_mode="r")
    except (OSError, ValueError):
        return False
    return frames.shape == (form.frames, form.height, form.width, 3) and frames.dtype == np.uint8
