"""Every measure along the steps of a coupling study, and the rows of its tables."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from perturb.analysis.coupling.design import LORA, TRAININGS, Cell, Condition, Design
from perturb.analysis.coupling.endpoints import Finding, findings
from perturb.analysis.coupling.fits import Fit
from perturb.analysis.load import Run, completeness
from perturb.analysis.prompts import Clips
from perturb.analysis.statistics.contrast import share
from perturb.analysis.statistics.endpoints import PRIMARY, over_pairs
from perturb.analysis.statistics.estimates import Estimate, mean_interval
from perturb.analysis.statistics.resampling import Floats
from perturb.errors import UserError

LOSS = "loss on D_I"
"""Stands beside the measures in curves.csv."""


@dataclass(frozen=True)
class CellCurve:
    """One measure of one cell along its steps.

    ``levels``: means over pairs, of one pair over its LoRA seeds and prompts · ``shares`` the same as shares of step 0,
    empty where that means nothing · ``pairs``: by pair, its mean at every step.
    """

    levels: tuple[Estimate, ...]
    shares: tuple[Estimate, ...]
    pairs: Mapping[str, Floats]


@dataclass(frozen=True)
class Results:
    """Everything that the tables and figures of a study show, computed once; ``curves`` of what was measured.

    ``doses`` by cell: mean ‖Δ‖/‖θ‖ at every step · ``fits`` by cell and pair.
    """

    design: Design
    findings: tuple[Finding, ...]
    curves: Mapping[tuple[Cell, str], CellCurve]
    doses: Mapping[Cell, Floats]
    fits: Mapping[Cell, Mapping[str, Fit]]

    @staticmethod
    def of(design: Design) -> "Results":
        """Compute all of it. Raises UserError when the study lacks what its endpoints are read on."""
        if not any(m.name == PRIMARY for sample in design.samples.values() for m in sample.measures):
            raise UserError(
                f"No run has the metric {PRIMARY}, which the endpoints are read on. Score the runs with it."
            )
        found = findings(design)
        curves, doses, fits = {}, {}, {}
        for cell in (cell for cell in design.runs if design.members(cell)):
            sample, members = design.samples[cell.condition], design.members(cell)
            runs = {pair: design.of_pair(cell, pair, seeds) for pair, seeds in members.items()}
            every = [run for of_pair in runs.values() for run in of_pair]
            doses[cell] = np.array([np.mean([run.magnitude[step] for run in every]) for step in sample.steps])
            fits[cell] = {pair: Fit.of(of_pair) for pair, of_pair in runs.items()}
            for measure in sample.measures:
                if curve := _curve(design, cell, measure.name, is_ratio=measure.is_ratio):
                    curves[cell, measure.name] = curve
        return Results(design, found, curves, doses, fits)

    @property
    def primary(self) -> Finding:
        """The first of those that the headline is about."""
        return next(each for each in self.findings if each.condition.is_primary)

    def cells(self, condition: Condition) -> list[Cell]:
        """Those of a condition that were read."""
        return [cell for cell in self.doses if cell.condition == condition]

    @property
    def clips(self) -> Iterator[Clips]:
        """For prompts.csv.gz."""
        for cell, pair, _, run in _runs(self.design):
            yield Clips({"pair": pair, **cell.columns}, run, self.design.scores[run.manifest.run_id])


def _curve(design: Design, cell: Cell, metric: str, *, is_ratio: bool) -> CellCurve | None:
    """None where some pair has no trajectory that is whole."""
    read = {pair: design.trajectories(cell, pair, seeds, metric) for pair, seeds in design.members(cell).items()}
    if not all(each.complete.any() for each in read.values()):
        return None
    values = {pair: each.by_prompt(each.complete) for pair, each in read.items()}  # s p k
    every, has_share = list(values.values()), is_ratio and all(each.has_start for each in read.values())
    steps = range(every[0].shape[-1])
    return CellCurve(
        tuple(over_pairs([y[..., k] for y in every]) for k in steps),
        tuple(over_pairs([share(y[..., k], y[..., 0]) for y in every]) for k in steps) if has_share else (),
        {pair: y.mean(axis=(0, 1)) for pair, y in values.items()},
    )


def curve_rows(results: Results) -> Iterator[dict[str, Any]]:
    """curves.csv: a row per cell, measure and step, the mean over pairs; ``share`` is of step 0, where it has one."""
    for (cell, metric), curve in results.curves.items():
        for k, level in enumerate(curve.levels):
            shares = _bounds("share", curve.shares[k]) if curve.shares else {}
            yield _where(results, cell, metric, k) | _bounds("mean", level) | shares
    for cell, fits in results.fits.items():
        if all(fit.losses for fit in fits.values()):
            for k in range(len(results.doses[cell])):
                loss = mean_interval([fit.losses[k] for fit in fits.values()])
                yield _where(results, cell, LOSS, k) | _bounds("mean", loss)


def _where(results: Results, cell: Cell, metric: str, k: int) -> dict[str, Any]:
    members = results.design.members(cell)
    return cell.columns | {
        "pairs": len(members),
        "lora_seeds": min(map(len, members.values())),
        "metric": metric,
        "step": results.design.samples[cell.condition].steps[k],
        "magnitude": float(results.doses[cell][k]),
    }


def _bounds(name: str, estimate: Estimate) -> dict[str, float]:
    """Three columns: the mean under its name, and its interval."""
    ends = ("low", "high") if name == "mean" else (f"{name}_low", f"{name}_high")
    return {name: estimate.mean, ends[0]: estimate.low, ends[1]: estimate.high}


def run_rows(results: Results) -> Iterator[dict[str, Any]]:
    """runs.csv: a row per run: distance of D_I, loss and convergence, ‖Δ‖/‖θ‖ at the end, counts of values.

    ``path_ends``: the step up to which its model is read, and ``model_converged`` whether it ends there because the
    fits have converged: both by the mean loss over LoRA seeds.
    """
    for cell, pair, seed, run in _runs(results.design):
        scores, fit = results.design.scores[run.manifest.run_id], Fit.of([run])
        counts = completeness(scores)
        model = results.fits.get(cell, {}).get(pair) if cell.kind == LORA else None
        twins = (results.fits.get(Cell(name, cell.condition, LORA), {}).get(pair) for name in TRAININGS)
        ends = max(twin.horizon.place for twin in twins if twin) if model else 0
        yield {"pair": pair, **cell.columns} | {
            "lora_seed": seed,
            "run": run.manifest.run_id,
            "reference": (run.manifest.perturbation.get("reference") or {}).get("run", ""),
            "distance": fit.distance,
            "own_loss": fit.own,
            "loss_start": fit.losses[0] if fit.losses else None,
            "loss_end": fit.losses[-1] if fit.losses else None,
            "converged_step": fit.converged_at,
            "path_ends": model.steps[ends] if model else None,
            "model_converged": model.horizon.converged if model else None,
            "step": fit.steps[-1],
            "magnitude": run.magnitude[fit.steps[-1]],
            "ok": int((scores.status == "ok").sum()),
            "unavailable": counts.unavailable,
            "failed": counts.failed,
            "missing": counts.missing,
        }


def _runs(design: Design) -> Iterator[tuple[Cell, str, int, Run]]:
    for cell, pairs in design.runs.items():
        for pair, seeds in pairs.items():
            for seed, run in seeds.items():
                yield cell, pair, seed, run
