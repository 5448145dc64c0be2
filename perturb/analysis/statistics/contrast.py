"""Differences between two perturbations, over prompts and over LoRA seeds. Pure numbers: reads and draws nothing.

    Y[s, m, k]   s LoRA seed, m trajectory (prompt, noise), k state; averaged over noises: Y[s, p, k]
    d[s, p]      a number of the first less that of the second, paired by LoRA seed, prompt and noise

Prompts and LoRA seeds are crossed. What is quoted is the interval over both (`crossed`): other prompts
and other LoRAs. Beside it stand the one-way ones, Student t over the means of their units:

    over prompts   d̄[p] = mean_s d, n_p − 1 degrees of freedom: other prompts, these LoRAs
    over seeds     d̄[s] = mean_p d, n_s − 1 degrees of freedom: other LoRAs, these prompts

None covers other pairs of models; `endpoints` has those that do. States are never resampled.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perturb.analysis.statistics.crossed import crossed_interval
from perturb.analysis.statistics.estimates import Estimate, mean_interval
from perturb.analysis.statistics.resampling import Floats


@dataclass(frozen=True)
class Trajectories:
    """One metric of runs that differ in their LoRA seed: ``values`` s m k, NaN where absent; ``prompts`` of each m."""

    values: Floats
    prompts: tuple[str, ...]

    @property
    def complete(self) -> NDArray[np.bool_]:
        """m: whether a trajectory has a value in every state of every seed."""
        return np.asarray(np.isfinite(self.values).all(axis=(0, 2)))

    @property
    def has_start(self) -> bool:
        """Whether Y_0 is surely above 0, so that a share of it means something (a lone value: just above 0)."""
        start = mean_interval(self.by_prompt(self.complete)[:, :, 0].mean(axis=0))
        return start.mean > 0 and not start.low <= 0

    def by_prompt(self, keep: NDArray[np.bool_]) -> Floats:
        """s p k: the kept trajectories, averaged over the noises of a prompt."""
        prompts, place = np.unique(np.asarray(self.prompts, dtype=str)[keep], return_inverse=True)
        member = (place == np.arange(len(prompts))[:, None]).astype(float)
        return np.einsum("pm,smk->spk", member / member.sum(axis=1, keepdims=True), self.values[:, keep])


@dataclass(frozen=True)
class Nested:
    """A mean over LoRA seeds and prompts: ``over_both`` is quoted, the one-way intervals stand beside it."""

    over_both: Estimate
    over_prompts: Estimate
    over_seeds: Estimate

    @staticmethod
    def of(values: Floats) -> "Nested":
        """From s p, without gaps; n = 0 and NaN where there is no prompt."""
        if not values.size:
            return Nested(*[Estimate(np.nan, np.nan, 0)] * 3)
        return Nested(crossed_interval(values), mean_interval(values.mean(axis=0)), mean_interval(values.mean(axis=1)))


def slope_weights(x: ArrayLike) -> Floats:
    """The w of Σ_k w_k Y_k that is the slope of Y over x by ordinary least squares: (x − x̄)/Σ(x − x̄)².

    >>> slope_weights([0.0, 1.0, 2.0]).tolist()
    [-0.5, 0.0, 0.5]
    """
    at = np.asarray(x, dtype=float)
    from_mean = at - at.mean()
    return from_mean / (from_mean**2).sum()


def share(values: Floats, start: Floats) -> Floats:
    """s p: values whose mean over prompts is R = mean(values)/mean(start), for every seed.

        r_p = (v_p − R (y_p − ȳ))/ȳ

    Linearised (Taylor), so that the spread of r also holds the uncertainty of the start ȳ; a prompt's own ratio v_p/y_p
    would explode where its start is small. Source: Cochran, Sampling Techniques, ch. 6.
    """
    mean = start.mean(axis=1, keepdims=True)
    ratio = values.mean(axis=1, keepdims=True) / mean
    return (values - ratio * (start - mean)) / mean


def shares(values: Floats, start: Floats) -> Floats:
    """`share` of every state: values s p and any further axes, start s p."""
    states = values.reshape(*values.shape[:2], int(np.prod(values.shape[2:])))
    return np.stack([share(each, start) for each in np.moveaxis(states, 2, 0)], axis=-1).reshape(values.shape)


def holm(p: ArrayLike) -> Floats:
    """p adjusted by Holm's step-down: max over smaller ones of (m − rank) p, at most 1; NaNs are no tests and stay.

    >>> holm([0.01, 0.04, 0.03, np.nan]).round(6).tolist()
    [0.03, 0.06, 0.06, nan]
    """
    values = np.asarray(p, dtype=float)
    adjusted = np.full(values.shape, np.nan)
    order = np.argsort(values)[: (~np.isnan(values)).sum()]  # NaNs are sorted last
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(factors * values[order]))
    return adjusted
