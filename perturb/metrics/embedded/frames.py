"""Pixels as the metrics see them. Axes: t frames, h w pixels, c channels."""

import math

import cv2
import numpy as np

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def luma(frames: np.ndarray) -> np.ndarray:
    """Y = .299 R + .587 G + .114 B of uint8 frames `t h w c`: float32 `t h w` in [0, 1] (ITU-R BT.601).

    >>> luma(np.full((1, 1, 1, 3), 255, dtype=np.uint8)).round(6).item()
    1.0
    """
    light = frames.astype(np.float32) @ LUMA
    light /= np.float32(255)
    return light


def colourfulness(frames: np.ndarray) -> np.ndarray:
    """√(σ_rg² + σ_yb²) + .3 √(μ_rg² + μ_yb²), rg = R - G, yb = (R + G)/2 - B in 0…255: `t h w c` → `t`.

    Hasler and Süsstrunk 2003; 0 for grey, about 109 for "extremely colourful" photographs.
    """
    scores = []
    for frame in frames:
        red, green, blue = (channel.astype(np.int16) for channel in cv2.split(frame))
        red_green, yellow_blue = _moments(red - green), _moments(red + green - 2 * blue)
        mean, spread = (np.hypot(rg, yb / 2) for rg, yb in zip(red_green, yellow_blue, strict=True))
        scores.append(spread + 0.3 * mean)
    return np.array(scores)


def _moments(levels: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of int16, from exact sums; `cv2.meanStdDev` takes ten times as long."""
    mean = cv2.sumElems(levels)[0] / levels.size
    return mean, math.sqrt(max(cv2.norm(levels, cv2.NORM_L2SQR) / levels.size - mean**2, 0.0))


def blur(images: np.ndarray, sigma: float) -> np.ndarray:
    """Each image of `t h w` under a Gaussian of `sigma` pixels (borders mirrored)."""
    return np.stack([cv2.GaussianBlur(image, (0, 0), sigma) for image in images])


def at_most(images: np.ndarray, side: int) -> np.ndarray:
    """Images `t h w` whose shorter side exceeds `side` pixels made smaller by a whole factor, averaging over areas."""
    height, width = images.shape[1:]
    factor = -(-min(height, width) // side)
    if factor == 1:
        return images
    size = (round(width / factor), round(height / factor))
    return np.stack([cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in images])
