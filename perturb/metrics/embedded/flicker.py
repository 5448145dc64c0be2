"""VBench's temporal flickering, the one part of the published aggregates that needs no network. Axes: t h w c."""

from collections.abc import Mapping

import numpy as np

from perturb.errors import UserError
from perturb.metrics.base import Clip, ClipMetric, Context, MetricInfo


def measure_flicker(clip: Clip, _context: Context) -> Mapping[str, float]:
    """(255 - mean |I_t - I_{t-1}|)/255 over all channels and t ≥ 1: 1 for a static clip. UserError for one frame."""
    if len(clip.frames) < 2:
        raise UserError("flicker is between adjacent frames: needs at least 2, not 1")
    return {"vbench_flicker": 1 - float(np.abs(np.diff(clip.frames.astype(np.int16), axis=0)).mean()) / 255}


VBENCH_FLICKER = ClipMetric(
    (
        MetricInfo.of(
            "vbench_flicker",
            "motion",
            "(255 - mean |I_t - I_{t-1}|)/255, I in 0…255",
            "VBench (Huang et al. 2024)",
            "Motion lowers it as flicker does, and a static clip has 1. VBench drops moving clips first.",
            depends=("fps",),
        ),
    ),
    measure_flicker,
    version=1,
)
