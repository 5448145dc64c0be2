"""`python -m perturb.analysis.matched RUNS… -o experiments/coupling`: motion kept at an equal distance.

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

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from perturb.analysis.command import compare_runs
from perturb.analysis.coupling.comparisons import PRIMARY_METRIC, SEED, Comparison, comparisons
from perturb.analysis.coupling.design import Design
from perturb.analysis.load import find_runs, load
from perturb.analysis.replicates import interval_columns
from perturb.analysis.statistics.contrast import Floats, Nested, Trajectories, holm
from perturb.analysis.statistics.resampling import sign_flip, without_dust
from perturb.errors import UserError
from perturb.store.rundir import write_atomic

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
    def p(self) -> float:
        """Two-sided sign-flip test over prompts."""
        return sign_flip(self._paired.mean(axis=0), np.random.default_rng(SEED))

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
    p, adjusted = np.array([match.p for match in found]), np.full(len(found), np.nan)
    families = [(match.comparison.family, match.axis, match.scale) for match in found]
    for family in dict.fromkeys(families):
        places = [i for i, each in enumerate(families) if each == family]
        adjusted[places] = holm(p[places])
    for match, one, holms in zip(found, p, adjusted, strict=True):
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
            "p": float(one),
            "p_holm": float(holms),
        }


def analyse(paths: Iterable[str | Path], output: Path, console: Console) -> list[Path]:
    """Write matched.csv and the figure of a coupling study into ``output``; returns what was written.

    Raises UserError for runs that do not make one complete study.
    """
    design = Design.of(load(find_runs(paths)))
    found = list(matches(design))
    frame = pd.DataFrame(match_rows(found))
    write_atomic(output / "matched.csv", frame.to_csv(index=False, float_format="%.6g"))
    shown = frame[(frame.scale == "relative") & frame.family.isin(["primary", "motion"])]
    console.print("motion kept, as a share of the start, full − partial, where both have come equally far")
    columns = ["group", "policy", "axis", "level", "first", "second", "difference", "low", "high", "p_holm"]
    table = pd.DataFrame(shown, columns=columns).to_string(index=False, float_format="%.3f")
    console.print(table, highlight=False, soft_wrap=True)
    from perturb.analysis.matched.figure import matched_figure  # matplotlib is slow to import
    from perturb.analysis.plots import save

    return [output / "matched.csv", *save(matched_figure(design, found), output / "matched.png")]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    return compare_runs(analyse, name="matched", description=__doc__, arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
