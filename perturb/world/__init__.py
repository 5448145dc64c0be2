"""The embedded world: captioned clips of coloured shapes that move, in three grades, with ground truth."""

from perturb.world.oracle import Verdict, judge, named, object_path
from perturb.world.render import Grade, object_mask, render, render_still, true_flow, watermark
from perturb.world.scenes import WORDS, Scene, frame_times, scene
from perturb.world.sets import GradeStills

__all__ = [
    "WORDS",
    "Grade",
    "GradeStills",
    "Scene",
    "Verdict",
    "frame_times",
    "judge",
    "named",
    "object_mask",
    "object_path",
    "render",
    "render_still",
    "scene",
    "true_flow",
    "watermark",
]
