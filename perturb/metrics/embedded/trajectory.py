"""Measured motion against the true one, where that is known. Axes: n vectors, last axis 2 = (x, y) in pixels."""

from dataclasses import dataclass

import numpy as np

from perturb.errors import UserError

RESTING = 0.1  # px; a shorter true displacement has no direction


@dataclass(frozen=True)
class Agreement:
    """``end_point_error``: mean |found - true| in pixels. ``direction_error``: mean angle between both in degrees,
    over true displacements of a tenth of a pixel or more, NaN without any. ``count``: vectors compared."""

    end_point_error: float
    direction_error: float
    count: int


def agreement(found: np.ndarray, true: np.ndarray) -> Agreement:
    """Compare displacements `n 2`: of the pixels of a flow field, or of an object's centroid from frame to frame.

    UserError when there is nothing to compare or the shapes differ.

    >>> agreement(np.array([[0.0, 4.0], [0.0, 2.0]]), np.array([[3.0, 0.0], [0.0, 1.0]]))
    Agreement(end_point_error=3.0, direction_error=45.0, count=2)
    """
    if found.shape != true.shape or found.shape[-1:] != (2,) or found.size == 0:
        raise UserError(f"displacements must be two arrays of one shape (n, 2), not {found.shape} and {true.shape}")
    moving = np.linalg.norm(true, axis=-1) >= RESTING
    f, t = found[moving], true[moving]
    angle = np.abs(np.arctan2(f[:, 0] * t[:, 1] - f[:, 1] * t[:, 0], (f * t).sum(-1)))
    apart = np.linalg.norm(found - true, axis=-1).mean()
    return Agreement(float(apart), float(np.degrees(angle.mean())) if len(angle) else float("nan"), len(found))
