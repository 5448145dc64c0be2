"""Cosines between the frames of a clip. Axes: t frames, d features; all of float64 `t d`."""

import numpy as np

from perturb.errors import UserError


def directions(features: np.ndarray) -> np.ndarray:
    """x/‖x‖ per frame: `t d`. A zero vector has no direction and gives NaN, which never becomes a number."""
    with np.errstate(invalid="ignore"):
        return features / np.linalg.norm(features, axis=1, keepdims=True)


def _moving(features: np.ndarray) -> np.ndarray:
    if len(features) < 2:
        raise UserError(f"frames are compared with each other: needs at least 2, not {len(features)}")
    return directions(features)


def to_previous(features: np.ndarray) -> np.ndarray:
    """cos(x_t, x_{t-1}) for t ≥ 1: `t-1`. UserError for a single frame."""
    unit = _moving(features)
    return (unit[1:] * unit[:-1]).sum(1)


def to_first(features: np.ndarray) -> np.ndarray:
    """cos(x_t, x_0) for t ≥ 1: `t-1`. UserError for a single frame."""
    unit = _moving(features)
    return unit[1:] @ unit[0]


def consistency(features: np.ndarray) -> float:
    """Mean over t ≥ 1 of ½[max(0, cos to previous) + max(0, cos to first)] (VBench).

    >>> consistency(np.array([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
    0.0
    >>> consistency(np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])).__round__(3)
    0.5
    """
    return float(np.mean((np.maximum(to_previous(features), 0) + np.maximum(to_first(features), 0)) / 2))
