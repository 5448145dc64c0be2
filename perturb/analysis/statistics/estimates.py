"""Means and intervals over prompts, and paired change from step 0. Draws nothing.

Unit of replication: the prompt. Noise seeds of a prompt are averaged first, because clips of one prompt are not
independent: treating them so makes a 95 % interval cover only about 75 %.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over ``n`` prompts; ``half_width`` of its 95 % interval, NaN when fewer than two prompts have a value."""

    mean: float
    half_width: float
    n: int

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.mean + self.half_width

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval exists and does not contain 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Curve:
    """One estimate per point: a perturbation step, or the id of a state that lies along no steps."""

    metric: str
    points: tuple[int, ...] | tuple[str, ...]
    estimates: tuple[Estimate, ...]

    def at(self, point: int | str) -> Estimate:
        """The estimate at a point; one without a value (n = 0) when there is none."""
        return dict(zip(self.points, self.estimates, strict=True)).get(point, Estimate(np.nan, np.nan, 0))

    @property
    def positions(self) -> tuple[int, ...]:
        """Where the points lie on an axis: steps as they are, states one after another."""
        steps = tuple(point for point in self.points if isinstance(point, int))
        return steps if len(steps) == len(self.points) else tuple(range(len(self.points)))

    @property
    def measured(self) -> bool:
        """Whether any point has a value."""
        return any(estimate.n for estimate in self.estimates)


def mean_interval(values: ArrayLike) -> Estimate:
    """Mean and Student-t interval: x̄ ± t(0.975, n − 1) · s/√n, NaNs left out. Independent values, no units assumed.

    >>> estimate = mean_interval([1.0, 2.0, 3.0])
    >>> estimate.mean, round(estimate.half_width, 3), estimate.n  # 4.3027 / √3
    (2.0, 2.484, 3)
    """
    x = np.asarray(values, dtype=float)
    x = x[~np.isnan(x)]
    n = len(x)
    if n < 2:
        return Estimate(float(x[0]) if n else np.nan, np.nan, n)
    from scipy.special import stdtrit  # slow to import

    quantile = float(stdtrit(n - 1, 0.5 + CONFIDENCE / 2))
    return Estimate(float(x.mean()), quantile * float(x.std(ddof=1)) / n**0.5, n)


def trajectories(scores: pd.DataFrame, metric: str, along: str = "step") -> pd.DataFrame:
    """The values of one metric of one run: index (prompt_id, seed), NaN where not ok.

    Columns: steps ascending, or the values of another column ``along`` in the order of the rows.
    """
    assert scores.run_id.nunique() <= 1, "trajectories are of one run; select it first"
    rows = scores[(scores.metric == metric) & (scores.status == "ok")]
    table = rows.pivot(index=["prompt_id", "seed"], columns=along, values="value")
    points = scores[along].unique()
    return table.reindex(columns=sorted(points) if along == "step" else list(points))


def changes(scores: pd.DataFrame, metric: str, along: str = "step") -> pd.DataFrame:
    """Paired change Y(point) − Y(first point) of each (prompt, noise seed); NaN when either is missing."""
    values = trajectories(scores, metric, along)
    return values.sub(values.iloc[:, 0], axis="index") if values.shape[1] else values


def level_curve(scores: pd.DataFrame, metric: str, along: str = "step") -> Curve:
    """The mean over prompts at every point, with its interval."""
    return _curve(metric, trajectories(scores, metric, along))


def change_curve(scores: pd.DataFrame, metric: str, along: str = "step") -> Curve:
    """The mean paired change from the first point, with its interval: exactly 0 ± 0 at the first one."""
    return _curve(metric, changes(scores, metric, along))


def typical_and_most_changed(change: pd.Series) -> dict[str, tuple[str, int]]:
    """Which trajectories to show: the "typical", nearest the median change, and the "most changed", which fell most.

    ``change``: index (prompt_id, seed). Ties go to the first in order; a single trajectory is typical.
    """
    known = change.dropna().sort_index()
    if known.empty:
        return {}
    typical = (known - known.median()).abs().idxmin()
    chosen = {"typical": typical, "most changed": known.drop(typical).idxmin() if len(known) > 1 else typical}
    return {role: (str(key[0]), int(key[1])) for role, key in chosen.items() if role == "typical" or key != typical}


def _curve(metric: str, table: pd.DataFrame) -> Curve:
    by_prompt = pd.DataFrame(table.groupby(level="prompt_id").mean())
    estimates = tuple(mean_interval(values) for values in by_prompt.to_numpy().T)
    return Curve(metric, tuple(table.columns.tolist()), estimates)
