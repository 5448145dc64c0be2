"""What a clip of the embedded world shows, read from its pixels: the object's colour and its direction of motion.

The backgrounds and the mark are grey, so chroma alone finds the object. Axis letters: t frames, h w pixels, c channels.
"""

from dataclasses import dataclass

import numpy as np

from perturb.data.shapes.world import COLOURS, DIRECTIONS

CHROMA_FLOOR = 24.0  # of 255: sensor noise and compression stay below
MIN_TRAVEL = 4.0  # pixels over the clip; less is "no direction"


@dataclass(frozen=True)
class Verdict:
    """Colour and direction by name, None where the clip shows none; ``travel`` is the displacement in pixels (x, y)."""

    colour: str | None
    direction: str | None
    travel: tuple[float, float]


def judge(frames: np.ndarray) -> Verdict:
    """Read a clip, uint8 ``[t, h, w, c]``.

    Weight of a pixel: its chroma max(rgb) − min(rgb) above a floor. Colour: the palette entry whose hue vector is
    nearest to the weighted mean colour's. Direction: the axis and sign of the weighted centroid's least-squares travel.
    """
    rgb = frames.astype(np.float64)
    weight = np.clip(rgb.max(-1) - rgb.min(-1) - CHROMA_FLOOR, 0, None)
    if (weight.sum(axis=(1, 2)) < 255).any():
        return Verdict(None, None, (0.0, 0.0))
    mean = (rgb * weight[..., None]).sum(axis=(0, 1, 2)) / weight.sum()
    travel = _travel(weight)
    return Verdict(_nearest_hue(mean), _direction(travel), travel)


def _travel(weight: np.ndarray) -> tuple[float, float]:
    """Displacement over the clip of the centroid of the strong half of the weights, fitted by a line."""
    strong = np.where(weight > 0.5 * weight.max(axis=(1, 2), keepdims=True), weight, 0)
    total = strong.sum(axis=(1, 2))
    y, x = np.mgrid[: weight.shape[1], : weight.shape[2]]
    centroids = [(strong * axis).sum(axis=(1, 2)) / total for axis in (x, y)]
    time = np.arange(len(weight))
    fitted = [np.polyfit(time, centroid, 1)[0] * (len(weight) - 1) for centroid in centroids]
    return float(fitted[0]), float(fitted[1])


def _direction(travel: tuple[float, float]) -> str | None:
    if max(abs(travel[0]), abs(travel[1])) < MIN_TRAVEL:
        return None
    return max(DIRECTIONS, key=lambda name: float(np.dot(DIRECTIONS[name], travel)))


def _nearest_hue(rgb: np.ndarray) -> str:
    def hue(colour: np.ndarray) -> np.ndarray:
        chroma = colour - colour.mean()
        return chroma / (np.linalg.norm(chroma) + 1e-9)

    return max(COLOURS, key=lambda name: float(hue(np.array(COLOURS[name], dtype=float)) @ hue(rgb)))
