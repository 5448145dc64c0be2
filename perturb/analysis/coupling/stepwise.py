"""A coupling study step by step, beside its slopes: the gap between the models, and what each cell keeps.

Axis letters: s LoRA seeds, m trajectories (prompt, noise), p prompts, k probe steps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from perturb.analysis.coupling.comparisons import PRIMARY_METRIC, SEED, Results
from perturb.analysis.coupling.design import KINDS, TRAININGS, Cell, Condition, Design
from perturb.analysis.replicates import interval_columns
from perturb.analysis.statistics.aggregates import (
    KEPT,
    STATIC,
    Aggregate,
    change,
    collapse_steps,
    first_step,
    improvement,
    interquartile_mean,
    profile,
    retention,
)
from perturb.analysis.statistics.contrast import Floats, Nested
from perturb.analysis.statistics.resampling import Band, Interval, max_t, without_dust

COLLAPSE = "collapse"
THRESHOLDS = np.linspace(0.0, 1.0, 51)
"""Of the performance profile; motion quality lies between 0 and 1."""


@dataclass(frozen=True)
class Gap:
    """full − partial in one condition, of the change of motion quality from step 0, at every step.

    ``improvement``: P(full > partial) + ½ ties of the levels, and ``kept`` of the changes.
    """

    condition: Condition
    kind: str
    difference: tuple[Nested, ...]
    band: Band
    improvement: tuple[Aggregate, ...]
    kept: tuple[Aggregate, ...]

    @staticmethod
    def of(design: Design, condition: Condition, kind: str) -> "Gap":
        """Compare both models over the trajectories that both have whole."""
        first, second = (design.trajectories(Cell(t, condition, kind), PRIMARY_METRIC) for t in TRAININGS)
        keep = first.complete & second.complete
        sides = [change(side).by_prompt(keep) for side in (first, second)]  # s p k
        d = without_dust(
            sides[0] - sides[1], scale=np.abs([first.by_prompt(keep), second.by_prompt(keep)]).max(initial=0)
        )
        rng = np.random.default_rng(SEED)
        return Gap(
            condition,
            kind,
            difference=tuple(Nested.of(at) for at in np.moveaxis(d, 2, 0)),
            band=max_t(d.mean(axis=0), rng),
            improvement=improvement(first, second, rng),
            kept=improvement(change(first), change(second), rng),
        )

    @property
    def together(self) -> tuple[Interval, ...]:
        """By step, the band over prompts that holds at all of them; the difference itself where all prompts agree."""
        means = [at.over_prompts.mean for at in self.difference]
        errors = [at.spread / at.over_prompts.n**0.5 if at.over_prompts.n else np.nan for at in self.difference]
        half = [self.band.critical * error for error in errors]
        return tuple(Interval(mean - width, mean + width) for mean, width in zip(means, half, strict=True))


@dataclass(frozen=True)
class Kept:
    """What one cell keeps of its motion quality.

    ``retention`` along the steps, None where the start may be 0 · ``iqm``: interquartile mean by step · ``first``: s m,
    the collapse step of every trajectory · ``by_share`` and ``by_rate``: the first step at which the mean keeps at most
    `KEPT`, and at which `STATIC` of the clips stand still; inf: at none, NaN: not measured · ``profiles``: by
    threshold, at the first and at the last step.
    """

    cell: Cell
    retention: Nested | None
    iqm: tuple[Aggregate, ...]
    first: Floats
    by_share: float
    by_rate: float
    profiles: tuple[tuple[Nested, ...], tuple[Nested, ...]]

    @staticmethod
    def of(results: Results, cell: Cell) -> "Kept":
        """Aggregate one cell over its complete trajectories."""
        motion = results.design.trajectories(cell, PRIMARY_METRIC)
        steps, curve = motion.steps, results.curves[cell, PRIMARY_METRIC]
        static = results.curves.get((cell, COLLAPSE))
        at_steps = np.moveaxis(motion.by_prompt(motion.complete), 2, 0)  # k s p
        rng = np.random.default_rng(SEED)
        return Kept(
            cell,
            retention=retention(motion) if motion.has_start else None,
            iqm=tuple(Aggregate.of(at, interquartile_mean, rng) for at in at_steps),
            first=collapse_steps(motion),
            by_share=_first(steps, [share.over_prompts.mean <= KEPT for share in curve.shares]),
            by_rate=_first(steps, [level.over_prompts.mean >= STATIC for level in static.levels] if static else []),
            profiles=(profile(motion, steps[0], THRESHOLDS), profile(motion, steps[-1], THRESHOLDS)),
        )

    def collapsed_by(self, steps: Sequence[int]) -> list[float]:
        """By step, the share of trajectories that have collapsed by then."""
        known = self.first[~np.isnan(self.first)]
        return [float((known <= step).mean()) if known.size else np.nan for step in steps]

    @property
    def median(self) -> float:
        """The median collapse step, the mean of the middle two of an even number; inf where half or fewer collapse."""
        known = self.first[~np.isnan(self.first)]
        return float(np.median(known)) if known.size else np.nan


@dataclass(frozen=True)
class Stepwise:
    """Every gap and every cell of a study, in the order of its design."""

    gaps: tuple[Gap, ...]
    kept: tuple[Kept, ...]

    @staticmethod
    def of(results: Results) -> "Stepwise":
        """Compute all of it."""
        design = results.design
        gaps = (Gap.of(design, condition, kind) for kind in KINDS for condition in design.conditions(kind))
        return Stepwise(tuple(gaps), tuple(Kept.of(results, cell) for cell in design.runs))


def _first(steps: tuple[int, ...], crossed: list[bool]) -> float:
    return float(first_step(steps, crossed)) if crossed else np.nan


def gap_rows(results: Results, stepwise: Stepwise) -> Iterator[dict[str, Any]]:
    """gaps.csv: a row per condition, kind and step; ``p`` is adjusted for the steps, the band holds at all of them."""
    for gap in stepwise.gaps:
        for i, step in enumerate(results.design.steps):
            yield {
                "group": gap.condition.group,
                "policy": gap.condition.policy,
                "kind": gap.kind,
                "step": step,
                **interval_columns("difference", gap.difference[i]),
                "band_low": gap.together[i].low,
                "band_high": gap.together[i].high,
                "p": gap.band.p[i],
                "improvement": gap.improvement[i].value,
                "improvement_low": gap.improvement[i].interval.low,
                "improvement_high": gap.improvement[i].interval.high,
                "improvement_of_change": gap.kept[i].value,
            }


def cell_rows(results: Results, stepwise: Stepwise) -> Iterator[dict[str, Any]]:
    """cells.csv: a row per cell. A collapse step is empty where it was not measured and ``inf`` where there is none."""
    for kept in stepwise.kept:
        area = kept.retention or Nested.of(np.empty((0, 0)))
        middle = kept.iqm[-1]
        yield kept.cell.columns | {
            "retention": area.over_both.mean,
            "retention_low": area.over_both.low,
            "retention_high": area.over_both.high,
            "retention_prompt_low": area.over_prompts.low,
            "retention_prompt_high": area.over_prompts.high,
            "retention_seed_low": area.over_seeds.low,
            "retention_seed_high": area.over_seeds.high,
            "collapse_step_of_mean": kept.by_share,
            "collapse_step_of_rate": kept.by_rate,
            "collapse_step_median": kept.median,
            "collapsed": kept.collapsed_by(results.design.steps)[-1],
            "step": results.design.steps[-1],
            "iqm": middle.value,
            "iqm_low": middle.interval.low,
            "iqm_high": middle.interval.high,
        }
