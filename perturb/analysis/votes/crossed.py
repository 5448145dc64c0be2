"""How often the first side is preferred, with an interval that holds for other prompts and other raters.

    x[p, r]      the votes of rater r on prompt p for the first side, averaged over the pairs of that prompt
    σ²_p, σ²_r, σ²_e     between prompts, between raters, and what is left

Prompts and raters are crossed: every rater sees every prompt, so votes that share either are alike, and counting each
vote as a sample of its own makes the interval far too narrow. Axis letters: p prompts, r raters; NaN where absent.
"""

from dataclasses import dataclass

import numpy as np

from perturb.analysis.statistics.contrast import Floats
from perturb.analysis.statistics.estimates import CONFIDENCE
from perturb.analysis.statistics.resampling import NO_INTERVAL, Interval

FEWEST = 5
"""Prompts, and raters, below which no interval is given: simulated coverage holds from here on (experiments/votes)."""


@dataclass(frozen=True)
class Components:
    """Variance between prompts, between raters and the rest, none of them negative."""

    prompts: float
    raters: float
    rest: float

    @staticmethod
    def of(x: Floats) -> "Components":
        """Half the mean squared difference of votes that share a prompt is σ²_r + σ²_e; a rater: σ²_p + σ²_e; neither:
        all three.

        Of a table without gaps these are the components of the two-way analysis of variance. Source: Koch 1967.
        """
        known = ~np.isnan(x)
        v = np.where(known, x, 0.0)
        everywhere = _half_squares(v.ravel()[None], known.ravel()[None])
        of_prompt, of_rater = _half_squares(v, known), _half_squares(v.T, known.T)
        prompt, rater, apart = (
            total / count if count else 0.0 for total, count in (of_prompt, of_rater, everywhere - of_prompt - of_rater)
        )
        return Components(max(apart - prompt, 0.0), max(apart - rater, 0.0), max(prompt + rater - apart, 0.0))


@dataclass(frozen=True)
class WinRate:
    """Share of votes for the first side; ``reason`` says why there is no interval."""

    value: float
    interval: Interval
    reason: str


def win_rate(x: Floats) -> WinRate:
    """Mean of p r over all cells with votes, and its two-way interval on the logit scale.

        a = σ²_p Σ(n_p/n)² + σ²_e/n,  b = σ²_r Σ(n_r/n)² + σ²_e/n,  c = σ²_e/n,  se² = a + b − c
        logit(x̄) ± t(.975, f) se/(x̄ (1 − x̄)),  f = se⁴/(a²/(P − 1) + b²/(R − 1) + c²/((P − 1)(R − 1)))

    The logit keeps the ends inside 0 and 1 and its coverage near them. Source: Satterthwaite 1946 for f.
    """
    x = x[~np.isnan(x).all(axis=1)][:, ~np.isnan(x).all(axis=0)]
    value = float(np.nanmean(x)) if x.size else np.nan
    if reason := too_few(*x.shape):
        return WinRate(value, NO_INTERVAL, reason)
    if np.nanmin(x) == np.nanmax(x):
        return WinRate(value, NO_INTERVAL, "all votes alike: nothing to estimate their spread from")
    from scipy.special import expit, logit, stdtrit  # slow to import

    error, freedom = _error(x)
    if not error > 0:
        return WinRate(value, NO_INTERVAL, "too few votes in common to estimate their spread")
    half = float(stdtrit(freedom, 0.5 + CONFIDENCE / 2)) * error / (value * (1 - value))
    return WinRate(value, Interval(*(float(expit(logit(value) + side * half)) for side in (-1, 1))), "")


def too_few(prompts: int, raters: int) -> str:
    """Why no interval over prompts and raters is given; empty where one is.

    >>> too_few(32, 2), too_few(32, 5)
    ('2 raters; an interval needs 5', '')
    """
    for count, what in ((raters, "rater"), (prompts, "prompt")):
        if count < FEWEST:
            return f"{count} {what}{'s' * (count != 1)}; an interval needs {FEWEST}"
    return ""


def _error(x: Floats) -> tuple[float, float]:
    """Standard error of the mean over all cells, and its degrees of freedom."""
    known = ~np.isnan(x)
    n, (prompts, raters) = known.sum(), x.shape
    found = Components.of(x)
    rest = found.rest / n
    over_prompts = found.prompts * float(((known.sum(axis=1) / n) ** 2).sum()) + rest
    over_raters = found.raters * float(((known.sum(axis=0) / n) ** 2).sum()) + rest
    variance = over_prompts + over_raters - rest
    spread = over_prompts**2 / (prompts - 1) + over_raters**2 / (raters - 1)
    spread += rest**2 / ((prompts - 1) * (raters - 1))
    return variance**0.5, variance**2 / spread if spread else np.nan


def _half_squares(v: Floats, known: np.ndarray) -> Floats:
    """Σ ½(x_i − x_j)² over the ordered pairs i ≠ j of a row, over all rows, and the number of these pairs."""
    n, total, squares = known.sum(axis=1), v.sum(axis=1), (v**2).sum(axis=1)
    return np.array([(n * squares - total**2).sum(), (n * (n - 1)).sum()], dtype=float)
