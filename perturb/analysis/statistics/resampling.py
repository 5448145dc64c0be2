"""Resampling over prompts: sign flips, bootstrap intervals and bands over steps. Pure numbers: reads and draws nothing.

Axis letters: B resamples, s LoRA seeds, p prompts, k probe steps. What is drawn is always a prompt with its whole
trajectory, its noises averaged before; steps are never drawn. The generator is an argument: the same one gives the same
numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
RESAMPLES = 9999
TAILS = (0.025, 0.975)
"""Of a 95 % interval."""
DUST = 1e-12
"""Of what was compared: a difference no larger than this share of it is rounding, and is 0."""
FLAT = 0.01
"""No bootstrap-t interval where more of the resamples than this have no spread: their t* is no number."""


@dataclass(frozen=True)
class Interval:
    """Both ends of a 95 % interval; NaN where there is none."""

    low: float
    high: float


NO_INTERVAL = Interval(np.nan, np.nan)


@dataclass(frozen=True)
class Band:
    """What holds at all steps together.

    ``critical`` times the standard error of a step is the half-width of a 95 % band · ``p`` by step, adjusted for their
    number.
    """

    critical: float
    p: Floats


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
    signs = _signs(len(d), rng, resamples)
    return float(_share_of(np.abs(signs @ d) >= least, len(d), resamples))


def max_t(differences: ArrayLike, rng: np.random.Generator, resamples: int = RESAMPLES) -> Band:
    """Simultaneous inference on the mean of d[p, k] at all steps k, by flipping the signs of whole trajectories.

        t_k = √n d̄_k/s_k;  p_k: how often max_j |t*_j| ≥ |t_k| under d*_p = ±d_p;
        critical: the 95th percentile of max_j |t*_j| under ±(d_p − d̄)

    A step at which all prompts agree (s_k = 0, as at the start of a change) has no test and widens no band; rounding
    must be 0 (`without_dust`). With one step
    p is that of `sign_flip`. Source: Westfall and Young 1993, single-step; the band is a wild bootstrap.
    """
    d = np.asarray(differences, dtype=float)
    n, steps = d.shape
    tested = np.ptp(d, axis=0) > DUST * np.abs(d).max(axis=0, initial=0.0)
    if n < 2 or not tested.any():
        return Band(np.nan, np.full(steps, np.nan))
    signs = _signs(n, rng, resamples)
    live = d[:, tested]
    observed = np.abs(_t(np.ones((1, n)), live))[0]
    largest = np.abs(_t(signs, live)).max(axis=1)
    p = np.full(steps, np.nan)
    p[tested] = _share_of(largest[:, None] >= observed * (1 - 1e-9), n, resamples)
    critical = float(np.quantile(np.abs(_t(signs, live - live.mean(axis=0))).max(axis=1), 0.95))
    return Band(critical if np.isfinite(critical) else np.nan, p)


def studentised(differences: ArrayLike, rng: np.random.Generator, resamples: int = RESAMPLES) -> Interval:
    """Bootstrap-t interval of a mean: d̄ − q₉₇.₅ s/√n to d̄ − q₂.₅ s/√n, q of t* = √n (d̄* − d̄)/s* over drawn prompts.

    None below five prompts, and where more than 1 % of the resamples have s* = 0 (most prompts alike); fewer are
    left out.
    Source: Efron and Tibshirani 1993, ch. 12.
    """
    d = np.asarray(differences, dtype=float)
    n = len(d)
    if n < 5:
        return NO_INTERVAL
    mean, error = d.mean(), d.std(ddof=1) / n**0.5
    if np.ptp(d) == 0:
        return Interval(float(mean), float(mean))
    drawn = d[rng.integers(0, n, size=(resamples, n))]
    spread = np.ptp(drawn, axis=1) > DUST * np.ptp(d)
    if np.mean(~spread) > FLAT:
        return NO_INTERVAL
    drawn = drawn[spread]
    low, high = np.quantile((drawn.mean(axis=1) - mean) * n**0.5 / drawn.std(axis=1, ddof=1), TAILS)
    return Interval(float(mean - high * error), float(mean - low * error))


def percentile(
    values: Floats, statistic: Callable[[Floats], Floats], rng: np.random.Generator, resamples: int = RESAMPLES
) -> Interval:
    """Percentile bootstrap of any statistic of s p, over prompts drawn with all their LoRA seeds.

    ``statistic``: (B, s·p) → B. For what has no standard error of its own; it covers a little less than it says.
    """
    s, n = values.shape
    if n < 5:
        return NO_INTERVAL
    drawn = values[:, rng.integers(0, n, size=(resamples, n))]
    low, high = np.quantile(statistic(np.moveaxis(drawn, 0, 1).reshape(resamples, s * n)), TAILS)
    return Interval(float(low), float(high))


def _signs(n: int, rng: np.random.Generator, resamples: int) -> NDArray[np.integer]:
    """B p: all patterns of ±1 where they are no more than ``resamples``, otherwise so many random ones."""
    if 2**n <= resamples:
        return 1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
    return 1 - 2 * rng.integers(0, 2, size=(resamples, n), dtype=np.int8)


def _share_of(extreme: NDArray[np.bool_], n: int, resamples: int) -> Floats:
    """The p value: over all patterns their share; over random ones the observed one counts too."""
    counts = extreme.sum(axis=0)
    return np.asarray(counts / len(extreme) if 2**n <= resamples else (1 + counts) / (resamples + 1))


def _t(signs: ArrayLike, d: Floats) -> Floats:
    """B k: t of d under every pattern of signs. Σ d² is the same under all."""
    n = len(d)
    mean = np.asarray(signs) @ d / n
    variance = np.maximum((d**2).sum(axis=0) - n * mean**2, 0.0) / (n - 1)
    with np.errstate(divide="ignore", invalid="ignore"):  # a pattern may make all prompts alike
        return np.nan_to_num(mean / np.sqrt(variance / n), nan=0.0, posinf=np.inf, neginf=-np.inf)
