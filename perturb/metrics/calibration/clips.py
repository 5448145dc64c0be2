"""Clean clips whose motion is known: textures under a moving camera, and discs that move.

Frames are float `t h w c` in [0, 1] until `clip`. Velocities are (x, y) in pixels per frame. Axes: t frames, h w
pixels, c channels.
"""

import cv2
import numpy as np
from scipy import ndimage

from perturb.metrics.base import Clip

SIZE, FRAMES = 64, 8
MIDDLE = SIZE / 2
CANVAS = 4 * SIZE
_LANDING = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP


def clip(frames: np.ndarray, prompt_id: str = "p000", seed: int = 0, step: int = 0) -> Clip:
    """Float frames as a clip of 8-bit frames at 8 frames per second."""
    return Clip(np.clip(np.round(frames * 255), 0, 255).astype(np.uint8), 8.0, prompt_id, seed, step)


def texture(rng: np.random.Generator, size: int = SIZE, sigma: float = 2.0) -> np.ndarray:
    """Gaussian noise smoothed by `sigma` pixels, seamless, of standard deviation 1: `h w`."""
    smooth = ndimage.gaussian_filter(rng.standard_normal((size, size)), sigma, mode="wrap")
    return (smooth / smooth.std()).astype(np.float32)


def camera(matrices: list[np.ndarray], seed: int = 7) -> np.ndarray:
    """A coloured texture seen by a moving camera: one 2×3 matrix per frame, from its pixels to those of the canvas."""
    rng = np.random.default_rng(seed)
    canvas = np.stack([0.5 + 0.15 * texture(rng, CANVAS, 3) for _ in range(3)], axis=-1)
    return np.stack([cv2.warpAffine(canvas, matrix, (SIZE, SIZE), flags=_LANDING) for matrix in matrices])


def _about_middle(linear: np.ndarray, shift: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """x → A(x - middle) + middle of the canvas + shift, as a 2×3 matrix."""
    middle = np.full(2, MIDDLE - 0.5)
    return np.column_stack([linear, CANVAS / 2 + np.array(shift) - linear @ middle]).astype(np.float32)


def pan(velocity: tuple[float, float], seed: int = 7) -> np.ndarray:
    """A texture that moves by `velocity`."""
    return camera([_about_middle(np.eye(2), (-velocity[0] * k, -velocity[1] * k)) for k in range(FRAMES)], seed)


def zoom(rate: float, seed: int = 7) -> np.ndarray:
    """A texture that grows by the share `rate` from frame to frame."""
    return camera([_about_middle(np.eye(2) / (1 + rate) ** k) for k in range(FRAMES)], seed)


def rotation(degrees: float, seed: int = 7) -> np.ndarray:
    """A texture that turns by `degrees` from frame to frame."""
    angles = np.radians(degrees) * np.arange(FRAMES)
    turns = [np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]) for a in angles]
    return camera([_about_middle(turn) for turn in turns], seed)


def shape(
    velocity: tuple[float, float],
    *,
    radius: float = 11,
    background: float = 0.5,
    colour: tuple[float, float, float] = (0.9, 0.3, 0.2),
    ground: float = 0.0,
    wave: float = 0.0,
    seed: int = 3,
) -> np.ndarray:
    """A textured disc moving through the middle; `ground` adds a still texture behind it, `wave` bends its path."""
    rng = np.random.default_rng(seed)
    behind = background + ground * texture(rng, sigma=3)[..., None] * np.ones(3)
    # OpenCV's cubic warp loses the border of float64
    skin = np.array(colour, np.float32) + 0.12 * texture(rng)[..., None]
    grid = np.moveaxis(np.mgrid[0 : 4 * SIZE, 0 : 4 * SIZE], 0, -1)[..., ::-1] / 4 - 0.375
    step = np.array(velocity, float)
    across = np.array([-step[1], step[0]]) / np.linalg.norm(step)
    frames = []
    for k in range(FRAMES):
        centre = MIDDLE + step * (k - (FRAMES - 1) / 2) + across * wave * np.sin(2 * np.pi * k / FRAMES)
        inside = (np.linalg.norm(grid - centre, axis=-1) < radius).reshape(SIZE, 4, SIZE, 4).mean((1, 3))[..., None]
        matrix = np.array([[1, 0, MIDDLE - centre[0]], [0, 1, MIDDLE - centre[1]]], np.float32)
        moved = cv2.warpAffine(skin, matrix, (SIZE, SIZE), flags=_LANDING, borderMode=cv2.BORDER_REFLECT)
        frames.append(behind * (1 - inside) + moved * inside)
    return np.clip(np.stack(frames), 0, 1)


CLEAN = {
    "pan of 1 px": pan((1, 0)),
    "pan of 4 px": pan((4, 0), seed=8),
    "zoom of 6 %": zoom(0.06, seed=9),
    "rotation of 6°": rotation(6, seed=10),
    "small disc, 2 px": shape((2, 0), radius=10),
    "disc, 3 px down, on white": shape((0, 3), radius=12, background=0.95),
    "disc, 4 px, on black": shape((-4, 0), radius=13, background=0.05, colour=(0.2, 0.4, 0.9)),
    "disc, 5 px up, on texture": shape((0, -5), radius=10, ground=0.06, colour=(0.9, 0.8, 0.2)),
    "disc on a wavy path": shape((3, 0), wave=4, colour=(0.1, 0.8, 0.8)),
}
