"""Motion: how much, how coherent, how smooth, how steady in light; and their product, motion quality M = D·C·S·L.

A static clip is perfectly coherent and steady, so none of the parts alone is motion quality: the product is, and it is
exactly 0 for a static clip. Constants were tuned on textured shapes and pans of 64×64×8 with known motion, and differ
from VBench-like settings (D = 1 - exp(-2v/τ), S = 1 - a/(a + 2s + .25) over all pixels) in four ways:

- v/τ instead of 2v/τ: speeds of 2 to 5 px per frame at 64 px stay apart (D = .74 to .96 instead of .93 to .999);
- flow counts where it explains the change of the frame (`flow.explained`): a static clip with noise reads 0, not 4 px;
- noise that is new in every frame is measured first: the more of it, the more frames are blurred for the flow (not
  for C), and change that it alone can make counts as unexplained;
- acceleration follows the moving matter and is weighted by its speed, so that an object covering a tenth of the frame
  counts in full: shuffled frames fall to a fifth of the clean clip instead of a half.

Reached on the calibration suite, relative to the clean clip (median, worst of 9 clips): shuffled frames .01, .11;
boiling texture of amplitude .1 .02, .07; flicker of ±10 % .00, .37. Blur up to σ = 2.5 px, a loss of three quarters of
the contrast and desaturation move M by less than 8 %. A watermark rests while what lies under it moves; C leaves such
residuals out (`flow.resting`), and opacity .2 costs 3 %, at worst 5 %; at .4 it hides part of a small disc, 7 % and
16 %. The same leniency gives fixed-pattern noise under a small moving object part of its cost back. A wave of 4 px
within 8 frames costs smoothness (S ≈ .7). All numbers: experiments/metric_calibration.

Frames with a shorter side of more than 256 px are measured at half, a third … of their size: four times faster at
320×512, and the same motion read as the same D, C, S within .02 (64 to 640 px).

Axes: t frames, p pairs of adjacent frames, h w pixels, last axis of flow 2 = (x, y).
"""

from collections.abc import Mapping

import numpy as np

from perturb.errors import UserError
from perturb.metrics.base import Clip, ClipMetric, Context, MetricInfo
from perturb.metrics.embedded.apart import APART, Apart, reduced
from perturb.metrics.embedded.flow import explained, grain, left_of, length, optical_flow, residuals, resting, warp
from perturb.metrics.embedded.frames import at_most, blur
from perturb.metrics.embedded.objects import Shot
from perturb.metrics.embedded.speed import SPEED_FLOOR, SPEED_UNIT, dynamics

CONSISTENCY, CONTRAST_FLOOR = 4.0, 0.02
SMOOTHNESS = 0.7
LUMINANCE = 10.0
RESIDUAL_BLUR = 1.0
COLLAPSE_DYNAMICS, COLLAPSE_DIFFERENCE = 0.1, 0.05
MIN_FRAMES = 3
LARGEST = 256  # px of the shorter side; larger frames are measured at half, a third … of their size


def consistency(frames: np.ndarray, residual: np.ndarray, inside: np.ndarray) -> float:
    """C = exp(-4 E/(σ + .02)): E the warp residual over all in-bounds pixels, σ the standard deviation of luma.

    What rests as an overlay (`flow.resting`) counts as explained: a watermark is no fault of the motion. A pair whose
    flow leaves the frame everywhere counts as E = 1. frames: blurred luma `t h w` in [0, 1]; residual, inside `p h w`.
    In (0, 1], 1 when the flow predicts the next frame.
    """
    left = np.abs(residual) * (1 - resting(residual)) * inside
    pixels = inside.sum((1, 2))
    error = np.where(pixels > 0, left.sum((1, 2)) / np.maximum(pixels, 1), 1.0).mean()
    return float(np.exp(-CONSISTENCY * error / (frames.std((1, 2)).mean() + CONTRAST_FLOOR)))


def smoothness(flow: np.ndarray, weight: np.ndarray) -> float:
    """S = exp(-(r/.7)²), r = a/(s + τ/6): relative change of velocity of whatever moves, from frame to frame.

    a = Σ w|f_{i+1}(x + f_i) - f_i| / Σ w and s = Σ w|f_i| / Σ w, weights w = explained |f_i| inside the frame.
    flow `p h w 2` in pixels, weight `p h w`. In (0, 1], 1 for uniform motion and when nothing moves.
    """
    change = speed = total = 0.0
    for now, following, w in zip(flow[:-1], flow[1:], weight[:-1], strict=True):
        ahead, inside = warp(following, now)
        mass = w * inside
        change += float((mass * length(ahead - now)).sum())
        speed += float((mass * length(now)).sum())
        total += float(mass.sum())
    if total == 0:
        return 1.0
    floor = SPEED_FLOOR * SPEED_UNIT * min(flow.shape[1:3])
    return float(np.exp(-((change / (speed + floor * total) / SMOOTHNESS) ** 2)))


def luminance_stability(frames: np.ndarray) -> float:
    """L = exp(-20 · ½ · mean |Δ²Ȳ|), Ȳ the mean luma of a frame: 1 for constant or evenly changing light, `t h w`."""
    return float(np.exp(-LUMINANCE * np.abs(np.diff(frames.mean((1, 2)), n=2)).mean()))


def collapsed(frames: np.ndarray, dynamics_value: float) -> bool:
    """D < .1 and no frame differs from the first by .05 of luma or more in 1 % of its pixels (blurred luma `t h w`)."""
    if dynamics_value >= COLLAPSE_DYNAMICS:
        return False
    return bool(np.percentile(np.abs(frames - frames[0]), 99, axis=(1, 2)).max() < COLLAPSE_DIFFERENCE)


def measure_motion(clip: Clip, _context: Context) -> Mapping[str, float]:
    """All motion measures of one clip from one flow computation. UserError for fewer than 3 frames."""
    if len(clip.frames) < MIN_FRAMES:
        raise UserError(f"motion is undefined for {len(clip.frames)} frame(s); it needs at least {MIN_FRAMES}")
    light = at_most(clip.light, LARGEST)
    soft = blur(light, RESIDUAL_BLUR)
    sigma_n = grain(light)
    flow = optical_flow(light, sigma_n)
    residual, inside = residuals(soft, flow)
    grainy = left_of(sigma_n, RESIDUAL_BLUR)
    speed = explained(soft, residual, inside, grainy=grainy) * length(flow)
    parts = {
        "dynamics": dynamics(speed),
        "consistency": consistency(soft, residual, inside),
        "smoothness": smoothness(flow, speed),
        "luminance_stability": luminance_stability(light),
    }
    quality = float(np.prod(list(parts.values())))
    apart = Apart(clip.frames, reduced(light, Shot(soft, flow, residual, inside, grainy)))
    frozen = collapsed(soft, parts["dynamics"]) or apart.frozen
    return {**parts, "motion_quality": quality, "collapse": float(frozen), **apart.measures()}


def _info(name: str, formula: str, source: str, pitfalls: str) -> MetricInfo:
    direction = "down" if name == "collapse" else "up"
    return MetricInfo.of(name, "motion", formula, source, pitfalls, direction=direction, depends=("fps",))


MOTION = ClipMetric(
    (
        _info(
            "dynamics",
            "D = 1 - exp(-v/τ); v = median over pairs of the mean explained |flow| of the 5 % fastest pixels; "
            "τ = 6·min(h, w)/256 px per frame",
            "after dynamic degree, VBench (Huang et al. 2024); flow: DIS (Kroeger et al. 2016) on luma blurred "
            "by .7 px, up to 3 px where frames are noisy",
            "Not a quality: noise-free boiling is fast too. Flow works on luma: an object with the luma of its "
            "background does not move. Beyond 1/16 of the shorter side per frame a small object on a textured "
            "background is lost. 0 when half of the frames repeat the one before.",
        ),
        _info(
            "consistency",
            "C = exp(-4 E/(σ + .02)); E = mean in-bounds |warp residual|, but for a resting overlay, and "
            "σ = standard deviation of blurred luma",
            "after warping error (Lai et al. 2018), without occlusion mask",
            "1 for a static clip, and .98 for a drifting one. What fast objects uncover costs some: .89 for a disc "
            "of 5 px per frame at 64 px. A cut within 8 frames costs half.",
        ),
        _info(
            "smoothness",
            "S = exp(-(r/.7)²); r = mean |velocity change along the flow| / (mean speed + τ/6), both weighted by speed",
            "this project",
            "1 for a static clip. Real acceleration counts as unsteadiness: .7 for a wave of 4 px within 8 frames, "
            ".4 for limbs that swing; object_smoothness asks for its change instead.",
        ),
        _info(
            "luminance_stability",
            "L = exp(-20·½·mean |second difference of frame-mean luma|)",
            "this project",
            "1 for a static clip. Sees only the mean of the frame, and in a dark clip little of it.",
        ),
        _info(
            "motion_quality",
            "M = D·C·S·L",
            "this project",
            "Grows with speed, the camera's too: a frozen object under 1 px of drift has .48, limbs that swing .17, "
            "a clip with a cut .24, and a boiling texture on the right path as little as teleporting (object_motion "
            "tells these apart). Blur, contrast, desaturation and a mark of opacity .2 move it by less than a tenth, "
            "a mark of .4 over a small object by up to 16 %; flicker of ±5 % in a dark clip costs only a third. All "
            "cross-talk: experiments/metric_calibration.",
        ),
        _info(
            "collapse",
            "1 when D < .1 and the 99th percentile of |luma - first frame's| stays below .05, or, where the camera "
            "moves or the scene is cut, when in every shot D_o < .1 and 95 % stay below .05 once the camera is taken "
            "off; its mean is the rate",
            "this project",
            "A clip that fades or is unrelated from frame to frame has not collapsed: it is bad in another way. A "
            "pan over a still has collapsed: 42 of 44 drifting stills are found, the others have little texture. "
            "Rain on grey has too: it reads as a camera.",
        ),
        *APART,
    ),
    measure_motion,
    version=4,
)
