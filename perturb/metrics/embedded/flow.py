"""Optical flow, what it explains, and what it leaves over.

Axes: t frames, p pairs of adjacent frames, h w pixels, last axis 2 = (x, y).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import cv2
import numpy as np

from perturb.metrics.embedded.frames import blur
from perturb.metrics.embedded.visual import noise

FLOW_BLUR, STRONGEST_BLUR = 0.7, 3.0  # px; the least keeps object edges
FLOW_NOISE = 0.002  # luma; half a grey level of an 8-bit frame, what noise may be left for the matcher
FLOW_CONTRAST = 45.0  # grey levels per standard deviation given to the matcher
CONTRAST_FLOOR = 0.02  # luma; a nearly flat frame is not stretched into noise
FLOW_SIZE = 128  # smaller frames are enlarged to this: halves the end-point error of 64 px clips
EXPLAIN_NOISE = 0.002  # luma; half a grey level of an 8-bit frame
EXPLAIN_WINDOW = 1 / 16  # of the shorter side
EXPLAIN_FROM, EXPLAIN_TO = 0.5, 0.8
RESTING_WINDOW = 1 / 32  # of the shorter side
RESTING_FROM, RESTING_TO = 0.1, 0.4
LOCAL_FROM, LOCAL_TO = 0.25, 0.4


@contextmanager
def single_thread() -> Iterator[None]:
    """DIS cuts the frame into one stripe per thread, so its result depends on their number: always use one."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def grain(luma: np.ndarray) -> float:
    """σ_n of noise that is new in every frame: that of the differences of adjacent frames over √2, median of pairs.

    Noise that stays in its place has none, a moving texture as fine as a pixel has some.
    """
    return float(np.median(noise(np.diff(luma, axis=0))) / np.sqrt(2))


def left_of(sigma_n: float, blurred: float) -> float:
    """The standard deviation of white noise σ_n after a Gaussian of σ pixels: σ_n/(2√π σ)."""
    return sigma_n / (2 * np.sqrt(np.pi) * blurred)


def _blur_for(sigma_n: float) -> float:
    """The σ in pixels that leaves noise of .002, between .7 (up to σ_n = .005) and 3."""
    return float(np.clip(left_of(sigma_n, FLOW_NOISE), FLOW_BLUR, STRONGEST_BLUR))


def _matchable(luma: np.ndarray, sigma_n: float) -> np.ndarray:
    """Blurred, each frame brought to mean 128 and one contrast, enlarged when small: uint8 `t h' w'`.

    Normalising per frame makes the flow blind to contrast and to brightness flicker (L and C see the flicker).
    """
    soft = blur(luma, _blur_for(sigma_n))
    mean, spread = soft.mean((1, 2), keepdims=True), soft.std((1, 2), keepdims=True)
    levels = 128 + FLOW_CONTRAST * (soft - mean) / (spread + CONTRAST_FLOOR)
    factor = max(1, -(-FLOW_SIZE // min(luma.shape[1:])))
    if factor > 1:
        levels = np.stack([cv2.resize(f, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC) for f in levels])
    return np.clip(levels, 0, 255).astype(np.uint8)


def optical_flow(luma: np.ndarray, sigma_n: float | None = None) -> np.ndarray:
    """Displacement of each pixel to the next frame, in pixels: luma `t h w` in [0, 1] → float32 `(t-1) h w 2`.

    Dense inverse search (Kroeger et al. 2016, OpenCV, medium preset) on contrast-normalised, blurred luma, without
    spatial propagation: it carries the motion of an object far into a flat, slightly noisy background. The noisier the
    frames, the more they are blurred: an object without texture has only its outline to follow, and noise hides it.
    Identical frames give exactly zero. ``sigma_n``: their `grain`, where it is known.
    """
    _, height, width = luma.shape
    levels = _matchable(luma, grain(luma) if sigma_n is None else sigma_n)
    scale = levels.shape[1] / height
    fields = []
    with single_thread():
        search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        search.setUseSpatialPropagation(False)
        for before, after in pairwise(levels):
            if np.array_equal(before, after):
                fields.append(np.zeros((height, width, 2), np.float32))
                continue
            field = search.calc(before, after, np.zeros((*before.shape, 2), np.float32))
            if scale > 1:
                field = cv2.resize(field, (width, height), interpolation=cv2.INTER_AREA) / np.float32(scale)
            fields.append(field)
    return np.stack(fields)


def length(vectors: np.ndarray) -> np.ndarray:
    """|v| of vectors along the last axis, which it takes off."""
    return np.sqrt(np.square(vectors[..., 0]) + np.square(vectors[..., 1]))


def warp(image: np.ndarray, field: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """image(x + flow(x)) by bilinear sampling, and the mask `h w` of pixels whose source lies inside the frame."""
    height, width = field.shape[:2]
    source_x = np.arange(width, dtype=np.float32) + field[..., 0]
    source_y = np.arange(height, dtype=np.float32)[:, None] + field[..., 1]
    inside = (source_x >= 0) & (source_x <= width - 1) & (source_y >= 0) & (source_y <= height - 1)
    warped = cv2.remap(image, source_x, source_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return warped, inside


def residuals(frames: np.ndarray, flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the flow leaves over, after(x + flow) - before(x), 0 outside, and the mask of the inside: `p h w` each.

    frames: luma `t h w`, flow `p h w 2`. No occlusion mask: it would hide shuffled and unrelated frames.
    """
    warped, inside = zip(*(warp(after, field) for after, field in zip(frames[1:], flow, strict=True)), strict=True)
    inside = np.stack(inside)
    return (np.stack(warped) - frames[:-1]) * inside, inside


def explained(frames: np.ndarray, residual: np.ndarray, inside: np.ndarray, *, grainy: float = 0.0) -> np.ndarray:
    """`explained_by` of frames `t h w` against no motion at all."""
    return explained_by(residual, inside, np.diff(frames, axis=0), grainy=grainy)


def explained_by(residual: np.ndarray, inside: np.ndarray, change: np.ndarray, *, grainy: float) -> np.ndarray:
    """How far the flow accounts for a local ``change`` of luma between two frames: `p h w` in [0, 1].

    w = clip((g - .5)/.3, 0, 1),  g = 1 - (R_flow + ε²)/(R_still + ε²),  R = local mean square of the residual of the
    flow and of the change, all `p h w`. Real motion explains nearly all change (g ≈ 1); the flow that a matcher invents
    for noise explains about a third. Without this, noise on a flat background reads as fast motion. ``grainy``: the
    standard deviation of noise in the frames; ε² is at least 2 grainy², the change that noise alone makes.
    """
    still = change**2
    moved = np.where(inside, residual**2, still)
    sigma, floor = EXPLAIN_WINDOW * min(still.shape[1:]), max(EXPLAIN_NOISE**2, 2 * grainy**2)
    gain = 1 - (blur(moved, sigma) + floor) / (blur(still, sigma) + floor)
    return np.clip((gain - EXPLAIN_FROM) / (EXPLAIN_TO - EXPLAIN_FROM), 0, 1)


def resting(residual: np.ndarray) -> np.ndarray:
    """How far what the flow leaves over is an overlay that rests while the flow moves it: `h w` in [0, 1].

    An overlay O leaves the same O(x + flow) - O(x) at its place in every pair, with its sign; shuffled frames, noise
    and boiling textures leave something else each time. Their correlation over the p pairs, within a small window,

        ρ = (p ⟨r̄²⟩/⟨mean r²⟩ - 1)/(p - 1),   r̄ = mean of r over pairs,   w = clip((ρ - .1)/.3, 0, 1),

    is 0 for independent and 1 for equal residuals. A mark is local: where w covers more than a quarter of the frame
    (fixed-pattern noise does), it fades to nothing at 40 %. residual: `p h w`, 0 outside the frame.
    """
    pairs, height, width = residual.shape
    window = RESTING_WINDOW * min(height, width)
    same, every = blur(np.stack([residual.mean(0) ** 2, (residual**2).mean(0)]), window)
    correlation = (pairs * same / (every + np.float32(1e-12)) - 1) / (pairs - 1)
    weight = np.clip((correlation - RESTING_FROM) / (RESTING_TO - RESTING_FROM), 0, 1) * (every > EXPLAIN_NOISE**2)
    return weight * np.clip((LOCAL_TO - weight.mean()) / (LOCAL_TO - LOCAL_FROM), 0, 1)
