"""How fast is fast: the unit of speed, and dynamics. Axes: p pairs of adjacent frames, h w pixels."""

import numpy as np

SPEED_UNIT = 6 / 256  # τ in frame sides per frame (VBench's threshold of dynamic degree)
SPEED_FLOOR = 1 / 6  # in units of τ: a quarter pixel at 64 px
FASTEST = 0.05


def dynamics(speed: np.ndarray) -> float:
    """D = 1 - exp(-v/τ), v = median over pairs of the mean of the 5 % fastest pixels, τ = 6·min(h, w)/256 px per frame.

    speed: explained |flow| `p h w` in pixels per frame. In [0, 1), 0 when nothing moves.
    """
    pairs, height, width = speed.shape
    count = max(1, round(FASTEST * height * width))
    fastest = np.partition(speed.reshape(pairs, -1), -count, axis=1)[:, -count:].mean(1)
    return float(1 - np.exp(-np.median(fastest) / (SPEED_UNIT * min(height, width))))
