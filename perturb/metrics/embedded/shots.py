"""Where one shot of a clip ends and another begins.

Axes: t frames, p pairs of adjacent frames, h w pixels, c channels.
"""

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np

UNLIKE = 0.3  # 1 - correlation of a frame with the next one as the flow predicts it
OTHER_COLOURS = 0.2  # share of the pixels that change their place in the colour histogram
SHORTEST = 3  # frames of a shot; frames that are unrelated one by one are no shots, but incoherent
BINS, HISTOGRAM_SIDE = 6, 128  # of each channel; px of the shorter side that are looked at


def cuts(frames: np.ndarray, light: np.ndarray, residual: np.ndarray, inside: np.ndarray) -> list[int]:
    """The numbers k of the frames after which the scene changes: not carried over, between 3 frames each that are.

    Frame k is not carried over to the next one where 1 - ρ > .3, ρ its correlation with frame k + 1 as the flow
    predicts it, which does not see brightness or contrast, and where more than .2 of the colour histogram
    changes.

    frames: uint8 `t h w 3`; light: blurred luma, `t h w` of any size; residual, inside `p h w`: see `flow.residuals`.
    """
    lost = [
        _unlike(frame[seen], (frame + left)[seen]) > UNLIKE
        for frame, left, seen in zip(light, residual, inside, strict=False)
    ]
    around = SHORTEST - 1
    return [
        k
        for k in range(around, len(lost) - around)
        if lost[k]
        and not any(lost[k - around : k] + lost[k + 1 : k + 1 + around])
        and recoloured(frames[k], frames[k + 1]) > OTHER_COLOURS
    ]


def shots(length: int, ends: Sequence[int]) -> list[slice]:
    """The frames of each shot of a clip of ``length`` frames that is cut after the frames ``ends``.

    >>> shots(8, [3])
    [slice(0, 4, None), slice(4, 8, None)]
    """
    borders = [0, *(end + 1 for end in ends), length]
    return [slice(start, stop) for start, stop in pairwise(borders)]


def _unlike(one: np.ndarray, other: np.ndarray) -> float:
    """1 - the correlation of two sets of pixels; 0 where one has no contrast."""
    a, b = one - one.mean(), other - other.mean()
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return 1 - float((a * b).sum()) / norm if norm > 0 else 0.0


def recoloured(one: np.ndarray, other: np.ndarray) -> float:
    """1 - the intersection of the colour histograms of two frames."""
    step = max(1, min(one.shape[:2]) // HISTOGRAM_SIDE)
    both = []
    for frame in (one, other):
        small = np.ascontiguousarray(frame[::step, ::step])
        counts = cv2.calcHist([small], [0, 1, 2], None, [BINS] * 3, [0, 256] * 3)
        both.append(counts / counts.sum())
    return 1 - float(np.minimum(*both).sum())
