"""Sign flips over prompts. Pure numbers: reads and draws nothing.

A prompt's noises are averaged before. The generator is an argument: the same one gives the same numbers.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
RESAMPLES = 9999
TAILS = (0.025, 0.975)
"""Of a 95 % interval."""
DUST = 1e-12
"""Of what was compared: a difference no larger than this share of it is rounding, and is 0."""


@dataclass(frozen=True)
class Interval:
    """Both ends of a 95 % interval; NaN where there is none."""

    low: float
    high: float


NO_INTERVAL = Interval(np.nan, np.nan)


def without_dust(differences: ArrayLike, scale: float) -> Floats:
    """The differences, those that are rounding set to 0; ``scale``: the largest |value| that was compared.

    Differences that are all rounding have no scale of their own: taken for numbers they yield p = 0.0001.

    >>> without_dust([0.25, -5.6e-17], scale=1.0).tolist()
    [0.25, 0.0]
    """
    d = np.asarray(differences, dtype=float)
    return np.where(np.abs(d) <= DUST * scale, 0.0, d)


def sign_flip(differences: ArrayLike, rng: np.random.Generator, resamples: int = RESAMPLES) -> float:
    """Two-sided p of |Σ d_p| when every prompt's difference may have either sign.

    All 2ⁿ sign patterns where they are no more than ``resamples``; otherwise (1 + b)/(B + 1) over B random ones, b of
    them at least as extreme. NaN below two prompts. Rounding must be 0 (`without_dust`).

    >>> sign_flip([1.0, 2.0, 3.0], np.random.default_rng(0))  # only +++ and −−− reach 6: 2 of 8
    0.25
    """
    d = np.asarray(differences, dtype=float)
    if len(d) < 2:
        return float("nan")
    least = abs(d.sum()) - DUST * np.abs(d).sum()  # a tie is as extreme, whatever its rounding
    every = 2 ** len(d)
    if every <= resamples:
        signs = 1 - 2 * (np.arange(every)[:, None] >> np.arange(len(d)) & 1)
        return float((np.abs(signs @ d) >= least).mean())
    signs = 1 - 2 * rng.integers(0, 2, size=(resamples, len(d)), dtype=np.int8)
    return float((1 + (np.abs(signs @ d) >= least).sum()) / (resamples + 1))
