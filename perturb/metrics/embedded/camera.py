"""The camera's part of the motion: one similarity (shift, zoom, turn) per pair of frames, fitted robustly to the flow.

On a plain background an object that moves looks just like a camera that moves, so a camera is believed only where what
it explains spans the frame; else it counts as resting. Axes: t frames, p pairs of adjacent frames, h w
pixels, n points, last axis 2 = (x, y).
"""

from collections.abc import Sequence

import cv2
import numpy as np

GRID = 16  # points along the shorter side, and no more than one per pixel
TEXTURE = 1e-5  # squared luma per px: the lesser eigenvalue of the structure tensor (Shi and Tomasi 1994), .003 per px
TEXTURE_WINDOW = 5
FEWEST = 20  # points
AGREE = 1 / 2  # of a pixel, or of a 128th of the shorter side where that is more
MAJORITY = 0.4  # of the points must agree
SPREAD = 0.5  # of the frame inside the convex hull of those that agree; an object with its trail has less
RESTING = 0.05  # px; a camera that moves the corners by less rests

REST = np.array([[1.0, 0, 0], [0, 1, 0]])


def fit_camera(before: np.ndarray, after: np.ndarray, size: tuple[int, int]) -> np.ndarray | None:
    """The similarity 2×3 that takes points `n 2` of one frame to the next: RANSAC, refined on those that agree.

    None where no camera is to be seen: fewer than 20 points, fewer than 40 % agree, or those that do span less than
    half of the frame (their convex hull). size: its height and width.
    """
    if len(before) < FEWEST:
        return None
    threshold = AGREE * max(1.0, min(size) / 128)
    matrix, agreeing = cv2.estimateAffinePartial2D(
        before, after, method=cv2.RANSAC, ransacReprojThreshold=threshold, maxIters=500, confidence=0.99
    )
    if matrix is None or agreeing.mean() < MAJORITY or _spread(before[agreeing.ravel() > 0], size) < SPREAD:
        return None
    return matrix


def _spread(points: np.ndarray, size: tuple[int, int]) -> float:
    """Share of the frame inside the convex hull of points `n 2`."""
    return float(cv2.contourArea(cv2.convexHull(points))) / (size[0] * size[1])


def cameras(frames: np.ndarray, flow: np.ndarray, grainy: float = 0.0) -> list[np.ndarray]:
    """The camera of every pair, 2×3 from a frame to the next, from the flow where there is texture; `REST` for none.

    frames: blurred luma `t h w`, flow `p h w 2`; ``grainy``: the standard deviation of noise in the frames, whose
    gradient is no texture. A camera that moves no corner by .05 px counts as resting.
    """
    height, width = flow.shape[1:3]
    step = max(1, min(height, width) // GRID)
    y, x = (axis.ravel() for axis in np.mgrid[step // 2 : height : step, step // 2 : width : step])
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]])
    found = []
    for frame, field in zip(frames[:-1], flow, strict=True):
        seen = cv2.cornerMinEigenVal(frame, TEXTURE_WINDOW)[y, x] > max(TEXTURE, 4 * grainy**2)
        points = np.column_stack([x[seen], y[seen]]).astype(np.float32)
        matrix = fit_camera(points, points + field[y[seen], x[seen]], (height, width))
        moved = matrix is not None and np.abs(corners @ (matrix - REST).T).max() > RESTING
        found.append(matrix if matrix is not None and moved else REST)
    return found


def camera_flow(matrix: np.ndarray, height: int, width: int) -> np.ndarray:
    """What the camera alone does to every pixel: float32 `h w 2` in pixels."""
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    flow = np.empty((height, width, 2), np.float32)
    for axis, (a, b, c) in enumerate((matrix - REST).astype(np.float32)):
        np.add(a * x + c, b * y, out=flow[..., axis])
    return flow


def to_first(matrices: Sequence[np.ndarray]) -> list[np.ndarray]:
    """From each frame to the first one, 3×3, one more than there are pairs."""
    chain = [np.eye(3)]
    for matrix in matrices:
        chain.append(chain[-1] @ np.linalg.inv(np.vstack([matrix, [0, 0, 1]])))
    return chain
