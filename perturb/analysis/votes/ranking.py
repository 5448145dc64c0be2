"""Which metrics rank clips as people do: Spearman's ρ over pairs of clips.

    d[i]   difference of a metric, first − second clip of pair i        s[i]   share of its votes for the first

The interval is a bootstrap that draws prompts and raters anew, independently of each other (the pigeonhole bootstrap,
Owen 2007): it holds for other prompts and other raters, and is a little too wide rather than too narrow.
"""

from dataclasses import dataclass

import numpy as np

from perturb.analysis.statistics.contrast import Floats
from perturb.analysis.statistics.resampling import NO_INTERVAL, TAILS, Interval
from perturb.analysis.votes.crossed import FEWEST, too_few

RESAMPLES = 1999


@dataclass(frozen=True)
class Correlation:
    """ρ over ``n`` pairs, NaN with the reason."""

    rho: float
    interval: Interval
    n: int
    reason: str


def correlation(d: Floats, x: Floats, prompts: np.ndarray, rng: np.random.Generator) -> Correlation:
    """ρ of d (p) with the mean of x (p r) over raters; pairs without a value or a vote are left out."""
    keep = ~np.isnan(d) & ~np.isnan(x).all(axis=1)
    d, x, names = d[keep], x[keep], np.unique(prompts[keep])
    n = len(d)
    if n < FEWEST:
        return Correlation(np.nan, NO_INTERVAL, n, f"{n} pairs with a value; needs {FEWEST}")
    rho = spearman(d, np.nanmean(x, axis=1))
    if np.isnan(rho):
        return Correlation(rho, NO_INTERVAL, n, "the differences, or the votes, are all alike")
    if reason := too_few(len(names), int((~np.isnan(x)).any(axis=0).sum())):
        return Correlation(rho, NO_INTERVAL, n, reason)
    drawn = np.array([_drawn(d, x, prompts[keep], names, rng) for _ in range(RESAMPLES)])
    if np.isnan(drawn).mean() > 0.01:
        return Correlation(rho, NO_INTERVAL, n, "too many resamples have no spread")
    return Correlation(rho, Interval(*map(float, np.nanquantile(drawn, TAILS))), n, "")


def spearman(a: Floats, b: Floats) -> float:
    """Pearson's correlation of ranks, ties at their mean rank; NaN where one side is all alike.

    >>> spearman(np.array([1.0, 2.0, 3.0]), np.array([0.1, 0.9, 0.5]))
    0.5
    """
    one, other = (ranks(values) - (len(values) + 1) / 2 for values in (a, b))
    size = ((one**2).sum() * (other**2).sum()) ** 0.5
    return float((one * other).sum() / size) if size else float("nan")


def ranks(values: Floats) -> Floats:
    """1 … n, ties at their mean.

    >>> ranks(np.array([0.5, 0.2, 0.5])).tolist()
    [2.5, 1.0, 2.5]
    """
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]


def _drawn(d: Floats, x: Floats, prompts: np.ndarray, names: np.ndarray, rng: np.random.Generator) -> float:
    """ρ of one resample: prompts with all their pairs, raters with all their votes."""
    times = rng.multinomial(len(names), np.full(len(names), 1 / len(names)))
    rows = np.repeat(np.arange(len(d)), times[np.searchsorted(names, prompts)])
    columns = rng.integers(0, x.shape[1], x.shape[1])
    votes = x[np.ix_(rows, columns)]
    known = ~np.isnan(votes)
    seen = known.any(axis=1)
    if not seen.any():
        return float("nan")
    share = np.where(known, votes, 0.0).sum(axis=1)[seen] / known.sum(axis=1)[seen]
    return spearman(d[rows][seen], share)
