"""Motion kept at an equal distance.

    x(k)     how far the perturbation has come at probe step k: ‖Δ‖/‖θ‖, or |V̄_k − V̄_0| of a visual measure V
    Y(v)     the mean motion quality where x first reaches v, linear between probe steps
    kept(v)  Y(v)/Y(0)

Equal steps are not equal perturbations, and a slope over ‖Δ‖/‖θ‖ is over as far as each model went. Here both sides are
read at the same v, a quarter, a half, three quarters and all of the way that both have gone in every LoRA seed.

Both Y and x are means over prompts, so the interval is a jackknife's: with each prompt left out in turn, the
pseudo-values θ + (n − 1)(mean θ₍₋ₚ₎ − θ₍₋ₚ₎) stand for the prompts; their mean is θ, and of a mean they are the values
themselves. Source: Efron and Tibshirani, An Introduction to the Bootstrap, ch. 11.

Axes: s LoRA seed, p prompt, k probe step.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from perturb.analysis.coupling.comparisons import PRIMARY_METRIC, SEED, Comparison, comparisons
from perturb.analysis.coupling.design import Design
from perturb.analysis.replicates import interval_columns
from perturb.analysis.statistics.contrast import Floats, Nested, Trajectories, holm
from perturb.analysis.statistics.resampling import without_dust
from perturb.analysis.statistics.significance import PairedTest
from perturb.errors import UserError

DOSE = "dose"
VISUAL = ("colourfulness", "ssim_drift", "lpips_drift")
"""Measures of visual change: of the look by itself, and distances from the start; those that were measured."""
FRACTIONS = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Match:
    """Two sides of a comparison at ``level`` of ``axis``: s p pseudo-values of Y (raw) or the kept share (relative)."""

    comparison: Comparison
    axis: str
    level: float
    scale: str
    first: Floats
    second: Floats

    @property
    def difference(self) -> Nested:
        """first − second, paired by LoRA seed and prompt."""
        return Nested.of(self._paired)

    @property
    def test(self) -> PairedTest:
        """Sign flips of twins, Student's t of a LoRA and its control."""
        return PairedTest.of(self._paired, np.random.default_rng(SEED), exchangeable=self.comparison.exchangeable)

    @property
    def _paired(self) -> Floats:
        return without_dust(self.first - self.second, scale=float(np.abs([self.first, self.second]).max()))


@dataclass(frozen=True)
class Side:
    """One side along its way, for every LoRA seed: with all prompts (row 0), then with each of them left out.

    ``way`` and ``motion`` are s (1 + p) k.
    """

    way: Floats
    motion: Floats

    @staticmethod
    def of(motion: Floats, visual: Floats | None, dose: Floats) -> "Side":
        """From s p k of motion and of a visual measure, or (None) along the dose s k, in per cent."""
        means = left_out(motion)
        if visual is None:
            return Side(np.broadcast_to(100 * dose[:, None], means.shape), means)
        seen = left_out(visual)
        return Side(np.abs(seen - seen[:, :, :1]), means)

    @property
    def reach(self) -> float:
        """How far it comes in every seed, whichever prompt is left out."""
        return float(self.way.max(axis=2).min())

    def at(self, level: float, scale: str) -> Floats:
        """s p: pseudo-values of Y(level), or of it as a share of Y(0)."""
        pairs = zip(self.way.reshape(-1, self.way.shape[2]), self.motion.reshape(-1, self.way.shape[2]), strict=True)
        found = np.array([first_passage(x, y, level) for x, y in pairs]).reshape(self.way.shape[:2])
        return pseudo(found if scale == "raw" else found / self.motion[:, :, 0])


def first_passage(x: Floats, y: Floats, level: float) -> float:
    """y where x first reaches ``level``, linear between points; NaN when it never does.

    >>> first_passage(np.array([0.0, 2.0, 1.0, 4.0]), np.array([1.0, 0.5, 0.4, 0.1]), 1.0)
    0.75
    """
    beyond = np.flatnonzero(x >= level)
    if not beyond.size:
        return float("nan")
    k = int(beyond[0])
    if k == 0:
        return float(y[0])
    share = (level - x[k - 1]) / (x[k] - x[k - 1])
    return float(y[k - 1] + share * (y[k] - y[k - 1]))


def left_out(values: Floats) -> Floats:
    """s p k → s (1 + p) k: the mean over prompts, then the means without each of them.

    >>> left_out(np.array([[[1.0], [2.0], [6.0]]]))[0, :, 0].tolist()
    [3.0, 4.0, 3.5, 1.5]
    """
    n = values.shape[1]
    total = values.sum(axis=1, keepdims=True)
    return np.concatenate([total / n, (total - values) / (n - 1)], axis=1)


def pseudo(statistic: Floats) -> Floats:
    """s (1 + p) → s p: θ + (n − 1)(mean θ without a prompt − θ without this one).

    >>> pseudo(np.array([[3.0, 4.0, 3.5, 1.5]])).tolist()  # of a mean: the values
    [[1.0, 2.0, 6.0]]
    """
    without = statistic[:, 1:]
    return statistic[:, :1] + (without.shape[1] - 1) * (without.mean(axis=1, keepdims=True) - without)


def matches(design: Design) -> Iterator[Match]:
    """Every comparison of motion quality along every axis, at the levels that both sides reach.

    Raises UserError for fewer than two prompts, of which none can be left out.
    """
    shared = [measure.name for measure in design.measures]
    for comparison in comparisons(design):
        if comparison.metric != PRIMARY_METRIC:
            continue
        for axis in (DOSE, *(name for name in VISUAL if name in shared)):
            yield from _along(design, comparison, axis)


def _along(design: Design, comparison: Comparison, axis: str) -> Iterator[Match]:
    seeds = [seed for seed in design.seeds(comparison.second) if seed in design.seeds(comparison.first)]
    cells = (comparison.first, comparison.second)
    motion = [design.trajectories(where, PRIMARY_METRIC, seeds) for where in cells]
    visual = None if axis == DOSE else [design.trajectories(where, axis, seeds) for where in cells]
    keep = np.logical_and.reduce([each.complete for each in (*motion, *(visual or ()))])
    if not keep.any():
        return
    if len({prompt for prompt, kept in zip(motion[0].prompts, keep, strict=True) if kept}) < 2:
        raise UserError("matching needs two prompts or more with values at every step; sample more prompts")
    ways: list[Trajectories | None] = [None, None] if visual is None else list(visual)
    first, second = (
        Side.of(y.by_prompt(keep), None if v is None else v.by_prompt(keep), y.dose)
        for y, v in zip(motion, ways, strict=True)
    )
    reach = min(first.reach, second.reach)
    if reach <= 0:  # one of them changes nothing that could be matched
        return
    scales = ("raw", "relative") if motion[0].has_start and motion[1].has_start else ("raw",)
    for level in (fraction * reach for fraction in FRACTIONS):
        for scale in scales:
            yield Match(comparison, axis, level, scale, first.at(level, scale), second.at(level, scale))


def match_rows(found: Sequence[Match]) -> Iterator[dict[str, Any]]:
    """matched.csv: a row per comparison, axis, scale and level; Holm within a family, axis and scale."""
    tests = [match.test for match in found]
    p, adjusted = np.array([test.p for test in tests]), np.full(len(found), np.nan)
    families = [(match.comparison.family, match.axis, match.scale) for match in found]
    for family in dict.fromkeys(families):
        places = [i for i, each in enumerate(families) if each == family]
        adjusted[places] = holm(p[places])
    for match, test, holms in zip(found, tests, adjusted, strict=True):
        yield {
            "family": match.comparison.family,
            "contrast": match.comparison.name,
            **match.comparison.columns,
            "axis": match.axis,
            "level": match.level,
            "scale": match.scale,
            "first": float(match.first.mean()),
            "second": float(match.second.mean()),
            **interval_columns("difference", match.difference),
            **test.columns,
            "p_holm": float(holms),
        }
