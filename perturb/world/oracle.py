"""What a clip of the embedded world shows, read from its pixels: the object's colour, shape, direction and speed.

The backgrounds and the mark are grey, so chroma alone finds the object. Axis letters: t frames, h w pixels, c channels.
"""

import re
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from perturb.errors import UserError
from perturb.world.render import coverage
from perturb.world.scenes import BACKGROUNDS, COLOURS, DIRECTIONS, FPS, RADII, SHAPES, SPEEDS

CHROMA_FLOOR = 24.0  # of 255: sensor noise and compression stay below
LEAST = 255.0  # of chroma in a frame; less is "no object"
MIN_TRAVEL = 4.0  # pixels over the clip; less is "no direction"
SOLID = 0.65  # of the object's chroma: its trail stays below
_CAPTION = re.compile(
    f"a (?P<colour>{'|'.join(COLOURS)}) (?P<shape>{'|'.join(SHAPES)}) moving (?P<direction>{'|'.join(DIRECTIONS)}) "
    f"(?P<speed>{'|'.join(SPEEDS)})(?: in a wavy line)? on a (?:{'|'.join(BACKGROUNDS)}) background"
)


@dataclass(frozen=True)
class Verdict:
    """Colour, shape, direction and speed by name, None where there is none."""

    colour: str | None
    shape: str | None
    direction: str | None
    speed: str | None


def named(caption: str) -> dict[str, str] | None:
    """The colour, shape, direction and speed that a caption of the world names; None for any other text.

    >>> named("a red star moving left fast on a gray background")
    {'colour': 'red', 'shape': 'star', 'direction': 'left', 'speed': 'fast'}
    """
    found = _CAPTION.fullmatch(caption.strip())
    return found.groupdict() if found else None


def judge(frames: np.ndarray, fps: float = FPS) -> Verdict:
    """Read a clip, uint8 ``[t, h, w, c]``, of ``fps`` frames per second.

    Weight of a pixel: its chroma max(rgb) − min(rgb) above a floor. Colour: the palette entry whose hue vector is
    nearest to the weighted mean colour's. Shape: the one whose silhouette, at the best size and place in each frame,
    overlaps the solid pixels best. Direction: the axis and sign of the weighted centroid's least-squares travel. Speed:
    the named one nearest to that travel per second.
    """
    weight = _chroma(frames)
    if (weight.sum(axis=(1, 2)) < LEAST).any():
        return Verdict(None, None, None, None)
    mean = (frames * weight[..., None]).sum(axis=(0, 1, 2)) / weight.sum()
    travel = _travel(weight)
    direction = _direction(travel)
    speed = _speed(travel, (len(frames) - 1) / fps) if direction else None
    return Verdict(_nearest_hue(mean), _shape(weight), direction, speed)


def object_path(frames: np.ndarray) -> np.ndarray:
    """Centre of the object in each frame, (x, y) in pixels ``[t, 2]``: the centroid of the strong half of its chroma.

    The half leaves out the trail. UserError for a frame without an object.
    """
    weight = _chroma(frames)
    if (missing := np.flatnonzero(weight.sum(axis=(1, 2)) < LEAST)).size:
        raise UserError(f"frame {missing[0]} shows no coloured object to follow")
    return _centroids(weight)


def _chroma(frames: np.ndarray) -> np.ndarray:
    """max(rgb) − min(rgb) above a floor, ``[t, h, w]``."""
    red, green, blue = np.moveaxis(frames, -1, 0)  # much faster than a maximum over three neighbours
    most, least = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    return np.clip((most - least).astype(np.float64) - CHROMA_FLOOR, 0, None)


def _centroids(weight: np.ndarray) -> np.ndarray:
    """Of the strong half of the weights: ``[t, 2]``."""
    strong = np.where(weight > 0.5 * weight.max(axis=(1, 2), keepdims=True), weight, 0)
    total = strong.sum(axis=(1, 2))
    y, x = np.mgrid[: weight.shape[1], : weight.shape[2]]
    return np.column_stack([(strong * axis).sum(axis=(1, 2)) / total for axis in (x, y)])


def _travel(weight: np.ndarray) -> tuple[float, float]:
    """Displacement of the object's centre over the clip, fitted by a line; 0 of a still."""
    if len(weight) == 1:
        return 0.0, 0.0
    time = np.arange(len(weight))
    fitted = [np.polyfit(time, centre, 1)[0] * (len(weight) - 1) for centre in _centroids(weight).T]
    return float(fitted[0]), float(fitted[1])


def _shape(weight: np.ndarray) -> str:
    """The shape with the greatest intersection over union, Σ_t max over size and place, with the solid pixels."""
    peak = np.quantile(weight, 0.97, axis=(1, 2), keepdims=True)
    solid = (weight > SOLID * peak).astype(np.float64)
    overlap = {shape: sum(_best_overlap(frame, shape) for frame in solid) for shape in SHAPES}
    return max(overlap, key=lambda shape: overlap[shape])


def _best_overlap(solid: np.ndarray, shape: str) -> float:
    """Intersection over union of a mask ``h w`` with a silhouette, the best over sizes and places."""
    best = 0.0
    for silhouette in _silhouettes(shape):
        intersection = cv2.filter2D(solid, cv2.CV_64F, silhouette, borderType=cv2.BORDER_CONSTANT)
        best = max(best, float((intersection / (solid.sum() + silhouette.sum() - intersection)).max()))
    return best


@cache
def _silhouettes(shape: str) -> list[np.ndarray]:
    grid = np.arange(-20, 21, dtype=float)
    x, y = np.meshgrid(grid, grid)
    return [coverage(shape, x, y, radius) for radius in np.arange(RADII[0] - 1, RADII[1] + 1.01, 0.5)]


def _direction(travel: tuple[float, float]) -> str | None:
    if max(abs(travel[0]), abs(travel[1])) < MIN_TRAVEL:
        return None
    return max(DIRECTIONS, key=lambda name: float(np.dot(DIRECTIONS[name], travel)))


def _speed(travel: tuple[float, float], seconds: float) -> str:
    per_second = max(abs(travel[0]), abs(travel[1])) / seconds
    return min(SPEEDS, key=lambda name: abs(SPEEDS[name] - per_second))


def _nearest_hue(rgb: np.ndarray) -> str:
    def hue(colour: np.ndarray) -> np.ndarray:
        chroma = colour - colour.mean()
        return chroma / (np.linalg.norm(chroma) + 1e-9)

    return max(COLOURS, key=lambda name: float(hue(np.array(COLOURS[name], dtype=float)) @ hue(rgb)))
