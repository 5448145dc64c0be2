"""Rendering of a scene in the three grades that repeat the paper's situation.

- ``web``: clean, plain stills without a watermark (the role of LAION for the image model);
- ``low``: blurred, noisy, desaturated, watermarked video (the role of WebVid-10M);
- ``high``: crisp, saturated, textured and lit, no watermark (the role of JDB; D_I of the perturbation).

Every grade draws a fading trail behind the object, as motion shows in a photograph: it is how a still can carry
the words "left" or "fast". A scene without a trail says them by its motion alone.

Axis letters: t frames, h w pixels, c channels. Colours are float in [0, 1] until the end.
"""

from typing import Literal

import numpy as np
from scipy.ndimage import gaussian_filter

from perturb.world.scenes import BACKGROUNDS, COLOURS, FPS, FRAMES, SIZE, SPEEDS, Scene, frame_times

Grade = Literal["web", "low", "high"]

BLUR_SIGMA = 0.8  # pixels
NOISE_SIGMA = 0.025  # of the full range
SATURATION = {"web": 0.85, "low": 0.55, "high": 1.15}
MARK_ALPHA = 0.3
TRAIL_OPACITY = 0.55  # where it leaves the object's centre; low enough not to be taken for the object

_GLYPHS = {
    "C": ("01110", "10001", "10000", "10000", "10000", "10001", "01110"),
    "L": ("10000", "10000", "10000", "10000", "10000", "10000", "11111"),
    "I": ("01110", "00100", "00100", "00100", "00100", "00100", "01110"),
    "P": ("11110", "10001", "10001", "11110", "10000", "10000", "10000"),
}


def render(scene: Scene, grade: Grade, *, frames: int = FRAMES, fps: float = FPS, noise_seed: int = 0) -> np.ndarray:
    """Frames of ``scene`` in ``grade``: uint8 ``[t, h, w, c]``. ``noise_seed`` seeds the noise of the low grade."""
    return _render(scene, grade, frame_times(frames, fps), noise_seed)


def render_still(scene: Scene, grade: Grade, *, moment: float = 0.5, noise_seed: int = 0) -> np.ndarray:
    """One frame of ``scene`` at ``moment`` seconds: uint8 ``[h, w, c]``."""
    return _render(scene, grade, np.array([moment]), noise_seed)[0]


def object_mask(scene: Scene, *, frames: int = FRAMES, fps: float = FPS) -> np.ndarray:
    """True coverage of the object (without its trail): float ``[t, h, w]`` in [0, 1]."""
    x, y, _ = _local(scene, frame_times(frames, fps))
    return coverage(scene.shape, x, y, scene.radius)


def true_flow(scene: Scene, *, frames: int = FRAMES, fps: float = FPS) -> np.ndarray:
    """True forward flow in pixels per frame: float ``[t-1, h, w, 2]`` as (x, y); zero off the object."""
    step = np.diff(scene.position(frame_times(frames, fps)), axis=0)
    return (object_mask(scene, frames=frames, fps=fps)[:-1] > 0.5)[..., None] * step[:, None, None, :]


def watermark() -> tuple[np.ndarray, np.ndarray]:
    """The mark of the low grade: (bright, dark) coverage ``[h, w]``; the dark copy, shifted, shows on white."""
    rows = ["0".join(_GLYPHS[letter][row] for letter in "CLIP") for row in range(7)]
    glyphs = np.kron(np.array([[int(pixel) for pixel in row] for row in rows], dtype=float), np.ones((2, 2)))
    bright, dark = np.zeros((SIZE, SIZE)), np.zeros((SIZE, SIZE))
    top, left = 46, (SIZE - glyphs.shape[1]) // 2
    bright[top : top + glyphs.shape[0], left : left + glyphs.shape[1]] = glyphs
    dark[top + 1 : top + 1 + glyphs.shape[0], left + 1 : left + 1 + glyphs.shape[1]] = glyphs
    return bright, dark * (1 - bright)


def _render(scene: Scene, grade: Grade, seconds: np.ndarray, noise_seed: int) -> np.ndarray:
    x, y, heading = _local(scene, seconds)
    covered = coverage(scene.shape, x, y, scene.radius)[..., None]
    trail = _trail(scene, x, y, heading)[..., None] * scene.trail
    background, surface = _lit(scene, x, y) if grade == "high" else _plain(scene, len(seconds))
    surface, background = _saturate(surface, SATURATION[grade]), np.clip(background, 0, 1)
    picture = background * (1 - trail) + surface.mean(axis=(1, 2), keepdims=True) * trail
    picture = picture * (1 - covered) + surface * covered
    if grade == "low":
        picture = _degrade(picture, noise_seed)
    return np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def _local(scene: Scene, seconds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixel coordinates relative to the object ``[t, h, w]``, and its unit heading ``[t, 2]``."""
    grid = np.arange(SIZE) + 0.5
    position, velocity = scene.position(seconds), scene.velocity(seconds)
    x = grid[None, None, :] - position[:, 0, None, None]
    y = grid[None, :, None] - position[:, 1, None, None]
    heading = velocity / np.linalg.norm(velocity, axis=1, keepdims=True)
    return np.broadcast_to(x, (len(seconds), SIZE, SIZE)), np.broadcast_to(y, (len(seconds), SIZE, SIZE)), heading


def coverage(shape: str, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Antialiased coverage of a shape at pixels (x, y) from its centre, from a signed distance d: clip(½ − d, 0, 1)."""
    if shape == "circle":
        distance = np.hypot(x, y) - radius
    elif shape == "square":
        distance = np.maximum(np.abs(x), np.abs(y)) - 0.86 * radius
    elif shape == "triangle":
        distance = np.maximum(y - 0.6 * radius, np.abs(x) * 0.866 - y * 0.5 - 0.6 * radius)
    else:
        distance = _star_distance(x, y, 1.2 * radius)
    return np.clip(0.5 - distance, 0, 1)


def _star_distance(x: np.ndarray, y: np.ndarray, radius: float, points: int = 5, inner: float = 0.4) -> np.ndarray:
    """Signed distance to a star's edge lines, by folding the plane onto half of one point."""
    sector = np.pi / points
    angle = np.abs((np.arctan2(x, -y) + sector) % (2 * sector) - sector)
    along, across = np.hypot(x, y) * np.cos(angle), np.hypot(x, y) * np.sin(angle)
    edge = np.array([inner * np.cos(sector) - 1, inner * np.sin(sector)])
    normal = np.array([edge[1], -edge[0]]) / np.linalg.norm(edge)
    return (along - radius) * normal[0] + across * normal[1]


def _trail(scene: Scene, x: np.ndarray, y: np.ndarray, heading: np.ndarray) -> np.ndarray:
    """Opacity of the trail: fades linearly behind the object over a length that grows with its speed."""
    length = scene.radius * (1.6 + SPEEDS[scene.speed] / SPEEDS["slowly"])
    hx, hy = heading[:, 0, None, None], heading[:, 1, None, None]
    behind = -(x * hx + y * hy)
    across = np.abs(x * hy - y * hx)
    fade = np.clip(1 - behind / length, 0, 1) * (behind > 0)
    return TRAIL_OPACITY * fade * np.clip(0.7 * scene.radius - across, 0, 1)


def _plain(scene: Scene, frames: int) -> tuple[np.ndarray, np.ndarray]:
    flat = np.ones((frames, SIZE, SIZE, 3))
    return flat * (BACKGROUNDS[scene.background] / 255), flat * (np.array(COLOURS[scene.colour]) / 255)


def _lit(scene: Scene, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """High grade: a graded background with a soft shadow; a surface with diffuse light, a highlight and a weave."""
    background, surface = _plain(scene, len(x))
    lx, ly = np.cos(scene.light), np.sin(scene.light)
    slope = np.linspace(1.12, 0.82, SIZE)[None, :, None, None]
    shadow = np.exp(-((((x + 4 * lx) ** 2 + (y + 4 * ly) ** 2) / (1.1 * scene.radius) ** 2) ** 2))
    background = background * slope * (1 - 0.35 * shadow[..., None])
    u, v = x / scene.radius, y / scene.radius
    diffuse = 0.92 + 0.3 * (u * lx + v * ly)
    weave = 1 + 0.1 * np.sin(2 * np.pi * (x + y) / 9)
    highlight = 0.5 * np.exp(-((u - 0.4 * lx) ** 2 + (v - 0.4 * ly) ** 2) / 0.06)
    return background, np.clip(surface * (diffuse * weave)[..., None] + highlight[..., None], 0, 1)


def _saturate(rgb: np.ndarray, amount: float) -> np.ndarray:
    luma = rgb @ np.array([0.299, 0.587, 0.114])
    return np.clip(luma[..., None] + amount * (rgb - luma[..., None]), 0, 1)


def _degrade(picture: np.ndarray, noise_seed: int) -> np.ndarray:
    """Low grade: blur, flattened contrast, the mark, then sensor noise that differs in every frame."""
    bright, dark = watermark()
    blurred = gaussian_filter(picture, sigma=(0, BLUR_SIGMA, BLUR_SIGMA, 0))
    flattened = 0.5 + 0.85 * (blurred - 0.5)
    marked = flattened * (1 - MARK_ALPHA * (bright + dark)[..., None]) + MARK_ALPHA * bright[..., None]
    return marked + np.random.default_rng(noise_seed).normal(0, NOISE_SIGMA, picture.shape)
