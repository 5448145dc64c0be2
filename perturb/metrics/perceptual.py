"""Drift: how far a clip has moved from the clip of the same prompt and noise at step 0.

Axes: t frames, h w pixels, c channels.
"""

from collections.abc import Mapping

import numpy as np
from skimage.metrics import structural_similarity

from perturb.errors import UserError
from perturb.metrics.base import Clip, ClipMetric, Context, MetricInfo

SSIM_WINDOW = 7


def paired(clip: Clip, context: Context) -> tuple[np.ndarray, np.ndarray]:
    """The frames of the clip and of its step-0 original. Unavailable without one; UserError when the shapes differ."""
    original = context.original(clip).frames
    if original.shape != clip.frames.shape:
        raise UserError(f"the step-0 clip has shape {original.shape}, this one {clip.frames.shape}: cannot compare")
    return clip.frames, original


def measure_ssim(clip: Clip, context: Context) -> Mapping[str, float]:
    """1 - mean over frames of SSIM(frame, step-0 frame), RGB, 7×7 window: 0 for the same clip."""
    frames, original = paired(clip, context)
    if min(frames.shape[1:3]) < SSIM_WINDOW:
        raise UserError(f"SSIM needs frames of at least {SSIM_WINDOW} px, not {frames.shape[2]}×{frames.shape[1]}")
    similarity = [
        structural_similarity(now, before, channel_axis=-1, data_range=255, win_size=SSIM_WINDOW)
        for now, before in zip(frames, original, strict=True)
    ]
    return {"ssim_drift": 1 - float(np.mean(similarity))}


SSIM_DRIFT = ClipMetric(
    (
        MetricInfo(
            "ssim_drift",
            "drift",
            "1",
            (0.0, 2.0),
            "down",
            (),
            "1 - mean SSIM with the clip of the same prompt and noise at step 0",
            "Wang et al. 2004 (scikit-image)",
        ),
    ),
    measure_ssim,
    version=1,
    paired=True,
)
