"""Visual measures of single frames, averaged over the clip. Axes: t frames, h w pixels, c channels.

They are measures, not verdicts: those marked `band` can be too low as well as too high; read their change from step 0.
"""

from collections.abc import Mapping

import cv2
import numpy as np
import pywt
from skimage.measure import blur_effect

from perturb.errors import UserError
from perturb.metrics.base import Clip, ClipMetric, Context, MetricInfo
from perturb.metrics.frames import blur, luma

NORMAL_QUARTILE = 0.6744897501960817  # median |z| of a standard normal
NOISE_GATE = 3 / np.sqrt(
    8 * np.pi
)  # three standard deviations of the derivative of unit white noise after a σ = 1 blur
BLOCK = 8
GREY_LEVEL = 1 / 255


def noise(light: np.ndarray) -> np.ndarray:
    """σ_n = median |d| / .6745 of the finest diagonal db2 wavelet coefficients: luma `t h w` → `t` (Donoho 1994)."""
    _, (_, _, diagonal) = pywt.dwt2(light, "db2", axes=(-2, -1))
    return np.median(np.abs(diagonal), axis=(1, 2)) / NORMAL_QUARTILE


def sharpness(light: np.ndarray, noise_level: np.ndarray) -> np.ndarray:
    """Root mean square Sobel gradient after a σ = 1 blur, of pixels above the noise: luma per pixel, `t h w` → `t`.

    √ mean(|∇Y|² · [|∇Y| > 3 σ_n/√(8π)]): σ_n/√(8π) is what white noise leaves in each derivative after the blur.
    """
    soft = blur(light, 1.0)
    across = np.stack([cv2.Sobel(f, cv2.CV_32F, 1, 0, scale=1 / 8) for f in soft])
    down = np.stack([cv2.Sobel(f, cv2.CV_32F, 0, 1, scale=1 / 8) for f in soft])
    energy = across**2 + down**2
    gate = energy > (NOISE_GATE * noise_level[:, None, None]) ** 2
    return np.sqrt((energy * gate).mean((1, 2)))


def colourfulness(frames: np.ndarray) -> np.ndarray:
    """√(σ_rg² + σ_yb²) + .3 √(μ_rg² + μ_yb²), rg = R - G, yb = (R + G)/2 - B in 0…255: `t h w c` → `t`.

    Hasler and Süsstrunk 2003; 0 for grey, about 109 for "extremely colourful" photographs.
    """
    red, green, blue = np.moveaxis(frames.astype(np.float32), -1, 0)
    opponents = np.stack([red - green, (red + green) / 2 - blue])
    spread, mean = opponents.std((2, 3)), opponents.mean((2, 3))
    return np.hypot(*spread) + 0.3 * np.hypot(*mean)


def blockiness(light: np.ndarray) -> np.ndarray:
    """(B - I)/(B + I + 1/255): mean luma step across 8-px block borders against all other steps, `t h w` → `t`.

    In (-1, 1); 0 when the borders are like the rest. UserError for frames without a border in each direction.
    """
    if min(light.shape[1:]) <= BLOCK:
        raise UserError(f"blockiness needs frames larger than {BLOCK} px, not {light.shape[2]}×{light.shape[1]}")
    scores = []
    for axis in (1, 2):
        steps = np.abs(np.diff(light, axis=axis))
        border = np.arange(steps.shape[axis]) % BLOCK == BLOCK - 1
        at_border = steps.compress(border, axis).mean((1, 2))
        inside = steps.compress(~border, axis).mean((1, 2))
        scores.append((at_border - inside) / (at_border + inside + GREY_LEVEL))
    return np.mean(scores, axis=0)


def clipped(frames: np.ndarray) -> np.ndarray:
    """Fraction of channel values at 0 or 255, where clamping may have lost detail: `t h w c` → `t`."""
    return ((frames == 0) | (frames == 255)).mean((1, 2, 3))


def blur_strength(light: np.ndarray) -> np.ndarray:
    """How little local variation an 11-px mean filter still takes away: `t h w` → `t` in [0, 1], 1 for a flat frame.

    Crété et al. 2007 (scikit-image); a flat frame, where the measure is 0/0, counts as wholly blurred.
    """
    return np.array([blur_effect(frame) if np.ptp(frame) > 0 else 1.0 for frame in light])


def measure_visual(clip: Clip, _context: Context) -> Mapping[str, float]:
    """All visual measures of one clip, each the mean over its frames. UserError for frames of 8 px or less."""
    light = luma(clip.frames)
    noise_level = noise(light)
    per_frame = {
        "sharpness": sharpness(light, noise_level),
        "noise": noise_level,
        "blur": blur_strength(light),
        "contrast": light.std((1, 2)),
        "colourfulness": colourfulness(clip.frames),
        "clipped": clipped(clip.frames),
        "blockiness": blockiness(light),
    }
    return {name: float(np.mean(values)) for name, values in per_frame.items()}


VISUAL = ClipMetric(
    (
        MetricInfo(
            "sharpness",
            "visual",
            "luma per px",
            (0.0, 1.0),
            "up",
            (),
            "√ mean(|Sobel(G₁ * Y)|² where it exceeds 3 σ_n/√(8π))",
            "Tenengrad (Krotkov 1988), gated by noise",
        ),
        MetricInfo(
            "noise",
            "visual",
            "luma",
            (0.0, 1.5),
            "down",
            (),
            "median |finest diagonal db2 coefficient| / .6745",
            "Donoho 1994",
        ),
        MetricInfo(
            "blur",
            "visual",
            "1",
            (0.0, 1.0),
            "down",
            (),
            "loss of local variation under an 11-px mean filter",
            "Crété et al. 2007 (scikit-image)",
        ),
        MetricInfo(
            "contrast",
            "visual",
            "luma",
            (0.0, 0.5),
            "band",
            (),
            "standard deviation of luma in a frame",
            "RMS contrast (Peli 1990)",
        ),
        MetricInfo(
            "colourfulness",
            "visual",
            "8-bit levels",
            (0.0, 300.0),
            "band",
            (),
            "√(σ_rg² + σ_yb²) + .3 √(μ_rg² + μ_yb²)",
            "Hasler and Süsstrunk 2003",
        ),
        MetricInfo(
            "clipped",
            "visual",
            "1",
            (0.0, 1.0),
            "down",
            (),
            "fraction of channel values at 0 or 255",
            "this project",
        ),
        MetricInfo(
            "blockiness",
            "visual",
            "1",
            (-1.0, 1.0),
            "down",
            (),
            "(B - I)/(B + I + 1/255); B, I = mean luma step across and inside 8-px block borders",
            "after Wang, Sheikh and Bovik 2002",
        ),
    ),
    measure_visual,
    version=1,
)
