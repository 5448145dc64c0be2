"""Runs of one set of states that are no steps: landscapes, ablations, adapters; by training, group and LoRA seed."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from perturb.analysis.coupling.design import TRAININGS
from perturb.analysis.load import Measure, Run, Study, check_alike, clips_of, find_runs, load
from perturb.analysis.statistics.contrast import Floats, Nested, Trajectories
from perturb.analysis.statistics.estimates import trajectories
from perturb.errors import UserError
from perturb.store.records import SET_PROMPT
from perturb.store.rundir import RunDir
from perturb.store.states import STATE, Coordinate, State

SCALES, PART, ADAPTER = ("spatial", "temporal"), "part", "adapter"
"""The coordinates of a landscape, and those of an ablation and of given adapters."""
COMMANDS = {
    SCALES: "run experiment=landscape_full",
    (PART,): "run experiment=ablation",
    (ADAPTER,): "compare adapters=A,B",
}
"""What makes runs with states of these coordinates."""
BOTH_MODELS = f"{TRAININGS[0]} − {TRAININGS[1]}"
"""Stands for a training where the paired difference of the two models is meant."""


@dataclass(frozen=True)
class Replicates:
    """The runs of one model, one per LoRA seed, which share their states."""

    training: str
    group: str
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
    def states(self) -> tuple[State, ...]:
        """Those of every run, with the magnitudes of the first."""
        return self.first.states

    def column(self, coordinate: str) -> tuple[Coordinate, ...]:
        """One coordinate of every state."""
        return tuple(state.coordinates[coordinate] for state in self.states)

    @property
    def dose(self) -> Floats:
        """s k: ‖Δ‖/‖θ‖ of every state."""
        return np.array([[run.magnitude.get(state.id, np.nan) for state in self.states] for run in self.runs.values()])

    def trajectories(self, metric: str) -> Trajectories:
        """One metric in every state, by its number, of all clips; NaN where one has no value."""
        clips = pd.MultiIndex.from_tuples(clips_of(self.study.of(self.first)))
        tables = [trajectories(self.study.of(run), metric, STATE) for run in self.runs.values()]
        return Trajectories(
            values=np.stack([table.reindex(clips).to_numpy(dtype=float) for table in tables]),
            prompts=tuple(str(prompt) for prompt, _ in clips),
        )


def read_replicates(paths: Iterable[str | Path], *coordinates: str) -> list[Replicates]:
    """The runs whose states have these coordinates, of those given or beneath folders given, in a fixed order.

    Raises UserError when there are none, and for runs that cannot be compared: of unlike prompts, states or settings,
    twice the same, or without all states.
    """
    return replicates(load(_runs_of(paths, coordinates)))


def replicates(study: Study) -> list[Replicates]:
    """Those of a study. Raises UserError for runs that cannot be compared."""
    check_alike((run, _shared(run, study)) for run in study.runs)
    found: dict[tuple[str, str], dict[int, Run]] = {}
    for run in study.runs:
        row = study.of(run).iloc[0]
        seeds = found.setdefault((str(row.training), str(row.group)), {})
        if other := seeds.get(seed := int(row.lora_seed)):
            raise UserError(
                f"{other.directory.path} and {run.directory.path} are of one training, group and LoRA seed. Give one."
            )
        seeds[seed] = run
    order = {name: i for i, name in enumerate(TRAININGS)}
    keys = sorted(found, key=lambda key: (key[1], order.get(key[0], len(order)), key[0]))
    return [Replicates(*key, dict(sorted(found[key].items())), study) for key in keys]


def _runs_of(paths: Iterable[str | Path], coordinates: tuple[str, ...]) -> list[Path]:
    """Run directories whose states have these coordinates; others, as the fits inside a landscape, are passed over."""
    found = find_runs(given := list(paths))
    states = {path: RunDir(path).states() for path in found}
    if chosen := [path for path in found if states[path] and tuple(states[path][0].coordinates) == coordinates]:
        return chosen
    raise UserError(
        f"No run with states by {' and '.join(coordinates)} among {', '.join(map(str, given))}: make one with "
        f"`python -m perturb.{COMMANDS[coordinates]}`, and give its directory or a folder above it."
    )


def _shared(run: Run, study: Study) -> dict[str, Any]:
    """What all runs must have in common. Raises UserError when a state has no scores."""
    scores, made = study.of(run), run.directory.states()
    if absent := [state.id for state in made if state not in run.states]:
        raise UserError(f"{run.directory.path} has no scores of {', '.join(absent[:3])}. Run it again.")
    return {
        f"checkpoint of the {scores.iloc[0].training} model": run.manifest.system.get("sha256"),
        "states": tuple(state.label for state in run.states),
        "step of the fit": run.manifest.perturbation.get("step"),
        "prompts": run.manifest.prompts,
        "prompts and noise seeds": tuple(clips_of(scores)),
        "clip settings": run.manifest.clips,
        "metrics": tuple(measure.name for measure in run.measures),
    }


def paired(models: Sequence[Replicates]) -> bool:
    """Whether these are the full and the partial model, with the same LoRA seeds."""
    return [model.training for model in models] == list(TRAININGS) and len({tuple(m.runs) for m in models}) == 1


def by_prompt(models: Sequence[Replicates], metric: str) -> list[Floats]:
    """s p k of each model, over the trajectories that are complete in all of them."""
    read = [model.trajectories(metric) for model in models]
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


def grouped(models: Sequence[Replicates]) -> Iterator[tuple[str, list[Replicates]]]:
    """Models by perturbed group."""
    for group in dict.fromkeys(model.group for model in models):
        yield group, [model for model in models if model.group == group]
