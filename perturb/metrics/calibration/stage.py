"""Stages, sprites and paths from which the families of clips are made (`families.py`).

A length given in u is a 64th of the shorter side of the frame. Axes: t frames, h w pixels, c channels; frames are float
`t h w c` in [0, 1], sprites `h w 4` with their cover last.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from perturb.metrics.calibration.clips import texture

Size = tuple[int, int, int]
Colour = tuple[float, float, float]
Path = Callable[[np.ndarray], np.ndarray]
"""Frame numbers `t` → positions in u from the middle of the frame, (x, y) `t 2`."""


@dataclass(frozen=True)
class Stage:
    """Where a clip plays: its size, what is behind, and the radius of its disc in u."""

    size: Size
    ground: str
    radius: float = 10.0

    @property
    def unit(self) -> float:
        """Pixels of one u."""
        return min(self.size[1:]) / 64

    @property
    def times(self) -> np.ndarray:
        """Numbers of the frames."""
        return np.arange(self.size[0])

    def behind(self, camera: Path | None = None, zoom: float = 0.0) -> np.ndarray:
        """The background as the camera sees it: moved by ``camera`` in u, grown by ``zoom`` per frame."""
        _, height, width = self.size
        canvas = scenery(self.ground, height, width)
        middle = np.array([(canvas.shape[1] - 1) / 2, (canvas.shape[0] - 1) / 2])
        offsets = np.zeros((self.size[0], 2)) if camera is None else camera(self.times) * self.unit
        scales = (1.0 + zoom) ** -np.arange(len(offsets), dtype=float)
        return np.stack(
            [_seen(canvas, middle + offset, s, (width, height)) for offset, s in zip(offsets, scales, strict=True)]
        )


def panned(picture: np.ndarray, frames: int, speed: float) -> np.ndarray:
    """A picture `h w c` under a camera that pans by ``speed`` shorter sides per frame, without its border.

    `t h' w' c`.
    """
    height, width = picture.shape[:2]
    margin = int(np.ceil(speed * min(height, width) * frames / 2)) + 1
    middle, size = np.array([(width - 1) / 2, (height - 1) / 2]), (width - 2 * margin, height - 2 * margin)
    offsets = speed * min(height, width) * (np.arange(frames) - (frames - 1) / 2)
    return np.stack([_seen(picture.astype(np.float32), middle + np.array([x, 0]), 1.0, size) for x in offsets])


def _seen(canvas: np.ndarray, middle: np.ndarray, scale: float, size: tuple[int, int]) -> np.ndarray:
    """What a camera of this size (width, height) sees that looks at ``middle`` (x, y); ``scale`` below 1 is closer."""
    corner = middle - scale * (np.array(size) - 1) / 2
    matrix = np.array([[scale, 0, corner[0]], [0, scale, corner[1]]], np.float32)
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return np.clip(cv2.warpAffine(canvas, matrix, size, flags=flags, borderMode=cv2.BORDER_REFLECT), 0, 1)


@cache
def scenery(ground: str, height: int, width: int) -> np.ndarray:
    """Half as large again as a frame: a grey, a seamless texture by its seed, or a picture of scikit-image."""
    size = (round(1.5 * height), round(1.5 * width))
    if ground == "grey":
        return np.full((*size, 3), 0.5, np.float32)
    if ground.startswith("texture"):
        rng, unit = np.random.default_rng(int(ground.split()[1])), min(height, width) / 64
        square = np.stack([0.5 + 0.12 * texture(rng, max(size), 2.5 * unit) for _ in range(3)], axis=-1)
        return square[: size[0], : size[1]]
    from skimage import data

    picture = np.atleast_3d(getattr(data, ground)())[..., :3].astype(np.float32) / 255
    picture = picture.repeat(3 // picture.shape[2], axis=2)
    scale = max(size[0] / picture.shape[0], size[1] / picture.shape[1])
    shape = (max(size[1], round(picture.shape[1] * scale)), max(size[0], round(picture.shape[0] * scale)))
    large = cv2.resize(picture, shape, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    return large[: size[0], : size[1]]


def disc(radius: float, unit: float, seed: int, colour: Colour) -> np.ndarray:
    """A textured disc of ``radius`` u: `h w 4`, the last channel its cover."""
    side = 2 * int(np.ceil((radius + 1) * unit)) + 1
    y, x = np.mgrid[:side, :side] - side // 2
    cover = np.clip(radius * unit - np.hypot(x, y) + 0.5, 0, 1)
    skin = np.array(colour) + 0.12 * texture(np.random.default_rng(seed), side, 2 * unit)[..., None]
    return np.dstack([np.clip(skin, 0, 1), cover]).astype(np.float32)


def bar(length: float, thickness: float, unit: float, colour: Colour) -> np.ndarray:
    """A rounded bar whose one end is the middle of the sprite: a limb, or a drop of rain."""
    side = 2 * int(np.ceil((length + thickness) * unit)) + 1
    y, x = (np.mgrid[:side, :side] - side // 2) / unit
    away = np.hypot(x, y - np.clip(y, 0, length))
    cover = np.clip((thickness / 2 - away) * unit + 0.5, 0, 1)
    shade = 1 + 0.25 * np.sin(2 * np.pi * y / 5)
    return np.dstack([np.clip(np.array(colour) * shade[..., None], 0, 1), cover]).astype(np.float32)


def paint(frame: np.ndarray, sprite: np.ndarray, place: np.ndarray, degrees: float = 0.0) -> np.ndarray:
    """The frame with the sprite over it, its middle at ``place`` (x, y) in pixels, turned by ``degrees``."""
    side, middle = len(sprite) + 2, (len(sprite) - 1) / 2
    corner = np.floor(place - middle).astype(int)
    matrix = cv2.getRotationMatrix2D((middle, middle), degrees, 1)
    matrix[:, 2] += place - middle - corner
    premultiplied = np.dstack([sprite[..., :3] * sprite[..., 3:], sprite[..., 3:]])
    landed = cv2.warpAffine(premultiplied, matrix, (side, side), flags=cv2.INTER_LINEAR)
    painted = frame.copy()
    x0, y0 = np.maximum(corner, 0)
    x1, y1 = np.clip(corner + side, 0, frame.shape[1::-1])
    if x0 < x1 and y0 < y1:
        part = landed[y0 - corner[1] : y1 - corner[1], x0 - corner[0] : x1 - corner[0]]
        painted[y0:y1, x0:x1] = painted[y0:y1, x0:x1] * (1 - part[..., 3:]) + part[..., :3]
    return painted


def along(stage: Stage, frames: np.ndarray, path: Path, sprites: Sequence[np.ndarray]) -> np.ndarray:
    """A sprite that follows a path over the frames, one for each of them."""
    middle = (np.array(stage.size[:0:-1]) - 1) / 2
    places = middle + path(stage.times) * stage.unit
    return np.stack([paint(*one) for one in zip(frames, sprites, places, strict=True)])


def line(x: float, y: float) -> Path:
    """Uniform motion through the middle."""
    return lambda times: np.outer(times - times.mean(), (x, y))


def shaking(spread: float, seed: int) -> Path:
    """Each frame at a place of its own."""
    return lambda times: np.random.default_rng(seed).normal(0, spread, (len(times), 2))


def teleporting(seed: int) -> Path:
    """Somewhere within 20 u, in no order."""
    return lambda times: np.random.default_rng(seed).uniform(-20, 20, (len(times), 2))


def bouncing(speed: float, half: float) -> Path:
    """To and fro between two walls ``2 half`` u apart, at one speed."""

    def path(times: np.ndarray) -> np.ndarray:
        phase = (times * speed) % (4 * half)
        return np.column_stack([np.where(phase < 2 * half, phase - half, 3 * half - phase), 0 * times])

    return path


def falling(gravity: float, height: float, across: float) -> Path:
    """A ball that falls from ``height`` u, bounces off the ground without loss, and goes ``across`` u per frame."""
    period = 2 * np.sqrt(2 * height / gravity)

    def path(times: np.ndarray) -> np.ndarray:
        since = (times + period / 2) % period - period / 2  # of the top of the arc
        return np.column_stack([across * (times - times.mean()), gravity * since**2 / 2 - height / 2])

    return path
