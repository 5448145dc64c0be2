"""Aggregates of a cell that a mean alone does not tell. Pure numbers: reads and draws nothing.

Axis letters: s LoRA seeds, m trajectories (prompt, noise), k probe steps, p prompts. What is averaged over noises first
has prompts and LoRA seeds as its units, each with an interval (`Nested`). After Agarwal et al. 2021, but paired.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from perturb.analysis.statistics.contrast import Floats, Nested, Reading, Trajectories, levels, read
from perturb.analysis.statistics.resampling import NO_INTERVAL, Interval, percentile

KEPT = 0.5
"""A trajectory, or a mean, has collapsed at the first probe step that keeps no more than this share of its start …"""
STATIC = 0.5
"""… and a set of clips at the first at which at least this share of them stands still (the collapse rate)."""
NEVER = np.inf
AREA_SHARE = Reading("area", "step", "relative")


@dataclass(frozen=True)
class Aggregate:
    """A statistic over all LoRA seeds and prompts, with its bootstrap interval over prompts; NaN without any value."""

    value: float
    interval: Interval

    @staticmethod
    def of(values: Floats, statistic: Callable[[Floats], Floats], rng: np.random.Generator) -> "Aggregate":
        """From s p, without gaps."""
        if not values.size:
            return Aggregate(np.nan, NO_INTERVAL)
        return Aggregate(float(statistic(values.ravel())), percentile(values, statistic, rng))


def interquartile_mean(values: ArrayLike) -> Floats:
    """The mean of the middle half along the last axis: ⌊n/4⌋ values are cut at each end.

    >>> float(interquartile_mean([0.0, 1.0, 2.0, 90.0]))
    1.5
    """
    x = np.sort(np.asarray(values, dtype=float), axis=-1)  # scipy.stats.trim_mean, which takes a second to import
    cut = x.shape[-1] // 4
    return x[..., cut : x.shape[-1] - cut].mean(axis=-1)


def retention(trajectories: Trajectories) -> Nested:
    """How much is kept along the steps: trapz(Y/Y_0)/range, Y_0 the mean over prompts at step 0; 1 keeps all of it.

    The share reading of the area, trapz(Y − Y_0)/(Y_0 range), is this minus 1, so their contrasts are the same.
    """
    return Nested.of(1 + read(trajectories, AREA_SHARE, trajectories.complete))


def collapse_steps(trajectories: Trajectories) -> Floats:
    """s m: the first probe step at which a trajectory keeps at most `KEPT` of its own start; `NEVER` if it keeps more.

    NaN for a trajectory with a gap, and for one that starts at 0: it has nothing to lose.
    """
    y = trajectories.values
    first = first_step(trajectories.steps, y <= KEPT * y[:, :, :1])
    lost = np.isfinite(y).all(axis=2) & (y[:, :, 0] > 0)
    return np.where(lost, first, np.nan)


def first_step(steps: ArrayLike, crossed: ArrayLike) -> Floats:
    """Along the last axis, the first step at which something holds; `NEVER` where it does not.

    >>> first_step([0, 20, 50], [[False, True, True], [False, False, False]]).tolist()
    [20.0, inf]
    """
    holds = np.asarray(crossed, dtype=bool)
    return np.where(holds.any(axis=-1), np.asarray(steps, dtype=float)[holds.argmax(axis=-1)], NEVER)


def change(trajectories: Trajectories) -> Trajectories:
    """Y − Y_0 of every trajectory."""
    y = trajectories.values
    return dataclasses.replace(trajectories, values=y - y[:, :, :1])


def improvement(first: Trajectories, second: Trajectories, rng: np.random.Generator) -> tuple[Aggregate, ...]:
    """By step: P(Y_first > Y_second) + ½ P(equal) over pairs of the same LoRA seed, prompt and noise; ½: no difference.

    Over trajectories that both have whole. Where all prompts agree the interval is a point and says nothing.
    """
    a, b = first.values, second.values
    wins = dataclasses.replace(first, values=(a > b) + 0.5 * (a == b))
    at_steps = np.moveaxis(wins.by_prompt(first.complete & second.complete), 2, 0)
    return tuple(Aggregate.of(at, lambda drawn: drawn.mean(axis=-1), rng) for at in at_steps)


def profile(trajectories: Trajectories, step: int, thresholds: ArrayLike) -> tuple[Nested, ...]:
    """Performance profile: by threshold τ, the share of complete trajectories with Y > τ at one step.

    Source: Dolan and Moré 2002.
    """
    at = trajectories.values[:, :, trajectories.steps.index(step), None]
    above = np.where(trajectories.complete[:, None], at > np.asarray(thresholds, dtype=float), np.nan)
    return levels(dataclasses.replace(trajectories, values=above), relative=False)
