"""Ways to spoil a clip, each with a strength: what a metric must notice, and what it must not.

A distortion takes float frames `t h w c` in [0, 1] and returns such frames; what is random is a function of the seed it
is given. Axes: t frames, h w pixels, c channels.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from scipy import ndimage

from perturb.metrics.calibration.clips import SIZE, texture
from perturb.metrics.embedded.frames import LUMA

Frames = np.ndarray
Alter = Callable[[Frames, float, int], Frames]


@dataclass(frozen=True)
class Distortion:
    """``alter(frames, strength, seed)`` at each of ``strengths``, weakest first; ``unit`` says what a strength is."""

    name: str
    unit: str
    strengths: tuple[float, ...]
    alter: Alter


def static(frames: Frames, _strength: float, _seed: int = 0) -> Frames:
    """The first frame, all the time."""
    return np.repeat(frames[:1], len(frames), axis=0)


def jittery(frames: Frames, pixels: float, seed: int = 0) -> Frames:
    """Every frame displaced by its own random (x, y) of standard deviation `pixels`; the border is repeated."""
    offsets = np.random.default_rng(seed).normal(0, pixels, (len(frames), 2))
    moved = [np.column_stack([np.eye(2), offset]) for offset in offsets]
    size, cubic, repeated = (frames.shape[2], frames.shape[1]), cv2.INTER_CUBIC, cv2.BORDER_REPLICATE
    return np.stack(
        [
            cv2.warpAffine(frame, matrix, size, flags=cubic, borderMode=repeated)
            for frame, matrix in zip(frames.astype(np.float32), moved, strict=True)  # it loses the border of float64
        ]
    )


def noisy(frames: Frames, sigma: float, seed: int = 0) -> Frames:
    """White noise, new in every frame and channel."""
    return frames + sigma * np.random.default_rng(seed).standard_normal(frames.shape)


def dirty(frames: Frames, sigma: float, seed: int = 0) -> Frames:
    """White noise that stays in its place (fixed-pattern noise), as dirt on the lens or a pattern of the decoder."""
    return frames + sigma * np.random.default_rng(seed).standard_normal(frames.shape[1:])


def boiling(frames: Frames, amplitude: float, seed: int = 0) -> Frames:
    """A smooth texture that is another one in every frame."""
    rng = np.random.default_rng(seed)
    return frames + amplitude * np.stack([texture(rng) for _ in frames])[..., None]


def flickering(frames: Frames, amount: float, _seed: int = 0) -> Frames:
    """Brightness up and down by turns: × (1 ± amount)."""
    return frames * (1 + amount * (-1.0) ** np.arange(len(frames)))[:, None, None, None]


def shuffled(frames: Frames, window: float, seed: int = 0) -> Frames:
    """The order lost within windows of so many frames; from four frames on no two neighbours stay neighbours."""
    rng, order = np.random.default_rng(seed), list[int]()
    for start in range(0, len(frames), int(window)):
        here = np.arange(start, min(start + int(window), len(frames)))
        order += [*here[::-1]] if len(here) < 4 else [*_torn_apart(here, rng)]
    return frames[order]


def _torn_apart(order: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    while True:
        candidate = rng.permutation(order)
        if (np.abs(np.diff(candidate)) > 1).all():
            return candidate


def dropped(frames: Frames, share: float, seed: int = 0) -> Frames:
    """This share of the frames (never the first) replaced by the frame before."""
    lost = np.random.default_rng(seed).choice(np.arange(1, len(frames)), round(share * len(frames)), replace=False)
    kept = np.where(np.isin(np.arange(len(frames)), lost), 0, np.arange(len(frames)))
    return frames[np.maximum.accumulate(kept)]


def unrelated(frames: Frames, share: float, seed: int = 0) -> Frames:
    """This share of the frames replaced by textures that have nothing to do with the clip."""
    rng, spoiled = np.random.default_rng(seed), frames.copy()
    for k in rng.choice(len(frames), round(share * len(frames)), replace=False):
        spoiled[k] = np.stack([0.5 + 0.15 * texture(rng, sigma=3) for _ in range(3)], axis=-1)
    return spoiled


def blurred(frames: Frames, sigma: float, _seed: int = 0) -> Frames:
    """Gaussian blur of `sigma` pixels."""
    return np.asarray(ndimage.gaussian_filter(frames, (0, sigma, sigma, 0), mode="nearest"))


def flattened(frames: Frames, loss: float, _seed: int = 0) -> Frames:
    """Contrast about middle grey, less by the share `loss`."""
    return 0.5 + (1 - loss) * (frames - 0.5)


def desaturated(frames: Frames, loss: float, _seed: int = 0) -> Frames:
    """Mixed with its own luma by the share `loss`."""
    return (1 - loss) * frames + loss * (frames @ LUMA)[..., None]


def watermarked(frames: Frames, opacity: float, _seed: int = 0) -> Frames:
    """White letters over the middle."""
    ink = np.zeros((SIZE, SIZE), np.uint8)
    cv2.putText(ink, "demo", (8, 38), cv2.FONT_HERSHEY_SIMPLEX, 0.6, 255, 1, cv2.LINE_AA)
    cover = opacity * ink[None, ..., None] / 255
    return frames * (1 - cover) + cover


def blocky(frames: Frames, quality: float, _seed: int = 0) -> Frames:
    """Each frame through JPEG of this quality."""
    levels = np.clip(np.round(255 * frames), 0, 255).astype(np.uint8)
    files = [cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])[1] for frame in levels]
    return np.stack([np.asarray(cv2.imdecode(file, cv2.IMREAD_COLOR)) for file in files]) / 255.0


DISTORTIONS = (
    Distortion("static", "of the clip", (1,), static),
    Distortion("jitter", "px", (0.5, 1, 2), jittery),
    Distortion("noise", "of full range", (0.02, 0.05, 0.1), noisy),
    Distortion("fixed-pattern noise", "of full range", (0.02, 0.05, 0.1), dirty),
    Distortion("boiling texture", "of full range", (0.03, 0.06, 0.1), boiling),
    Distortion("brightness flicker", "up and down", (0.02, 0.05, 0.1), flickering),
    Distortion("frame shuffle", "frames", (2, 4, 8), shuffled),
    Distortion("frame drop", "of the clip", (0.125, 0.25, 0.5), dropped),
    Distortion("unrelated frames", "of the clip", (0.125, 0.5, 1), unrelated),
    Distortion("blur", "px", (0.7, 1.5, 2.5), blurred),
    Distortion("contrast", "loss", (0.25, 0.5, 0.75), flattened),
    Distortion("desaturation", "loss", (0.3, 0.6, 1), desaturated),
    Distortion("watermark", "opacity", (0.1, 0.2, 0.4), watermarked),
    Distortion("JPEG blocks", "quality", (50, 20, 8), blocky),
)
