"""Latents of the embedded world, encoded once and kept on disk, so that training steps cost only the UNet.

Axis letters: n samples, c channels, t frames, h w latents.
"""

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from perturb.disks import convenience
from perturb.models.videocrafter.files import write_safetensors
from perturb.models.videocrafter.system import VideoSystem
from perturb.progress import progress
from perturb.store.rundir import replacing
from perturb.store.tensors import raw_bytes
from perturb.world.render import Grade, render, render_still
from perturb.world.scenes import FPS, scene, still_moment


@dataclass(frozen=True, kw_only=True)
class WorldData:
    """Which part of the embedded world to train on: ``count`` scenes of the stream ``seed`` in one grade.

    Clips come at the native 8 frames per second and, one in four, at 16 (half the displacement between frames), so
    that the fps conditioning has something to say. Stills are taken at moments spread over the clip. Without
    ``trail`` no still shows the direction: it can be learned from motion alone.
    """

    kind: Literal["stills", "clips"]
    grade: Grade
    count: int
    seed: int
    trail: bool = True

    def fps(self, index: int) -> int:
        """Frame rate of sample ``index``."""
        return 2 * FPS if self.kind == "clips" and index % 4 == 3 else FPS

    def caption(self, index: int) -> str:
        return scene(self.seed, index).caption

    def frames(self, index: int) -> np.ndarray:
        """Frames of sample ``index``: uint8 ``t h w c`` (t = 1 for stills)."""
        here = dataclasses.replace(scene(self.seed, index), trail=self.trail)
        if self.kind == "clips":
            return render(here, self.grade, fps=self.fps(index), noise_seed=index)
        return render_still(here, self.grade, moment=still_moment(index), noise_seed=index)[None]


@dataclass(frozen=True)
class LatentSet:
    """Posterior of every sample, unscaled: ``mean`` and ``std`` ``n c t h w`` in float16; captions and fps beside."""

    mean: Tensor
    std: Tensor
    captions: list[str]
    fps: Tensor

    def __len__(self) -> int:
        return len(self.mean)


def encode_world(system: VideoSystem, data: WorldData, folder: Path) -> LatentSet:
    """Latents of ``data`` under the autoencoder of ``system``; read from ``folder`` when they were made before."""
    weights = hashlib.sha256(b"".join(map(raw_bytes, system.vae.parameters()))).hexdigest()
    name = hashlib.sha256(f"{data} {weights}".encode()).hexdigest()[:12]
    path = folder / f"latents_{data.kind}_{name}.safetensors"
    if path.is_file():
        stored = load_file(path)
    else:
        stored = _encode(system, data.frames, data.count)
        with convenience("latents for the next training are"), replacing(path) as temporary:
            write_safetensors(temporary, stored)
    captions = [data.caption(index) for index in range(data.count)]
    fps = torch.tensor([data.fps(index) for index in range(data.count)])
    return LatentSet(stored["mean"], stored["std"], captions, fps)


def _encode(system: VideoSystem, frames_of: Callable[[int], np.ndarray], count: int) -> dict[str, Tensor]:
    means, stds = [], []
    chunk = 8 if frames_of(0).shape[0] > 1 else 64
    with progress("encoding", count) as advance:
        for start in range(0, count, chunk):
            frames = np.stack([frames_of(index) for index in range(start, min(start + chunk, count))])
            video = torch.from_numpy(frames).permute(0, 4, 1, 2, 3).float().div(127.5).sub(1)
            mean, std = system.posterior(video)
            means.append(mean.half().cpu())
            stds.append(std.half().cpu())
            advance(len(frames))
    return {"mean": torch.cat(means).contiguous(), "std": torch.cat(stds).contiguous()}


def latent_std(latents: LatentSet) -> float:
    """Standard deviation of sampled latents: √(Var μ + E σ²); its inverse is the scale factor of the autoencoder."""
    mean, std = latents.mean.float(), latents.std.float()
    return float((mean.var() + std.square().mean()).sqrt())
