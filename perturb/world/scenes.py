"""The embedded world: one coloured shape that moves over a plain background, deterministic from (seed, index).

A scene fixes colour, shape, direction, speed, path and background, and with them the caption; start, size and phase are
free. Directions are image directions: y grows downwards, so "up" is negative y. Units: pixels and seconds.

Axis letters: t frames.
"""

import hashlib
import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

SIZE = 64
FRAMES = 8
FPS = 8

COLOURS = {
    "red": (224, 48, 48),
    "green": (48, 184, 72),
    "blue": (48, 88, 224),
    "yellow": (240, 212, 48),
    "purple": (164, 56, 204),
    "cyan": (56, 204, 224),
}
SHAPES = ("circle", "square", "triangle", "star")
DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
SPEEDS = {"slowly": 18.0, "fast": 34.0}
PATHS = ("straight", "wavy")
BACKGROUNDS = {"white": 232, "gray": 128, "black": 28}

RADII = (12.0, 14.5)  # pixels: the smallest and the largest object
WAVE_AMPLITUDE = 2.5  # pixels
WAVE_FREQUENCY = 1.0  # cycles per second
HELD_OUT_SHARE = 8  # one combination of labels in eight is never trained on

WORDS = (
    *("a", "moving", "in", "line", "on", "background"),
    *COLOURS,
    *SHAPES,
    *DIRECTIONS,
    *SPEEDS,
    "wavy",
    *BACKGROUNDS,
)


@dataclass(frozen=True)
class Scene:
    """One scene: its labels and the free numbers that place it.

    ``centre`` is where the object is at the middle of a one-second clip, ``radius`` its size, ``phase`` the phase of
    the wave in radians and ``light`` the direction the light comes from in radians (high grade only). Without ``trail``
    a still does not show the direction.
    """

    colour: str
    shape: str
    direction: str
    speed: str
    path: str
    background: str
    centre: tuple[float, float]
    radius: float
    phase: float
    light: float
    trail: bool = True

    @property
    def caption(self) -> str:
        """The caption that names every label.

        >>> scene(0, 0).caption.startswith("a ")
        True
        """
        wavy = " in a wavy line" if self.path == "wavy" else ""
        return (
            f"a {self.colour} {self.shape} moving {self.direction} {self.speed}{wavy} on a {self.background} background"
        )

    def position(self, seconds: np.ndarray) -> np.ndarray:
        """Centre of the object, ``[t, 2]`` as (x, y): c + v·(s − ½) plus, on a wavy path, A·sin(2πfs + φ) across."""
        forward = np.array(DIRECTIONS[self.direction])
        across = np.array([-forward[1], forward[0]])
        travelled = SPEEDS[self.speed] * (seconds - 0.5)
        wave = (self.path == "wavy") * WAVE_AMPLITUDE * np.sin(2 * np.pi * WAVE_FREQUENCY * seconds + self.phase)
        return np.array(self.centre) + travelled[:, None] * forward + wave[:, None] * across

    def velocity(self, seconds: np.ndarray) -> np.ndarray:
        """Velocity in pixels per second, ``[t, 2]``: the derivative of :meth:`position`."""
        forward = np.array(DIRECTIONS[self.direction])
        across = np.array([-forward[1], forward[0]])
        omega = 2 * np.pi * WAVE_FREQUENCY
        swing = WAVE_AMPLITUDE * omega * np.cos(omega * seconds + self.phase) * (self.path == "wavy")
        return SPEEDS[self.speed] * forward + swing[:, None] * across

    @property
    def held_out(self) -> bool:
        """Whether this combination of labels is kept from all training: one in eight, by a hash of the caption."""
        return hashlib.sha256(self.caption.encode()).digest()[0] % HELD_OUT_SHARE == 0


def frame_times(frames: int = FRAMES, fps: float = FPS) -> np.ndarray:
    """Times of the frames in seconds, centred on ½ s so that every clip stays inside the picture."""
    return 0.5 + (np.arange(frames) - (frames - 1) / 2) / fps


def still_moment(index: int) -> float:
    """Seconds into the clip at which still ``index`` is taken: golden-ratio steps through 0.0625 … 0.9375.

    >>> still_moment(0)
    0.0625
    """
    return 0.0625 + 0.875 * (index * 0.6180339887 % 1)


def held_out_captions() -> set[str]:
    """Every caption that no training sees."""
    nowhere = {"centre": (0.0, 0.0), "radius": 0.0, "phase": 0.0, "light": 0.0}
    labels = itertools.product(COLOURS, SHAPES, DIRECTIONS, SPEEDS, PATHS, BACKGROUNDS)
    return {named.caption for named in (Scene(*names, **nowhere) for names in labels) if named.held_out}


def scene(seed: int, index: int, *, held_out: bool = False) -> Scene:
    """The ``index``-th scene of the stream ``seed``; of the trained-on combinations, or of the held-out ones."""
    rng = np.random.default_rng([seed, index])
    while True:
        candidate = _draw(rng)
        if candidate.held_out == held_out:
            return candidate


def _draw(rng: np.random.Generator) -> Scene:
    direction, speed = _choose(rng, DIRECTIONS), _choose(rng, SPEEDS)
    along = 1.0 if speed == "fast" else 6.0  # keeps the whole trajectory inside the picture
    forward = np.abs(DIRECTIONS[direction])
    spread = forward * along + (1 - forward) * 9.0
    centre = SIZE / 2 + rng.uniform(-1, 1, 2) * spread
    return Scene(
        colour=_choose(rng, COLOURS),
        shape=_choose(rng, SHAPES),
        direction=direction,
        speed=speed,
        path="wavy" if rng.random() < 0.25 else "straight",
        background=_choose(rng, BACKGROUNDS),
        centre=(float(centre[0]), float(centre[1])),
        radius=float(rng.uniform(*RADII)),
        phase=float(rng.uniform(0, 2 * np.pi)),
        light=float(rng.uniform(-np.pi, 0)),
    )


def _choose(rng: np.random.Generator, options: Iterable[str]) -> str:
    names = list(options)
    return names[rng.integers(len(names))]
