"""Metrics that see clips, never models. Each says what it is (`MetricInfo`) and never invents a number."""

from perturb.metrics.base import (
    Clip,
    ClipMetric,
    Context,
    Gathered,
    Metric,
    MetricInfo,
    SetMetric,
    Sets,
    Unavailable,
    Value,
)
from perturb.metrics.engine import Engine, Scored, Scores, score_clips
from perturb.metrics.measure import ClipSource, Format
from perturb.metrics.motion import MOTION
from perturb.metrics.naturalness import Naturalness
from perturb.metrics.perceptual import SSIM_DRIFT, LpipsDrift
from perturb.metrics.pool import Workers, suitable_workers
from perturb.metrics.visual import VISUAL
from perturb.metrics.watermark import Watermark

__all__ = [
    "Clip",
    "ClipMetric",
    "ClipSource",
    "Context",
    "Engine",
    "Format",
    "Gathered",
    "Metric",
    "MetricInfo",
    "Scored",
    "Scores",
    "SetMetric",
    "Sets",
    "Unavailable",
    "Value",
    "Workers",
    "embedded_metrics",
    "score_clips",
    "suitable_workers",
]


def embedded_metrics(*, device: str = "cpu") -> list[Metric | SetMetric]:
    """Every metric that comes with the package; `device` is where LPIPS runs (`unavailable` without its weights)."""
    return [MOTION, VISUAL, Watermark(), Naturalness(), SSIM_DRIFT, LpipsDrift(device=device)]
