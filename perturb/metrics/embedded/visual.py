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

NORMAL_QUARTILE = 0.6744897501960817  # median |z| of a standard normal
# three standard deviations of the derivative of unit white noise after a σ = 1 blur
NOISE_GATE = 3 / np.sqrt(8 * np.pi)
HIGH_PASS = np.array(pywt.Wavelet("db2").dec_hi[::-1], np.float32)  # pyright: ignore[reportAttributeAccessIssue]
BLOCK = 8
BLUR_FILTER = 11  # px
GREY_LEVEL = 1 / 255
FLAT = 1e-6  # luma per px: rounding of 32-bit arithmetic


def noise(light: np.ndarray) -> np.ndarray:
    """σ_n = median |d| / .6745 of the finest diagonal db2 wavelet coefficients: luma `t h w` → `t` (Donoho 1994).

    PyWavelets' coefficients (`dwt2`, symmetric), without the three bands that are not needed.
    """
    return np.array([_median(np.abs(_diagonal(frame))) for frame in light]) / NORMAL_QUARTILE


def _diagonal(frame: np.ndarray) -> np.ndarray:
    """High-pass down and across, every second coefficient: `h w` → `h/2+1 w/2+1`, rounded down."""
    padded = cv2.copyMakeBorder(frame, 2, 3, 2, 3, cv2.BORDER_REFLECT)
    filtered = cv2.sepFilter2D(padded, cv2.CV_32F, HIGH_PASS, HIGH_PASS, anchor=(2, 2))
    height, width = frame.shape
    return filtered[2 : height + 4 : 2, 2 : width + 4 : 2]


def _median(numbers: np.ndarray) -> float:
    """The median of many numbers; `np.median` takes ten times as long."""
    half = numbers.size // 2
    parted = np.partition(numbers.ravel(), half)
    return float(parted[half] if numbers.size % 2 else (parted[:half].max() + parted[half]) / 2)


def sharpness(light: np.ndarray, noise_level: np.ndarray) -> np.ndarray:
    """Root mean square Sobel gradient after a σ = 1 blur, of pixels above the noise: luma per pixel, `t h w` → `t`.

    √ mean(|∇Y|² · [|∇Y| > 3 σ_n/√(8π)]): σ_n/√(8π) is what white noise leaves in each derivative after the blur.
    """
    scores = []
    for frame, level in zip(light, noise_level, strict=True):
        soft = cv2.GaussianBlur(frame, (0, 0), 1.0)
        across, down = (cv2.Sobel(soft, cv2.CV_32F, *order, scale=1 / 8) for order in ((1, 0), (0, 1)))
        energy = across * across + down * down
        _, above = cv2.threshold(energy, (NOISE_GATE * level) ** 2, 0, cv2.THRESH_TOZERO)
        scores.append(np.sqrt(cv2.mean(above)[0]))
    return np.array(scores)


def blockiness(light: np.ndarray) -> np.ndarray:
    """(B - I)/(B + I + 1/255): mean luma step across 8-px block borders against all other steps, `t h w` → `t`.

    In (-1, 1); 0 when the borders are like the rest. UserError for frames without a border in each direction.
    """
    if min(light.shape[1:]) <= BLOCK:
        raise UserError(f"blockiness needs frames larger than {BLOCK} px, not {light.shape[2]}×{light.shape[1]}")
    return np.array([_blocks(frame) for frame in light])


def _blocks(frame: np.ndarray) -> float:
    """Blockiness of one frame: the mean of that of the steps down and of the steps across."""
    down = cv2.absdiff(frame[1:], frame[:-1]).mean(1)
    across = cv2.absdiff(frame[:, 1:], frame[:, :-1]).mean(0)
    scores = []
    for steps in (down, across):  # each the mean along a line between two rows or columns
        border = np.arange(len(steps)) % BLOCK == BLOCK - 1
        at_border, inside = steps[border].mean(), steps[~border].mean()
        scores.append((at_border - inside) / (at_border + inside + GREY_LEVEL))
    return float(np.mean(scores))


def clipped(frames: np.ndarray) -> np.ndarray:
    """Fraction of channel values at 0 or 255, where clamping may have lost detail: `t h w c` → `t`."""
    rows = frames.reshape(*frames.shape[:2], -1)
    between = np.array([cv2.countNonZero(cv2.inRange(frame, 1, 254)) for frame in rows])
    return (frames[0].size - between) / frames[0].size


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
    variation, kept, apart = cv2.sumElems(sharp)[0], cv2.sumElems(soft)[0], cv2.norm(sharp, soft, cv2.NORM_L1)
    lost = (variation - kept + apart) / 2  # max(0, x) = (x + |x|)/2
    return 1 - lost / variation if variation > FLAT * sharp.size else 1.0


def measure_visual(clip: Clip, _context: Context) -> Mapping[str, float]:
    """All visual measures of one clip, each the mean over its frames. UserError for frames of 8 px or less."""
    light = clip.light
    noise_level = noise(light)
    per_frame = {
        "sharpness": sharpness(light, noise_level),
        "noise": noise_level,
        "blur": blur_strength(light),
        "contrast": clip.contrast,
        "colourfulness": clip.colourfulness,
        "clipped": clipped(clip.frames),
        "blockiness": blockiness(light),
    }
    return {name: float(np.mean(values)) for name, values in per_frame.items()}


_SIZE: tuple[Literal["size"]] = ("size",)

VISUAL = ClipMetric(
    (
        MetricInfo.of(
            "sharpness",
            "visual",
            "√ mean(|Sobel(G₁ * Y)|² where it exceeds 3 σ_n/√(8π))",
            "Tenengrad (Krotkov 1988), gated by noise",
            "Rises with contrast, and with whatever has edges: a watermark, blocks.",
            unit="luma per px",
            depends=_SIZE,
        ),
        MetricInfo.of(
            "noise",
            "visual",
            "median |finest diagonal db2 coefficient| / .6745",
            "Donoho 1994",
            "Texture as fine as a pixel reads as noise; noise that a codec or a resize smoothed does not.",
            unit="luma",
            range=(0.0, 1.5),
            direction="down",
            depends=_SIZE,
        ),
        MetricInfo.of(
            "blur",
            "visual",
            "loss of local variation under an 11-px mean filter",
            "Crété et al. 2007 (equal to scikit-image's blur_effect)",
            "Noise hides blur. Smooth content is blurred content. A flat frame counts as 1.",
            direction="down",
            depends=_SIZE,
        ),
        MetricInfo.of(
            "contrast",
            "visual",
            "standard deviation of luma in a frame",
            "RMS contrast (Peli 1990)",
            "Says how much luma varies, not where: a large dark object raises it like a crisp one.",
            unit="luma",
            range=(0.0, 0.5),
            direction="band",
        ),
        MetricInfo.of(
            "colourfulness",
            "visual",
            "√(σ_rg² + σ_yb²) + .3 √(μ_rg² + μ_yb²)",
            "Hasler and Süsstrunk 2003",
            "Noise that differs between channels is colourful. A colour cast raises it.",
            unit="8-bit levels",
            range=(0.0, 300.0),
            direction="band",
        ),
        MetricInfo.of(
            "clipped",
            "visual",
            "fraction of channel values at 0 or 255",
            "this project",
            "Pure black and white scenes are clipped by nature.",
            direction="down",
        ),
        MetricInfo.of(
            "blockiness",
            "visual",
            "(B - I)/(B + I + 1/255); B, I = mean luma step across and inside 8-px block borders",
            "after Wang, Sheikh and Bovik 2002",
            "Only blocks of 8 px that begin at the corner: a clip that was resized after coding hides them.",
            range=(-1.0, 1.0),
            direction="down",
            depends=_SIZE,
        ),
    ),
    measure_visual,
    version=2,
)
