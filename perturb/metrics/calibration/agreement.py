"""Do flow and dynamics agree with the truth? Straight paths of the embedded world at many speeds.

Truth is the object's: flow is compared on the object's pixels alone, because the plain background around it has no
texture and therefore no flow that could be right or wrong. Left out are wavy paths, where the far end of the trail
swings faster than the object, and green and purple on grey, which luma does not tell apart.

Axes: t frames, h w pixels, last axis 2 = (x, y).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from perturb.metrics.base import Clip, Context
from perturb.metrics.embedded.flow import optical_flow
from perturb.metrics.embedded.frames import luma
from perturb.metrics.embedded.motion import measure_motion
from perturb.metrics.embedded.trajectory import agreement
from perturb.world import Grade, Scene, frame_times, object_mask, render, scene, true_flow

STREAM = 21  # of scenes; no model was trained on it
CLIPS = 64
FRAME_RATES = np.geomspace(6, 36, CLIPS)  # the faster the camera, the less an object moves per frame: 0.5 to 5.7 px
GRADES: tuple[Grade, ...] = ("web", "low", "high")


@dataclass(frozen=True)
class ShapesAgreement:
    """``spearman``: rank correlation of D with the true displacement per frame over ``clips`` clips.

    ``end_point_error`` (pixels), ``direction_error`` (degrees): of the flow on the object's pixels, means over clips.
    """

    grade: str
    clips: int
    spearman: float
    end_point_error: float
    direction_error: float


def agreement_on_shapes(grades: Sequence[Grade] = GRADES) -> list[ShapesAgreement]:
    """One row per grade."""
    return [_of_grade(grade) for grade in grades]


def _of_grade(grade: Grade) -> ShapesAgreement:
    dynamics, displacement, errors = [], [], []
    for index, (here, fps) in enumerate(zip(islice(_scenes(), CLIPS), FRAME_RATES, strict=True)):
        frames = render(here, grade, fps=fps, noise_seed=index)
        dynamics.append(measure_motion(Clip(frames, fps, str(index), 0, 0), Context())["dynamics"])
        displacement.append(np.linalg.norm(np.diff(here.position(frame_times(2, fps)), axis=0)))
        on_object = object_mask(here, fps=fps)[:-1] > 0.5
        errors.append(agreement(optical_flow(luma(frames))[on_object], true_flow(here, fps=fps)[on_object]))
    return ShapesAgreement(
        grade=grade,
        clips=CLIPS,
        spearman=float(np.asarray(spearmanr(dynamics, displacement))[0]),
        end_point_error=float(np.mean([error.end_point_error for error in errors])),
        direction_error=float(np.mean([error.direction_error for error in errors])),
    )


def _scenes() -> Iterator[Scene]:
    for index in count():
        here = scene(STREAM, index)
        if here.path == "straight" and not (here.background == "gray" and here.colour in ("green", "purple")):
            yield here


def agreement_csv(rows: Sequence[ShapesAgreement]) -> str:
    """One line per grade."""
    return pd.DataFrame(rows).to_csv(index=False, float_format="%.4f", na_rep="nan")
