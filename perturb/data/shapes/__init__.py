"""The embedded world: captioned clips of coloured shapes that move, in three grades, with ground truth."""

from perturb.data.shapes.oracle import Verdict, judge, named
from perturb.data.shapes.render import Grade, object_mask, render, render_still, true_flow, watermark
from perturb.data.shapes.sets import HighGradeStills
from perturb.data.shapes.world import WORDS, Scene, frame_times, scene

__all__ = [
    "WORDS",
    "Grade",
    "HighGradeStills",
    "Scene",
    "Verdict",
    "frame_times",
    "judge",
    "named",
    "object_mask",
    "render",
    "render_still",
    "scene",
    "true_flow",
    "watermark",
]
