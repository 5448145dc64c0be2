"""Visual measures of single frames, averaged over the clip. Axes: t frames, h w pixels, c channels.

They are measures, not verdicts: those marked `band` can be too low as well as too high; read their change from step 0.
"""

from collections.abc import Mapping
from typing import Literal

import cv2
import numpy as np
import pywt

from perturb.errors import UserError
from perturb.metrics.base import Clip, ClipMetric, Context, MetricInfo
from perturb.metrics.frames import blur, luma

NORMAL_QUARTILE = 0.6744897501960817  # median |z| of a standard normal
NOISE_GATE = 3 / np.sqrt(
    8 * np.pi
)  # three standard deviations of the derivative of unit white noise after a σ = 1 blur
OPPONENTS = np.array([[1, -1, 0], [0.5, 0.5, -1]], np.float32)  # of (R, G, B): red-green, yellow-blue
BLOCK = 8
BLUR_FILTER = 11  # px
GREY_LEVEL = 1 / 255
FLAT = 1e-6  # luma per px: rounding of 32-bit arithmetic


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
    moments = [cv2.meanStdDev(cv2.transform(frame.astype(np.float32), OPPONENTS)) for frame in frames]
    mean, spread = np.array(moments)[..., 0].transpose(1, 2, 0)
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

    The greater over both axes of 1 - Σ max(0, |∇Y| - |∇Ȳ|)/Σ |∇Y|, Ȳ the mean of 11 pixels along the axis (Crété et
    al. 2007; the numbers of scikit-image's `blur_effect`, several times faster). A flat frame, 0/0, counts as blurred.
    """
    return np.array([max(_blur_along(frame, axis) for axis in (0, 1)) for frame in light])


def _blur_along(frame: np.ndarray, axis: int) -> float:
    size, order = ((BLUR_FILTER, 1), (1, 0)) if axis else ((1, BLUR_FILTER), (0, 1))
    smooth = cv2.blur(frame, size, borderType=cv2.BORDER_REFLECT)
    sharp, soft = (np.abs(cv2.Sobel(image, cv2.CV_32F, *order)[2:-1, 2:-1]) for image in (frame, smooth))
    variation = float(sharp.sum(dtype=np.float64))
    lost = float(np.maximum(sharp - soft, 0).sum(dtype=np.float64))
    return 1 - lost / variation if variation > FLAT * sharp.size else 1.0


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


_SIZE: tuple[Literal["size"]] = ("size",)

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
            depends=_SIZE,
            pitfalls="Rises with contrast, and with whatever has edges: a watermark, blocks.",
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
            depends=_SIZE,
            pitfalls="Texture as fine as a pixel reads as noise; noise that a codec or a resize smoothed does not.",
        ),
        MetricInfo(
            "blur",
            "visual",
            "1",
            (0.0, 1.0),
            "down",
            (),
            "loss of local variation under an 11-px mean filter",
            "Crété et al. 2007 (equal to scikit-image's blur_effect)",
            depends=_SIZE,
            pitfalls="Noise hides blur. Smooth content is blurred content. A flat frame counts as 1.",
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
            pitfalls="Says how much luma varies, not where: a large dark object raises it like a crisp one.",
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
            pitfalls="Noise that differs between channels is colourful. A colour cast raises it.",
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
            pitfalls="Pure black and white scenes are clipped by nature.",
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
            depends=_SIZE,
            pitfalls="Only blocks of 8 px that begin at the corner: a clip that was resized after coding hides them.",
        ),
    ),
    measure_visual,
    version=2,
)
