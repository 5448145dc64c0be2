"""What only the embedded world allows: does a clip show what its prompt names, and how does its object move?

`conf/metrics/shapes.yaml`. Axes: t frames, last axis 2 = (x, y).
"""

from collections.abc import Mapping

import numpy as np

from perturb.errors import UserError
from perturb.metrics import embedded_metrics
from perturb.metrics.base import Clip, ClipMetric, Context, Metric, MetricInfo, SetMetric, Unavailable
from perturb.metrics.embedded.motion import MIN_FRAMES
from perturb.world import judge, named, object_path
from perturb.world.scenes import DIRECTIONS, SPEEDS

LABELS = ("colour", "shape", "direction", "speed")


def labels_of(clip: Clip) -> dict[str, str]:
    """What the clip's prompt names. Unavailable for a prompt that is no caption of the embedded world."""
    labels = named(clip.prompt)
    if labels is None:
        raise Unavailable(f"the oracle reads captions of the embedded world only, not {clip.prompt!r}")
    return labels


def measure_labels(clip: Clip, _context: Context) -> Mapping[str, float]:
    """1 for each label of the prompt that the pixels show, else 0."""
    labels = labels_of(clip)
    verdict = judge(clip.frames, clip.fps)
    return {f"{label}_shown": float(getattr(verdict, label) == labels[label]) for label in LABELS}


def path_jerk(path: np.ndarray, speed: float) -> float:
    """Mean over frames of |v_{i+1} - v_i| / s, v_i = x_{i+1} - x_i: how unevenly a path `t 2` is run through.

    ``speed``: s, the named one, in the path's unit per frame. 0 for uniform motion, and for an object at rest.
    UserError for fewer than 3 frames.

    >>> path_jerk(np.array([[0.0, 0.0], [2.0, 0.0], [4.0, 0.0], [4.0, 0.0]]), speed=2.0)
    0.5
    """
    if len(path) < MIN_FRAMES:
        raise UserError(f"a change of velocity needs at least {MIN_FRAMES} frames, not {len(path)}")
    return float(np.linalg.norm(np.diff(path, n=2, axis=0), axis=-1).mean() / speed)


def measure_path(clip: Clip, _context: Context) -> Mapping[str, float]:
    """Jerk and progress of the object's centre. UserError for a frame that shows no coloured object."""
    labels = labels_of(clip)
    path, speed = object_path(clip.frames), SPEEDS[labels["speed"]] / clip.fps
    jerk = path_jerk(path, speed)
    progress = (path[-1] - path[0]) @ np.array(DIRECTIONS[labels["direction"]]) / (speed * (len(path) - 1))
    return {"path_jerk": jerk, "path_progress": float(progress)}


SHAPES = ClipMetric(
    tuple(
        MetricInfo.of(
            f"{label}_shown",
            "text",
            f"1 when the {label} read from the pixels is the one that the prompt names, else 0",
            "this project (perturb.world.oracle)",
            "Of the embedded world only. Always answers with the nearest name: an object that is nothing in "
            "particular is still called something.",
        )
        for label in LABELS
    ),
    measure_labels,
    version=1,
)

PATH = ClipMetric(
    (
        MetricInfo.of(
            "path_jerk",
            "motion",
            "mean over frames of |v_{i+1} - v_i| / s; v_i = displacement of the object's centroid (the strong half of "
            "its chroma) to the next frame, s = speed that the prompt names, per frame",
            "this project (perturb.world.oracle)",
            "0 for an object at rest: read it beside path_progress. Of true clips, medians in web, low and "
            "high grade: .03, .12, .04 on straight paths, .38, .38, .36 on wavy ones, whose swing counts though it is "
            "named. A clip that loses its object in any frame has no value.",
            unit="named speeds",
            range=(0.0, None),
            direction="down",
            depends=("fps",),
        ),
        MetricInfo.of(
            "path_progress",
            "motion",
            "displacement of the object's centroid from the first to the last frame, along the named direction, over "
            "the named speed times the time between",
            "this project (perturb.world.oracle)",
            "1 is the named motion, 0 none, below 0 backwards. Sees the two ends only. A clip that jumps "
            "between them scores like one that glides.",
            unit="named speeds",
            range=(-2.0, 2.0),
            direction="band",
        ),
    ),
    measure_path,
    version=1,
)


def shapes_metrics() -> list[Metric | SetMetric]:
    """The embedded metrics, whether colour, shape, direction and speed are the named ones, and the object's path."""
    return [*embedded_metrics(), SHAPES, PATH]
