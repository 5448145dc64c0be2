"""Contrasts between two perturbations, over prompts and over LoRA seeds. Pure numbers: reads and draws nothing.

    Y[s, m, k]        s LoRA seed, m trajectory (prompt, noise), k probe step; averaged over noises: Y[s, p, k]
    L[s, p] = Σ_k w_k Y[s, p, k]           a reading: slope over an axis, or mean change along it; both are linear in Y
    d[s, p] = L_first[s, p] − L_second[s, p]   paired by LoRA seed, prompt and noise

Prompts and LoRA seeds are crossed. What is quoted is the interval over both (`crossed`): other prompts
and other LoRAs. Beside it stand the one-way ones, Student t over the means of their units:

    over prompts   d̄[p] = mean_s d, n_p − 1 degrees of freedom: other prompts, these LoRAs
    over seeds     d̄[s] = mean_p d, n_s − 1 degrees of freedom: other LoRAs, these prompts

and the studentised bootstrap over prompts, which assumes no symmetry (`resampling`). None covers other pairs
of models. Steps are never resampled.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perturb.analysis.statistics.crossed import crossed_interval
from perturb.analysis.statistics.estimates import Estimate, mean_interval
from perturb.analysis.statistics.resampling import NO_INTERVAL, Floats, Interval, studentised, without_dust
from perturb.analysis.statistics.significance import SIGN_FLIP, STUDENT, PairedTest


@dataclass(frozen=True)
class Reading:
    """One number per trajectory.

    ``slope``: ordinary least squares over ``axis``, per 100 steps or per 1 % of ‖Δ‖/‖θ‖. ``area``: the mean change
    along the axis, trapz(Y − Y_0)/range. ``relative``: divided by the mean of Y_0 over prompts.
    """

    summary: Literal["slope", "area"]
    axis: Literal["step", "dose"]
    scale: Literal["raw", "relative"]

    @property
    def unit(self) -> str:
        """In words.

        >>> Reading("slope", "dose", "relative").unit, Reading("area", "step", "raw").unit
        ('share of start per 1 % ‖Δ‖/‖θ‖', 'mean change')
        """
        if self.summary == "area":
            return "mean change" if self.scale == "raw" else "mean change, share of start"
        per = {"step": "per 100 steps", "dose": "per 1 % ‖Δ‖/‖θ‖"}[self.axis]
        return per if self.scale == "raw" else f"share of start {per}"


READINGS = (
    Reading("slope", "step", "raw"),
    Reading("slope", "step", "relative"),
    Reading("slope", "dose", "raw"),
    Reading("slope", "dose", "relative"),
    Reading("area", "step", "raw"),
    Reading("area", "step", "relative"),
)


@dataclass(frozen=True)
class Trajectories:
    """One metric of the runs of one cell, a run per LoRA seed.

    ``values`` s m k, NaN where absent · ``prompts`` m, the prompt of each trajectory · ``steps`` k · ``dose`` s k,
    ‖Δ‖/‖θ‖ as a share · ``seeds`` s, the LoRA seeds.
    """

    values: Floats
    prompts: tuple[str, ...]
    steps: tuple[int, ...]
    dose: Floats
    seeds: tuple[int, ...]

    @property
    def complete(self) -> NDArray[np.bool_]:
        """m: whether a trajectory has a value at every step of every seed."""
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

    def axis(self, reading: Reading) -> Floats:
        """s k: where the probe steps lie, in the unit of the reading."""
        if reading.axis == "dose":
            return 100 * self.dose
        return np.broadcast_to(np.array(self.steps) / 100, self.dose.shape)


@dataclass(frozen=True)
class Nested:
    """A mean over LoRA seeds and prompts: ``over_both`` is quoted, the one-way intervals stand beside it.

    ``spread``: standard deviation over prompts.
    """

    over_both: Estimate
    over_prompts: Estimate
    over_seeds: Estimate
    spread: float

    @staticmethod
    def of(values: Floats) -> "Nested":
        """From s p, without gaps; n = 0 and NaN where there is no prompt."""
        if not values.size:
            nothing = Estimate(np.nan, np.nan, 0)
            return Nested(nothing, nothing, nothing, np.nan)
        by_prompt = values.mean(axis=0)
        spread = float(by_prompt.std(ddof=1)) if len(by_prompt) > 1 else np.nan
        one_way = mean_interval(by_prompt), mean_interval(values.mean(axis=1))
        return Nested(crossed_interval(values), *one_way, spread)

    @property
    def standardised(self) -> "Nested":
        """In units of ``spread``, so that measures with different units can share an axis."""
        each = (self.over_both, self.over_prompts, self.over_seeds)
        return Nested(*(Estimate(e.mean / self.spread, e.half_width / self.spread, e.n) for e in each), spread=1.0)

    @property
    def units(self) -> str:
        """What the quoted interval is over: ``32 prompts × 3 LoRA seeds``, ``32 prompts``."""
        seeds = f" × {self.over_seeds.n} LoRA seeds" if self.over_seeds.n > 1 else ""
        return f"{self.over_prompts.n} prompts{seeds}"


@dataclass(frozen=True)
class Contrast:
    """``first`` − ``second``, both of them means of a reading.

    ``bootstrap``: studentised, over prompts, beside the t interval. ``incomplete``: (prompt, noise) pairs left out,
    because some seed or step of either side has no value.
    """

    first: float
    second: float
    difference: Nested
    bootstrap: Interval
    test: PairedTest
    incomplete: int


def contrast(
    first: Trajectories, second: Trajectories, reading: Reading, rng: np.random.Generator, *, exchangeable: bool
) -> Contrast:
    """Read both sides and compare them in pairs (same LoRA seed, prompt and noise).

    ``exchangeable``: whether the sides could be swapped if there were no difference, which decides the test.
    """
    assert (first.prompts, first.seeds, first.steps) == (second.prompts, second.seeds, second.steps), "not paired"
    keep = first.complete & second.complete
    incomplete = int((~keep).sum())
    if not keep.any():
        test = PairedTest(SIGN_FLIP if exchangeable else STUDENT, np.nan, skewed=False)
        return Contrast(np.nan, np.nan, Nested.of(np.empty((0, 0))), NO_INTERVAL, test, incomplete)
    scale = max(_size(side, reading, keep) for side in (first, second))
    one, other = (without_dust(read(side, reading, keep), scale) for side in (first, second))
    d = without_dust(one - other, scale)
    test, interval = PairedTest.of(d, rng, exchangeable=exchangeable), studentised(d.mean(axis=0), rng)
    return Contrast(float(one.mean()), float(other.mean()), Nested.of(d), interval, test, incomplete)


def read(trajectories: Trajectories, reading: Reading, keep: NDArray[np.bool_]) -> Floats:
    """s p: the reading of every prompt, averaged over its noises."""
    y = trajectories.by_prompt(keep)
    w = np.array([weights(x, reading.summary) for x in trajectories.axis(reading)])
    values = np.einsum("spk,sk->sp", y, w)
    return share(values, y[:, :, 0]) if reading.scale == "relative" else values


def _size(trajectories: Trajectories, reading: Reading, keep: NDArray[np.bool_]) -> float:
    """The largest Σ_k |w_k Y_k|, of the starts' unit where the reading is relative: what rounding is small against."""
    y = np.abs(trajectories.by_prompt(keep))
    w = np.abs([weights(x, reading.summary) for x in trajectories.axis(reading)])
    start = y[:, :, 0].mean() if reading.scale == "relative" else 1.0
    return float(np.einsum("spk,sk->sp", y, w).max() / start)


def levels(trajectories: Trajectories, *, relative: bool) -> tuple[Nested, ...]:
    """The mean at every step, over complete trajectories; ``relative``: as a share of step 0, there exactly 1 ± 0."""
    y = trajectories.by_prompt(trajectories.complete)
    return tuple(Nested.of(share(at, y[:, :, 0]) if relative else at) for at in np.moveaxis(y, 2, 0))


def weights(x: ArrayLike, summary: Literal["slope", "area"]) -> Floats:
    """The w of Σ_k w_k Y_k.

    slope: (x − x̄)/Σ(x − x̄)², ordinary least squares. area: trapz(Y − Y_0)/(x_last − x_0).

    >>> weights([0.0, 1.0, 2.0], "slope").tolist(), weights([0.0, 1.0, 4.0], "area").tolist()
    ([-0.5, 0.0, 0.5], [-0.875, 0.5, 0.375])
    """
    at = np.asarray(x, dtype=float)
    if summary == "slope":
        from_mean = at - at.mean()
        return from_mean / (from_mean**2).sum()
    half = np.diff(at) / 2 / (at[-1] - at[0])
    w = np.append(half, 0.0) + np.append(0.0, half)
    w[0] -= 1.0  # − Y_0
    return w


def share(values: Floats, start: Floats) -> Floats:
    """s p: values whose mean over prompts is R = mean(values)/mean(start), for every seed.

        r_p = (v_p − R (y_p − ȳ))/ȳ

    Linearised (Taylor), so that the spread of r also holds the uncertainty of the start ȳ; a prompt's own ratio v_p/y_p
    would explode where its start is small. Source: Cochran, Sampling Techniques, ch. 6.
    """
    mean = start.mean(axis=1, keepdims=True)
    ratio = values.mean(axis=1, keepdims=True) / mean
    return (values - ratio * (start - mean)) / mean


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


def benjamini_hochberg(p: ArrayLike) -> Floats:
    """p adjusted for the false discovery rate: min over larger ones of m p/rank, at most 1; NaNs are no tests and stay.

    >>> benjamini_hochberg([0.01, 0.04, 0.03, np.nan]).round(6).tolist()
    [0.03, 0.04, 0.04, nan]
    """
    values = np.asarray(p, dtype=float)
    adjusted = np.full(values.shape, np.nan)
    order = np.argsort(values)[: (~np.isnan(values)).sum()][::-1]  # NaNs are sorted last
    factors = len(order) / np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.minimum.accumulate(factors * values[order]))
    return adjusted
