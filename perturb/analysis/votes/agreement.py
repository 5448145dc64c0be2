"""Do raters see the same? Krippendorff's α of who is preferred. Axis letters: p pairs, r raters, c categories."""

from dataclasses import dataclass

import numpy as np

from perturb.analysis.statistics.contrast import Floats
from perturb.analysis.statistics.resampling import NO_INTERVAL, TAILS, Interval
from perturb.analysis.votes.crossed import FEWEST

RESAMPLES = 1999


@dataclass(frozen=True)
class Agreement:
    """α: 1 where all agree, 0 as by chance; NaN with the reason. The interval is a bootstrap over prompts."""

    alpha: float
    interval: Interval
    reason: str


def agreement(x: Floats, prompts: np.ndarray, rng: np.random.Generator) -> Agreement:
    """α of p r, NaN where absent; ``prompts`` p: the prompt of each pair, drawn as one."""
    counts = category_counts(x)
    alpha = float(krippendorff(counts))
    if not (counts.sum(axis=1) > 1).any():
        return Agreement(np.nan, NO_INTERVAL, "no pair has votes of two raters")
    if np.isnan(alpha):
        return Agreement(np.nan, NO_INTERVAL, "all votes alike: chance would agree as well")
    names, place = np.unique(prompts, return_inverse=True)
    if len(names) < FEWEST:
        return Agreement(alpha, NO_INTERVAL, f"{len(names)} prompts; an interval needs {FEWEST}")
    weights = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=RESAMPLES)[:, place]
    drawn = np.array([krippendorff(counts, weight) for weight in weights])
    if np.isnan(drawn).mean() > 0.01:
        return Agreement(alpha, NO_INTERVAL, "too many resamples have votes of one kind alone")
    return Agreement(alpha, Interval(*map(float, np.nanquantile(drawn, TAILS))), "")


def category_counts(x: Floats) -> Floats:
    """p r → p c: how many raters gave each category to a pair."""
    categories = np.unique(x[~np.isnan(x)])
    return np.stack([(x == category).sum(axis=1) for category in categories], axis=1).astype(float)


def krippendorff(counts: Floats, weights: np.ndarray | None = None) -> float:
    """α = 1 − D_o/D_e for names without order, from p c; a unit with one vote alone has nothing to agree with.

        D_o = Σ_p w_p (m_p² − Σ_c n_pc²)/(m_p − 1)/n,   D_e = (n² − Σ_c n_c²)/(n (n − 1)),   n = Σ_p w_p m_p

    NaN where all votes are of one category. Source: Krippendorff 2011, Computing Krippendorff's alpha-reliability.

    >>> round(krippendorff(np.array([[3, 0], [2, 1], [0, 3]])), 3)  # D_o = 2/9, D_e = 40/72
    0.6
    """
    w = np.ones(len(counts)) if weights is None else weights
    m = counts.sum(axis=1)
    counts, w, m = counts[m > 1], w[m > 1], m[m > 1]
    n, by_category = (w * m).sum(), w @ counts
    expected = n**2 - (by_category**2).sum()
    if not expected > 0:
        return float("nan")
    observed = (w * (m**2 - (counts**2).sum(axis=1)) / (m - 1)).sum()
    return float(1 - (n - 1) * observed / expected)
