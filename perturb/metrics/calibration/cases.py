"""What the calibration suite compares: clean clips, and the same clips altered by one distortion at one strength.

Frames are float `t h w c` in [0, 1] until `clip`.
"""

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from perturb.metrics.base import Clip
from perturb.metrics.calibration.clips import CLEAN, clip, pan, rotation, shape, zoom
from perturb.metrics.calibration.distortions import DISTORTIONS, Distortion, watermarked

PAN = 2.0  # px per frame: what other camera motions of the same texture are compared with
TEXTURES = tuple(range(20, 28))
MARK = 0.2  # opacity of the mark whose trace is looked for
FEW = ("pan of 4 px", "disc, 4 px, on black", "disc, 5 px up, on texture")  # for what is slow
CAMERA = (
    ("pan", "px per frame", (0.5, 1.0, 2.0, 4.0, 6.0), lambda speed, seed: pan((speed, 0), seed)),
    ("zoom", "per frame", (0.02, 0.05, 0.1), zoom),
    ("rotation", "° per frame", (2.0, 5.0, 10.0), rotation),
)


@dataclass(frozen=True)
class Case:
    """One distortion at one strength: ``altered[i]`` is ``clean[i]`` spoiled, and has the same prompt and seed."""

    distortion: str
    strength: float
    unit: str
    clean: Sequence[Clip]
    altered: Sequence[Clip]


def cases() -> Iterator[Case]:
    """Camera motions of textures against a pan of 2 px, then every distortion of the clips of `clips.CLEAN`."""
    panned, clean = _clips([pan((PAN, 0), seed) for seed in TEXTURES], "texture"), clean_clips()
    for name, unit, strengths, move in CAMERA:
        for strength in strengths:
            yield Case(name, strength, unit, panned, _clips([move(strength, seed) for seed in TEXTURES], "texture"))
    for distortion in DISTORTIONS:
        for strength in distortion.strengths:
            yield _distorted(distortion, strength, CLEAN, clean)


def few_cases() -> Iterator[Case]:
    """Every distortion of three of the clips, at its weakest and its strongest."""
    clean = clean_clips(FEW)
    for distortion in DISTORTIONS:
        for strength in dict.fromkeys((distortion.strengths[0], distortion.strengths[-1])):
            yield _distorted(distortion, strength, FEW, clean)


def _distorted(distortion: Distortion, strength: float, names: Iterable[str], clean: Sequence[Clip]) -> Case:
    seeds = {name: zlib.crc32(f"{distortion.name} {name}".encode()) for name in names}
    spoiled = [distortion.alter(CLEAN[name], strength, seed) for name, seed in seeds.items()]
    return Case(distortion.name, strength, distortion.unit, clean, _clips(spoiled, "clean"))


def clean_clips(names: Iterable[str] = CLEAN) -> list[Clip]:
    """The clips of `clips.CLEAN`, each a prompt of its own."""
    return _clips([CLEAN[name] for name in names], "clean")


def marked_clips() -> list[Clip]:
    """The same under one watermark."""
    return _clips([watermarked(frames, MARK) for frames in CLEAN.values()], "clean")


def originals() -> list[Clip]:
    """What stands in for step 0: the clean clips and the panned textures, together."""
    return clean_clips() + _clips([pan((PAN, 0), seed) for seed in TEXTURES], "texture")


def stills() -> list[Clip]:
    """What stands in for D_I: 32 stills of other textures and discs of the same kind, each a clip of one frame."""
    scenes = [pan((PAN, 0), seed=40 + i) for i in range(16)]
    scenes += [shape((2, 0), background=ground, seed=60 + i) for i, ground in enumerate(np.linspace(0.1, 0.9, 16))]
    return _clips([frames[:1] for frames in scenes], "still")


def _clips(scenes: Sequence[np.ndarray], name: str) -> list[Clip]:
    return [clip(frames, f"{name} {index}") for index, frames in enumerate(scenes)]
