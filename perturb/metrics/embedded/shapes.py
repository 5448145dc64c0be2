"""Does a clip of the embedded world show what its prompt names? Only for that world; `conf/metrics/shapes.yaml`."""

from collections.abc import Mapping

from perturb.metrics import embedded_metrics
from perturb.metrics.base import Clip, ClipMetric, Context, Metric, MetricInfo, SetMetric, Unavailable
from perturb.world import judge, named

LABELS = ("colour", "shape", "direction", "speed")


def measure_labels(clip: Clip, _context: Context) -> Mapping[str, float]:
    """1 for each label of the prompt that the pixels show, else 0. Unavailable for a prompt that is no caption."""
    labels = named(clip.prompt)
    if labels is None:
        raise Unavailable(f"the oracle reads captions of the embedded world only, not {clip.prompt!r}")
    verdict = judge(clip.frames, clip.fps)
    return {f"{label}_shown": float(getattr(verdict, label) == labels[label]) for label in LABELS}


SHAPES = ClipMetric(
    tuple(
        MetricInfo(
            f"{label}_shown",
            "text",
            "1",
            (0.0, 1.0),
            "up",
            (),
            f"1 when the {label} read from the pixels is the one that the prompt names, else 0",
            "this project (perturb.world.oracle)",
            pitfalls="Of the embedded world only. Always answers with the nearest name: an object that is nothing in "
            "particular is still called something.",
        )
        for label in LABELS
    ),
    measure_labels,
    version=1,
)


def shapes_metrics() -> list[Metric | SetMetric]:
    """The embedded metrics, and whether colour, shape, direction and speed are the named ones."""
    return [*embedded_metrics(), SHAPES]
