"""What moves beside the camera: how much, along what path, how smoothly, and whether it keeps its texture.

Path and texture are looked at apart. The path is that of the region that changes, whatever it looks like; the texture
is what the flow explains, wherever it goes. Axes: t frames, p pairs of adjacent frames, h w pixels, last axis 2 = (x,
y).
"""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from perturb.metrics.embedded.camera import REST, camera_flow, cameras, to_first
from perturb.metrics.embedded.flow import EXPLAIN_NOISE, explained_by, length, residuals, warp
from perturb.metrics.embedded.frames import blur
from perturb.metrics.embedded.speed import SPEED_FLOOR, SPEED_UNIT, dynamics

PATH_SCALE = 0.6  # of the region's radius
JERK_SCALE = 1.75
TEXTURE_SCALE = 0.12
CHANGED = 0.05  # luma; a pixel that changes by this much is half in the region
REGION_BLUR = 1 / 64  # of the shorter side
ELSEWHERE = 0.05  # of the frame
REGION = 2e-3  # of the frame; a smaller region has no place


@dataclass(frozen=True)
class Shot:
    """One shot.

    ``light``: blurred luma `t h w`; ``flow`` `p h w 2`, its ``residual`` and ``inside``: see `flow.residuals`.
    ``grainy``: the standard deviation of noise in ``light``.
    """

    light: np.ndarray
    flow: np.ndarray
    residual: np.ndarray
    inside: np.ndarray
    grainy: float

    def __getitem__(self, frames: slice) -> "Shot":
        """The shot of some of the frames."""
        pairs = slice(frames.start, frames.stop - 1)
        return Shot(self.light[frames], self.flow[pairs], self.residual[pairs], self.inside[pairs], self.grainy)

    @cached_property
    def cameras(self) -> list[np.ndarray]:
        """See `camera.cameras`."""
        return cameras(self.light, self.flow, self.grainy)

    @cached_property
    def camera(self) -> np.ndarray:
        """What the camera does to every pixel, `p h w 2`."""
        return np.stack([camera_flow(matrix, *self.flow.shape[1:3]) for matrix in self.cameras])

    @property
    def moves(self) -> bool:
        """Whether the camera moves in any pair."""
        return any(matrix is not REST for matrix in self.cameras)

    @cached_property
    def change(self) -> tuple[np.ndarray, np.ndarray]:
        """What a pair differs by once the camera is taken off, and the mask of the inside: `p h w` each."""
        if self.moves:
            return residuals(self.light, self.camera)
        return np.diff(self.light, axis=0), np.ones(self.flow.shape[:3], bool)

    @cached_property
    def velocity(self) -> np.ndarray:
        """Flow minus camera, `p h w 2` in pixels."""
        return self.flow - self.camera if self.moves else self.flow

    @cached_property
    def speed(self) -> np.ndarray:
        """|velocity| where the flow explains what the camera does not: `p h w`, see `flow.explained_by`."""
        change, seen = self.change
        share = explained_by(self.residual, self.inside & seen, change, grainy=self.grainy)
        return share * length(self.velocity)

    @cached_property
    def dynamics(self) -> float:
        """D_o: D of what moves beside the camera, see `speed.dynamics`."""
        return dynamics(self.speed)

    @property
    def floor(self) -> float:
        """Squared change that noise alone makes."""
        return max(EXPLAIN_NOISE**2, 2 * self.grainy**2)


def camera_speed(shot: Shot) -> float:
    """Median over pairs of the mean |camera| over the frame, in shorter sides per frame."""
    return float(np.median(length(shot.camera).mean((1, 2)))) / min(shot.flow.shape[1:3]) if shot.moves else 0.0


def object_smoothness(shot: Shot) -> float:
    """S_o = exp(-(j/1.75)²), j = Σ w|v_{i+2} - 2 v_{i+1} + v_i| / Σ w(|v_i| + floor) along the flow, w = speed.

    The change of acceleration, not of velocity: .6 for a swing of eight frames, which changes its velocity by .8, and
    3.2 for places in no order. floor = τ/6, a quarter pixel at 64 px. In (0, 1], 1 where nothing moves and for fewer
    than 4 frames.
    """
    floor = SPEED_FLOOR * SPEED_UNIT * min(shot.flow.shape[1:3])
    jerk = speed = 0.0
    for i in range(len(shot.flow) - 2):
        onward, seen = warp(shot.flow[i + 1], shot.flow[i])
        last, still_seen = warp(shot.flow[i + 2], shot.flow[i] + onward)
        # the camera as it is where the path began: what it gains on the way is even, and no change of acceleration
        first, second, third = (
            v - camera for v, camera in zip((shot.flow[i], onward, last), shot.camera[i:], strict=False)
        )
        mass = shot.speed[i] * (seen & still_seen)
        jerk += float((mass * length(third - 2 * second + first)).sum())
        speed += float((mass * (length(first) + floor)).sum())
    return float(np.exp(-((jerk / speed / JERK_SCALE) ** 2))) if speed > 0 else 1.0


def object_path(shot: Shot) -> float:
    """P = exp(-(a/.6)²), a = median over frames of |second difference of c| / radius of the region that changes.

    The weight of a pixel is e/(e + .05²), e = squared change of luma without camera and noise; c is the centroid of the
    weights in each pair, in the coordinates of the first frame, the radius their root mean square distance from it (its
    median over pairs). Blind to texture; a median, so that a bounce is no teleport. In (0, 1], 1 where nothing changes.
    """
    change, seen = shot.change
    height, width = change.shape[1:]
    energy = np.maximum(blur(change**2, REGION_BLUR * min(height, width)) - 2 * shot.floor, 0) * seen
    weight = energy / (energy + CHANGED**2)
    total = weight.sum((1, 2))
    if len(total) < 3 or (total < REGION * height * width).any():
        return 1.0
    x, y = np.arange(width), np.arange(height)
    across, down = weight.sum(1), weight.sum(2)
    places = np.column_stack([across @ x, down @ y]) / total[:, None]
    radii = np.sqrt((across @ x**2 + down @ y**2) / total - (places**2).sum(1))
    fixed = [(matrix @ [*place, 1])[:2] for matrix, place in zip(to_first(shot.cameras), places, strict=False)]
    turns = np.linalg.norm(np.diff(fixed, n=2, axis=0), axis=-1)
    return float(np.exp(-((np.median(turns) / max(np.median(radii), 1.0) / PATH_SCALE) ** 2)))


def object_texture(shot: Shot) -> float:
    """T = exp(-(u/.12)²), u = Σ min(r_+, r_-)² / Σ max(d_+, d_-)² over the inner frames: change without motion.

    r_+, r_-: what the flow to the next frame and that from the last one leave over at a pixel, the lesser of which
    ignores what is covered or uncovered; d: the same for the camera alone. Squares without noise. In (0, 1], 1 where
    nothing changes.
    """
    change, seen = shot.change
    left = total = 0.0
    for k in range(1, len(shot.flow)):
        back, back_seen = warp(shot.light[k - 1], -shot.flow[k - 1])
        rest, rest_seen = warp(shot.light[k - 1], -shot.camera[k - 1]) if shot.moves else (shot.light[k - 1], True)
        here = shot.light[k]
        kept = np.where(back_seen, cv2.min(np.abs(shot.residual[k]), np.abs(back - here)), np.abs(shot.residual[k]))
        changed = cv2.max(np.abs(change[k]), np.abs(rest - here))
        both = seen[k] & rest_seen
        left += float((np.maximum(kept**2 - 2 * shot.floor, 0) * both).sum())
        total += float((np.maximum(changed**2 - 2 * shot.floor, 0) * both).sum())
    return float(np.exp(-((left / total / TEXTURE_SCALE) ** 2))) if total > 0 else 1.0


def still_but_for_camera(shot: Shot, difference: float) -> bool:
    """Whether each frame, seen from where the first was taken, differs from it by so much luma in at most 5 % of it.

    Not 1 % as for a resting camera: a fit is good to some hundredths of a pixel, which shows at sharp edges.
    """
    height, width = shot.light.shape[1:]
    for matrix, frame in zip(to_first(shot.cameras)[1:], shot.light[1:], strict=True):
        landed, seen = warp(frame, camera_flow(np.linalg.inv(matrix)[:2], height, width))
        if np.count_nonzero((cv2.absdiff(landed, shot.light[0]) >= difference) & seen) > ELSEWHERE * seen.sum():
            return False
    return True
