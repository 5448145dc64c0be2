"""Metrics that see clips, never models. Each says what it is (`MetricInfo`) and never invents a number."""

from collections.abc import Mapping, Sequence

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
from perturb.metrics.embedded.motion import MOTION
from perturb.metrics.embedded.naturalness import Naturalness
from perturb.metrics.embedded.perceptual import SSIM_DRIFT
from perturb.metrics.embedded.track_distance import TrackDistance
from perturb.metrics.embedded.tracks import TRACKS
from perturb.metrics.embedded.visual import VISUAL
from perturb.metrics.embedded.watermark import Watermark
from perturb.metrics.learned import learned_metrics
from perturb.metrics.scoring.aggregates import described
from perturb.metrics.scoring.engine import Engine, Scored, Scores, score_clips
from perturb.metrics.scoring.measure import ClipSource, Format
from perturb.metrics.scoring.pool import Workers, suitable_workers

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
    "all_metrics",
    "described",
    "embedded_metrics",
    "learned_metrics",
    "score_clips",
    "suitable_workers",
    "track_metrics",
]


def embedded_metrics() -> list[Metric | SetMetric]:
    """Every metric that comes with the package and needs no weights."""
    return [MOTION, VISUAL, Watermark(), Naturalness(), SSIM_DRIFT]


def track_metrics() -> list[Metric | SetMetric]:
    """The embedded metrics and those of point tracks, which take half as long again."""
    return [*embedded_metrics(), TRACKS, TrackDistance()]


def all_metrics(
    *,
    device: str = "auto",
    weights: str | None = None,
    lpips: Sequence[str] = ("alex",),
    imported: Mapping[str, str | None] | None = None,
) -> list[Metric | SetMetric]:
    """The embedded metrics, those of tracks, and the learned ones; arguments as of `learned_metrics`."""
    return [*track_metrics(), *learned_metrics(device=device, weights=weights, lpips=lpips, imported=imported)]
