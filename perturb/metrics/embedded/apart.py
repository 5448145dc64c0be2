"""Camera and object, path and texture of one clip, shot by shot: measures that `motion.MOTION` gives beside D, C, S, L.

Axes: t frames, p pairs of adjacent frames, h w pixels, c channels, last axis 2 = (x, y).
"""

from collections.abc import Callable, Mapping

import cv2
import numpy as np

from perturb.metrics.base import Direction, MetricInfo
from perturb.metrics.embedded.flow import grain, left_of, residuals
from perturb.metrics.embedded.frames import at_most, blur
from perturb.metrics.embedded.objects import (
    Shot,
    camera_speed,
    object_path,
    object_smoothness,
    object_texture,
    still_but_for_camera,
)
from perturb.metrics.embedded.shots import cuts, shots

LARGEST = 128  # px of the shorter side; larger frames are looked at reduced
BLUR = 1.0
COLLAPSE_DYNAMICS, COLLAPSE_DIFFERENCE = 0.1, 0.05  # as for a resting camera, see `motion.collapsed`


def reduced(light: np.ndarray, clip: Shot) -> Shot:
    """The clip of luma ``light``, made smaller where its shorter side exceeds 128 px."""
    small = at_most(light, LARGEST)
    if small.shape == light.shape:
        return clip
    height, width = small.shape[1:]
    scale = np.float32(height / light.shape[1])
    flow = np.stack([cv2.resize(field, (width, height), interpolation=cv2.INTER_AREA) for field in clip.flow]) * scale
    soft = blur(small, BLUR)
    return Shot(soft, flow, *residuals(soft, flow), left_of(grain(small), BLUR))


class Apart:
    """What is seen of a clip, frames uint8 `t h w 3`, once its shots are told apart and the camera is taken off."""

    def __init__(self, frames: np.ndarray, clip: Shot) -> None:
        self.ends = cuts(frames, clip.light, clip.residual, clip.inside)
        self.shots = [clip[part] for part in shots(len(frames), self.ends)] if self.ends else [clip]

    @property
    def frozen(self) -> bool:
        """Whether no shot shows more than a moving camera. False for one shot of a resting camera: see `collapsed`."""
        if not self.ends and not self.shots[0].moves:
            return False
        return all(
            shot.dynamics < COLLAPSE_DYNAMICS and still_but_for_camera(shot, COLLAPSE_DIFFERENCE) for shot in self.shots
        )

    def measures(self) -> Mapping[str, float]:
        """Means over the shots, each with the weight of its pairs; the product is of the means."""
        parts = {
            "object_dynamics": self._mean(lambda shot: shot.dynamics),
            "object_path": self._mean(object_path),
            "object_smoothness": self._mean(object_smoothness),
            "object_texture": self._mean(object_texture),
        }
        camera = {"cuts": float(len(self.ends)), "camera_speed": self._mean(camera_speed)}
        return {**camera, **parts, "object_motion": float(np.prod(list(parts.values())))}

    def _mean(self, measure: Callable[[Shot], float]) -> float:
        return float(
            np.average([measure(shot) for shot in self.shots], weights=[len(shot.flow) for shot in self.shots])
        )


def _info(name: str, formula: str, pitfalls: str) -> MetricInfo:
    unit, top = {"cuts": ("cuts", None), "camera_speed": ("shorter sides per frame", None)}.get(name, ("1", 1.0))
    directions: dict[str, Direction] = {"cuts": "down", "camera_speed": "band"}
    direction = directions.get(name, "up")
    return MetricInfo(
        name, "motion", unit, (0.0, top), direction, (), formula, "this project", depends=("fps",), pitfalls=pitfalls
    )


APART = (
    _info(
        "cuts",
        "frames k that are not carried over, between 3 frames each that are: 1 - ρ > .3 (ρ: correlation of frame k "
        "with frame k + 1 as the flow predicts it) and more than .2 of the colour histogram changed",
        "A cut within one scene, whose colours stay, is missed; so is one less than 3 frames from an end. On 35 "
        "clips of footage with 3 cuts and on 306 synthetic ones with 24: all found, no other. C, S and motion "
        "quality are measured across it (a cut takes motion quality from .6 to .25), what is beside the camera "
        "within the shots.",
    ),
    _info(
        "camera_speed",
        "median over pairs of the mean |camera| over the frame; camera = similarity fitted to the flow by RANSAC, "
        "believed where 40 % of the textured points agree and span half of the frame (convex hull)",
        "Knows shift, zoom and turn, no parallax. On a plain background nothing tells a camera from what all moves "
        "alike: rain on grey reads as a camera of .046. Texture in less than half of the frame: the camera rests.",
    ),
    _info(
        "object_dynamics",
        "D_o = D of flow minus camera, where it explains what the camera leaves over",
        "As of dynamics, and of the camera: rain on grey has .00, for it reads as a camera. Where the background is as "
        "fine as what moves, the flow loses it: limbs that swing before gravel have .00, rain there .07.",
    ),
    _info(
        "object_path",
        "P = exp(-(a/.6)²); a = median |second difference of the centroid of what changes beside the camera| / its "
        "radius",
        "1 where too little changes to have a place. Blind to texture: .56 to .99 for one that boils along the right "
        "path, 0 to .33 for teleporting. An object that alternates between two places is on the average in one, and "
        "has .98. One path for all: of several objects it follows the middle.",
    ),
    _info(
        "object_smoothness",
        "S_o = exp(-(j/1.75)²); j = mean |change of acceleration along the flow| / (mean speed + τ/6), weighted by "
        "speed",
        "1 where nothing moves, and for fewer than 4 frames. Periodic motion costs little (limbs that swing within 8 "
        "to 16 frames .85 in the median, where smoothness has .4), but .24 where limbs cross on grey; a shaking "
        "object has .02 to .62. Says nothing where the texture boils: there is no flow to follow.",
    ),
    _info(
        "object_texture",
        "T = exp(-(u/.12)²); u = share of the squared change beside the camera that neither the flow to the next frame "
        "nor that from the last one explains",
        "1 where nothing changes, anything where next to nothing does: a frozen scene under a drifting camera has 0 "
        "to 1. Flow that fails counts as texture that is lost: limbs before gravel .01, teleporting 0 to .29. So "
        "does flicker of ±2 % of the light: 0.",
    ),
    _info(
        "object_motion",
        "D_o·P·S_o·T",
        "Grows with speed, like motion quality. A pan has 0: it is no quality of a landscape. Frozen objects under a "
        "drifting camera 0 to .04 (motion quality .25 to .64), swinging limbs .34 in the median (motion quality "
        ".17), rain .6 but 0 on grey, bouncing discs .40 to .89, shaking .02 to .19, boiling 0 to .26; of shuffled "
        "frames one has .48: steps of a slow disc.",
    ),
)
