"""Small clips with known motion, and ways to spoil them; frames are float `t h w c` in [0, 1] until `clip`."""

import cv2
import numpy as np
from scipy import ndimage

from perturb.metrics import Clip

SIZE, FRAMES = 64, 8
SHUFFLES = ([3, 0, 6, 1, 7, 4, 2, 5], [5, 2, 7, 0, 4, 1, 6, 3], [1, 4, 0, 7, 3, 6, 2, 5])


def clip(frames: np.ndarray, prompt_id: str = "p000", seed: int = 0, step: int = 0) -> Clip:
    return Clip(np.clip(np.round(frames * 255), 0, 255).astype(np.uint8), 8.0, prompt_id, seed, step)


def texture(rng: np.random.Generator, size: int = SIZE, sigma: float = 2.0) -> np.ndarray:
    smooth = ndimage.gaussian_filter(rng.standard_normal((size, size)), sigma, mode="wrap")
    return (smooth / smooth.std()).astype(np.float32)


def _shifted(image: np.ndarray, x: float, y: float) -> np.ndarray:
    """image(pixel + (x, y)), cut to SIZE."""
    matrix = np.array([[1, 0, x], [0, 1, y]], np.float32)
    return cv2.warpAffine(image, matrix, (SIZE, SIZE), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP)


def pan(velocity: tuple[float, float], seed: int = 7) -> np.ndarray:
    """A texture that moves by `velocity` (x, y) pixels per frame."""
    rng = np.random.default_rng(seed)
    large = np.stack([0.5 + 0.15 * texture(rng, 256, 3) for _ in range(3)], axis=-1)
    return np.stack([_shifted(large, 90 - velocity[0] * k, 90 - velocity[1] * k) for k in range(FRAMES)])


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
    skin = np.array(colour) + 0.12 * texture(rng)[..., None]
    grid = np.moveaxis(np.mgrid[0 : 4 * SIZE, 0 : 4 * SIZE], 0, -1)[..., ::-1] / 4 - 0.375
    step = np.array(velocity, float)
    across = np.array([-step[1], step[0]]) / np.linalg.norm(step)
    frames = []
    for k in range(FRAMES):
        centre = SIZE / 2 + step * (k - (FRAMES - 1) / 2) + across * wave * np.sin(2 * np.pi * k / FRAMES)
        inside = (np.linalg.norm(grid - centre, axis=-1) < radius).reshape(SIZE, 4, SIZE, 4).mean((1, 3))[..., None]
        matrix = np.array([[1, 0, SIZE / 2 - centre[0]], [0, 1, SIZE / 2 - centre[1]]], np.float32)
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        moved = cv2.warpAffine(skin, matrix, (SIZE, SIZE), flags=flags, borderMode=cv2.BORDER_REFLECT)
        frames.append(behind * (1 - inside) + moved * inside)
    return np.clip(np.stack(frames), 0, 1)


def noisy(frames: np.ndarray, sigma: float, seed: int = 1) -> np.ndarray:
    return frames + sigma * np.random.default_rng(seed).standard_normal(frames.shape)


def boiling(frames: np.ndarray, amplitude: float, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return frames + amplitude * np.stack([texture(rng) for _ in frames])[..., None]


def flickering(frames: np.ndarray, amount: float) -> np.ndarray:
    return frames * (1 + amount * (-1.0) ** np.arange(len(frames)))[:, None, None, None]


def blurred(frames: np.ndarray, sigma: float) -> np.ndarray:
    return np.asarray(ndimage.gaussian_filter(frames, (0, sigma, sigma, 0), mode="nearest"))


def contrast(frames: np.ndarray, factor: float) -> np.ndarray:
    return 0.5 + factor * (frames - 0.5)


def desaturated(frames: np.ndarray, colour: float) -> np.ndarray:
    grey = frames @ np.array([0.299, 0.587, 0.114])
    return colour * frames + (1 - colour) * grey[..., None]


def watermarked(frames: np.ndarray, opacity: float = 0.2) -> np.ndarray:
    ink = np.zeros((SIZE, SIZE), np.uint8)
    cv2.putText(ink, "demo", (8, 38), cv2.FONT_HERSHEY_SIMPLEX, 0.6, 255, 1, cv2.LINE_AA)
    cover = opacity * ink[None, ..., None] / 255
    return frames * (1 - cover) + cover


CLEAN = {
    "pan of 1 px": pan((1, 0)),
    "pan of 4 px": pan((4, 0)),
    "small disc, 2 px": shape((2, 0), radius=10),
    "disc, 3 px down, on white": shape((0, 3), radius=12, background=0.95),
    "disc, 4 px, on black": shape((-4, 0), radius=13, background=0.05, colour=(0.2, 0.4, 0.9)),
    "disc, 5 px up, on texture": shape((0, -5), radius=10, ground=0.06, colour=(0.9, 0.8, 0.2)),
    "disc on a wavy path": shape((3, 0), wave=4, colour=(0.1, 0.8, 0.8)),
}
