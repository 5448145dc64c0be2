"""Runs whose probe steps are cells of a table: landscapes and ablations, by training, perturbed group and LoRA seed."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perturb.analysis.coupling.design import TRAININGS
from perturb.analysis.load import Measure, Run, Study, check_alike, find_runs, load
from perturb.analysis.statistics.contrast import Floats, Nested, Trajectories
from perturb.analysis.statistics.estimates import trajectories
from perturb.errors import UserError
from perturb.store.records import SET_PROMPT
from perturb.store.rundir import RunDir

MOTION = "motion_quality"
BOTH_MODELS = f"{TRAININGS[0]} − {TRAININGS[1]}"
"""Stands for a training where the paired difference of the two models is meant."""


@dataclass(frozen=True)
class Table:
    """The runs of one model, one per LoRA seed, which share their ``cells``: what the manifest says of each."""

    training: str
    group: str
    cells: tuple[Mapping[str, Any], ...]
    runs: Mapping[int, Run]
    study: Study

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Those of single clips that were measured."""
        scores = self.study.of(self.first)
        known = set(scores.metric[(scores.status == "ok") & (scores.prompt_id != SET_PROMPT)])
        return tuple(measure for measure in self.first.measures if measure.name in known)

    @property
    def first(self) -> Run:
        """The run of the lowest seed."""
        return next(iter(self.runs.values()))

    @property
    def dose(self) -> Floats:
        """s k: ‖Δ‖/‖θ‖ of every cell."""
        cells = range(len(self.cells))
        return np.array([[run.magnitude.get(k, np.nan) for k in cells] for run in self.runs.values()])

    def trajectories(self, metric: str) -> Trajectories:
        """One metric at every cell, in the place of a step."""
        tables = [trajectories(self.study.of(run), metric) for run in self.runs.values()]
        return Trajectories(
            values=np.stack([table.reindex(tables[0].index).to_numpy(dtype=float) for table in tables]),
            prompts=tuple(str(prompt) for prompt, _ in tables[0].index),
            steps=tuple(range(len(self.cells))),
            dose=self.dose,
            seeds=tuple(self.runs),
        )


def read_tables(paths: Iterable[str | Path], kind: str) -> list[Table]:
    """The runs of a kind among those given, or beneath folders given, in a fixed order.

    Raises UserError when there are none, and for runs that cannot be compared: of unlike prompts, cells or settings,
    twice the same, or without all cells.
    """
    study = load(_runs_of(paths, kind))
    check_alike((run, _shared(run, study)) for run in study.runs)
    found: dict[tuple[str, str], dict[int, Run]] = {}
    for run in study.runs:
        row = study.of(run).iloc[0]
        seeds = found.setdefault((str(row.training), str(row.group)), {})
        if other := seeds.get(seed := int(row.lora_seed)):
            raise UserError(
                f"{other.directory.path} and {run.directory.path} are of one model and LoRA seed. Give one."
            )
        seeds[seed] = run
    order = {name: i for i, name in enumerate(TRAININGS)}
    keys = sorted(found, key=lambda key: (key[1], order.get(key[0], len(order)), key[0]))
    cells = _cells(study.runs[0])
    return [Table(*key, cells, dict(sorted(found[key].items())), study) for key in keys]


def _runs_of(paths: Iterable[str | Path], kind: str) -> list[Path]:
    """Run directories of one kind; the fits inside a landscape and runs of other kinds are passed over."""
    found = find_runs(given := list(paths))
    kinds = {path: RunDir(path).manifest().perturbation.get("kind") for path in found}
    if chosen := [path for path in found if kinds[path] == kind]:
        return chosen
    raise UserError(
        f"No {kind} among {', '.join(map(str, given))}: make one with `python -m perturb.run experiment={kind}…`, and "
        "give its run directory or a folder above it."
    )


def _cells(run: Run) -> tuple[Mapping[str, Any], ...]:
    return tuple(run.manifest.perturbation["cells"])


def _shared(run: Run, study: Study) -> dict[str, Any]:
    """What all runs must have in common. Raises UserError when a cell is absent."""
    scores, perturbation = study.of(run), run.manifest.perturbation
    steps = sorted(int(step) for step in scores.step.unique())
    if steps != list(range(len(_cells(run)))):
        raise UserError(
            f"{run.directory.path} has scores of the cells {steps}, not of all {len(_cells(run))}. Run it again."
        )
    clips = scores.loc[scores.prompt_id != SET_PROMPT, ["prompt_id", "seed"]].drop_duplicates()
    return {
        "cells": tuple(tuple(cell.items()) for cell in _cells(run)),
        "step of the fit": perturbation["step"],
        "prompts": run.manifest.prompts,
        "prompts and noise seeds": tuple(sorted(clips.itertuples(index=False, name=None))),
        "clip settings": run.manifest.clips,
        "metrics": tuple(measure.name for measure in run.measures),
    }


def paired(tables: Sequence[Table]) -> bool:
    """Whether these are the full and the partial model, with the same LoRA seeds."""
    return [table.training for table in tables] == list(TRAININGS) and len({tuple(t.runs) for t in tables}) == 1


def by_prompt(tables: Sequence[Table], metric: str) -> list[Floats]:
    """s p k of each table, over the trajectories that are complete in all of them."""
    read = [table.trajectories(metric) for table in tables]
    keep = np.logical_and.reduce([each.complete for each in read])
    return [each.by_prompt(keep) for each in read]


def interval_columns(name: str, value: Nested) -> dict[str, float]:
    """Columns of a csv: the mean with the interval that is quoted, and both one-way ones."""
    both, prompts, seeds = value.over_both, value.over_prompts, value.over_seeds
    return {
        name: both.mean,
        "low": both.low,
        "high": both.high,
        "prompt_low": prompts.low,
        "prompt_high": prompts.high,
        "seed_low": seeds.low,
        "seed_high": seeds.high,
        "n_prompts": prompts.n,
        "n_seeds": seeds.n,
    }


def grouped(tables: Sequence[Table]) -> Iterator[tuple[str, list[Table]]]:
    """Tables by perturbed group."""
    for group in dict.fromkeys(table.group for table in tables):
        yield group, [table for table in tables if table.group == group]
