"""Points that are followed through a clip: speed, jerk, travel, and how many of them last.

Corners (Shi and Tomasi 1994) of the first frame, followed by pyramidal Lucas-Kanade (Bouguet 2001) forwards and back
again: one that does not come back to its place is lost (Kalal et al. 2010). Dearer than the flow measures, so a set of
its own: conf/metrics/tracks.yaml. Axes: t frames, n tracks, h w pixels, last axis 2 = (x, y).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import cv2
import numpy as np

from perturb.errors import UserError
from perturb.metrics.base import Clip, ClipMetric, Context, Direction, MetricInfo
from perturb.metrics.embedded.camera import REST, fit_camera, to_first
from perturb.metrics.embedded.flow import single_thread
from perturb.metrics.embedded.frames import at_most, blur
from perturb.metrics.embedded.shots import recoloured
from perturb.metrics.embedded.speed import SPEED_FLOOR, SPEED_UNIT

LARGEST, SMALLEST = 256, 128  # px of the shorter side; others are reduced by a whole factor, or enlarged
BLUR = 0.7  # px, as for the flow
POINTS = 100
QUALITY, APART, CORNER = 0.01, 1 / 25, 5  # of the best corner; of the shorter side; px
WINDOW, LEVELS = (21, 21), 3  # as OpenCV
CRITERIA = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 20, 0.03)
RETURN = 0.5  # px from where it started, there and back
LOST, OTHER_COLOURS = 0.2, 0.2  # a cut: fewer of the points last one frame, and more of the colours change
MIN_FRAMES = 4  # of a track that has a jerk
MOVING = SPEED_FLOOR * SPEED_UNIT  # shorter sides per frame: a slower track rests


@dataclass(frozen=True)
class Tracks:
    """One shot.

    ``raw`` places `t n 2` in shorter sides, NaN from where a point is lost; ``steady``: the same without camera.
    """

    raw: np.ndarray
    steady: np.ndarray

    @property
    def survival(self) -> float:
        """Share of the points that are still there in the last frame; 0 where there was none."""
        return float((~np.isnan(self.raw[-1, :, 0])).mean()) if self.raw.shape[1] else 0.0

    def paths(self) -> list[np.ndarray]:
        """The steady places of each point as long as it lasts, `t' 2`; those of fewer than 4 frames are left out."""
        whole = [path[~np.isnan(path[:, 0])] for path in np.moveaxis(self.steady, 1, 0)]
        return [path for path in whole if len(path) >= MIN_FRAMES]


@lru_cache(maxsize=1)
def tracks_of(clip: Clip) -> tuple[Tracks, ...]:
    """The tracks of every shot of a clip; those of the last clip are kept, since two measures ask for them.

    UserError for fewer than 4 frames.
    """
    if len(clip.frames) < MIN_FRAMES:
        raise UserError(f"a track needs at least {MIN_FRAMES} frames, not {len(clip.frames)}")
    images = _images(clip.light)
    with single_thread():
        shots = [[_corners(images[0])]]
        for k in range(1, len(images)):
            shot = shots[-1]
            shot.append(_followed(images[k - 1], images[k], shot[-1]))
            if _cut(shot, clip.frames[k - 1 : k + 1]):
                shot.pop()
                shots.append([_corners(images[k])])
    return tuple(_tracks(np.stack(shot), images.shape[1:]) for shot in shots if len(shot) >= MIN_FRAMES)


def _images(light: np.ndarray) -> np.ndarray:
    """Luma as the tracker wants it: uint8 `t h w`."""
    soft = blur(at_most(light, LARGEST), BLUR)
    factor = max(1, -(-SMALLEST // min(soft.shape[1:])))
    if factor > 1:
        soft = np.stack([cv2.resize(f, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC) for f in soft])
    return np.clip(soft * 255, 0, 255).astype(np.uint8)


def _corners(image: np.ndarray) -> np.ndarray:
    """Up to 100 corners, float32 `n 2`."""
    found = cv2.goodFeaturesToTrack(image, POINTS, QUALITY, max(3, APART * min(image.shape)), blockSize=CORNER)
    return np.empty((0, 2), np.float32) if found is None else found.reshape(-1, 2)


def _followed(before: np.ndarray, after: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Where the points `n 2` are in the next frame; NaN for those that are lost."""
    there = np.full_like(points, np.nan)
    alive = np.flatnonzero(~np.isnan(points[:, 0]))
    if not alive.size:
        return there
    start = np.ascontiguousarray(points[alive, None])
    end, seen = _step(before, after, start)
    back, seen_back = _step(after, before, end)
    inside = ((end >= 0) & (end <= np.array(after.shape[::-1]) - 1)).all(-1)
    kept = (seen > 0) & (seen_back > 0) & inside & (np.linalg.norm(back - start, axis=-1) < RETURN)
    there[alive[kept.ravel()]] = end[kept.ravel(), 0]
    return there


def _step(one: np.ndarray, other: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the points `n 1 2` of one frame are in the other, and whether each was found."""
    there, found, _ = cv2.calcOpticalFlowPyrLK(
        one, other, points, np.empty_like(points), winSize=WINDOW, maxLevel=LEVELS, criteria=CRITERIA
    )
    return there, found


def _cut(shot: list[np.ndarray], frames: np.ndarray) -> bool:
    """Whether the last step of a shot led to another scene."""
    before, after = (np.count_nonzero(~np.isnan(points[:, 0])) for points in shot[-2:])
    return bool(after < LOST * before) and recoloured(*frames) > OTHER_COLOURS


def _tracks(places: np.ndarray, size: tuple[int, int]) -> Tracks:
    """Of the places of one shot, in pixels of images of this size (height, width)."""
    cameras = []
    for before, after in pairwise(places):
        both = ~np.isnan(after[:, 0])
        camera = fit_camera(before[both], after[both], size)
        cameras.append(REST if camera is None else camera)
    steady = [points @ first[:2, :2].T + first[:2, 2] for points, first in zip(places, to_first(cameras), strict=True)]
    return Tracks(places / min(size), np.stack(steady) / min(size))


def track_jerk(path: np.ndarray) -> float:
    """mean |Δ²v| / (mean |v| + τ/6) of a path `t 2` in shorter sides: 0 for even or evenly accelerated motion."""
    velocity = np.diff(path, axis=0)
    jerk, speed = (np.linalg.norm(v, axis=-1).mean() for v in (np.diff(velocity, n=2, axis=0), velocity))
    return float(jerk / (speed + MOVING))


def measure_tracks(clip: Clip, _context: Context) -> Mapping[str, float]:
    """All measures of the tracks of one clip: medians over those that move beside the camera, 0 where none does."""
    shots = tracks_of(clip)
    if not sum(shot.raw.shape[1] for shot in shots):
        raise UserError("the clip shows no corner that could be followed")
    paths = [path for shot in shots for path in shot.paths()]
    speeds = [float(np.linalg.norm(np.diff(path, axis=0), axis=-1).mean()) for path in paths]
    moving = [(path, speed) for path, speed in zip(paths, speeds, strict=True) if speed > MOVING]
    pairs = [len(shot.raw) - 1 for shot in shots]
    found = {
        "track_survival": float(np.average([shot.survival for shot in shots], weights=pairs)),
        "tracks_moving": len(moving) / max(1, len(paths)),
    }
    per_track = {
        "track_speed": [speed for _, speed in moving],
        "track_travel": [float(np.linalg.norm(path[-1] - path[0])) for path, _ in moving],
        "track_jerk": [track_jerk(path) for path, _ in moving],
    }
    return found | {name: float(np.median(values)) if values else 0.0 for name, values in per_track.items()}


def _info(name: str, unit: str, formula: str, pitfalls: str) -> MetricInfo:
    directions: dict[str, Direction] = {"track_survival": "up", "track_jerk": "down"}
    direction = directions.get(name, "band")
    top = None if name in ("track_speed", "track_travel", "track_jerk") else 1.0
    source = "this project; corners: Shi and Tomasi 1994, tracker: Bouguet 2001, check: Kalal et al. 2010"
    return MetricInfo(
        name, "motion", unit, (0.0, top), direction, (), formula, source, depends=("fps",), pitfalls=pitfalls
    )


TRACKS = ClipMetric(
    (
        _info(
            "track_survival",
            "1",
            "share of up to 100 corners of the first frame that are followed to the last one, forwards and back "
            "within half a pixel; mean over shots",
            "1 for a static clip. Points that leave the frame are lost: .75 in the median for a drifting still. Most "
            "corners are the background's: a texture that boils on a disc has .56, against .90 for one that does not.",
        ),
        _info(
            "tracks_moving",
            "1",
            "share of the tracks of 4 frames or more whose mean |v|, camera taken off, exceeds τ/6 = min(h, w)/256 "
            "px per frame",
            "How much moves depends on where the corners are: .17 for a disc before a texture, 1 for the same on grey. "
            "Noise of .04 moves up to .23 of the tracks of a still; where corners span less than half of the frame, a "
            "camera is not seen, and all moves.",
        ),
        _info(
            "track_speed",
            "shorter sides per frame",
            "median of mean |v| over the tracks that move",
            "0 where none moves. Points beyond the reach of the tracker are lost, not fast: teleporting has 0.",
        ),
        _info(
            "track_travel",
            "shorter sides",
            "median of |x_last - x_first| over the tracks that move",
            "0 where none moves. A track that ends early has travelled less; limbs that swing .004.",
        ),
        _info(
            "track_jerk",
            "1",
            "median of mean |v_{i+2} - 2 v_{i+1} + v_i| / (mean |v| + τ/6) over the tracks that move",
            "0 where none moves: read it beside tracks_moving. Lost points have none, so teleporting and boiling "
            "have 0 in the median. Even motion .07, limbs that swing .55, a bouncing disc .29, footage of a talking "
            "head .6, shuffled 2.7, a shaking object 2.7. path_jerk of the embedded world is another: a change of "
            "velocity.",
        ),
    ),
    measure_tracks,
    version=1,
)
