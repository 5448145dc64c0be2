"""Which cell of a coupling study each run fills; checked to be one study before anything is compared.

A cell is training × perturbed group × policy for stills × kind of perturbation; it holds one run per LoRA seed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from perturb.analysis.load import Measure, Run, Study, check_alike
from perturb.analysis.statistics.contrast import Trajectories
from perturb.analysis.statistics.estimates import trajectories
from perturb.errors import UserError
from perturb.store.records import SET_PROMPT, SET_SEED

TRAININGS = ("full", "partial")
GROUPS = ("spatial", "temporal")
POLICIES = ("single_frame", "repeat")
LORA, RANDOM = KINDS = ("lora", "random")
SAME_NORM = 0.01
"""How far, relatively, the ‖Δ‖/‖θ‖ of a control may be from that of its reference: rounding, no more."""


@dataclass(frozen=True)
class Condition:
    """What is perturbed, and how a still stands in for a video while that is fitted."""

    group: str
    policy: str

    def __str__(self) -> str:
        usual = (self.group, self.policy) == (GROUPS[0], POLICIES[0])  # a still is enough where time is not moved
        return self.group if usual else f"{self.group}, {self.policy.replace('_', ' ')}"


@dataclass(frozen=True)
class Cell:
    """Runs that differ in their LoRA seed alone."""

    training: str
    condition: Condition
    kind: str

    def __str__(self) -> str:
        return " · ".join(self.columns.values())

    @property
    def columns(self) -> dict[str, str]:
        """The four names that make a cell."""
        where = self.condition
        return {"training": self.training, "group": where.group, "policy": where.policy, "kind": self.kind}


@dataclass(frozen=True)
class Design:
    """A complete study: ``runs`` maps every cell to its runs by LoRA seed, in one order of cells and of seeds.

    ``clips`` are the (prompt, noise seed) that every run has; ``measures`` are those of every run.
    """

    runs: Mapping[Cell, Mapping[int, Run]]
    scores: Mapping[str, pd.DataFrame]
    steps: tuple[int, ...]
    clips: tuple[tuple[str, int], ...]
    measures: tuple[Measure, ...]

    @staticmethod
    def of(study: Study) -> "Design":
        """Sort the runs into cells. Raises UserError for runs that do not make one complete study, and says which."""
        scores = study.frames
        runs = _by_cell(study.runs, scores)
        _check_grid(runs)
        check_alike((run, _shared(run, scores[run.manifest.run_id])) for run in study.runs)
        _check_doses(study.runs, scores)
        first = study.runs[0]
        rows = scores[first.manifest.run_id]
        return Design(runs, scores, _steps(rows), _clips(rows), first.measures)

    def seeds(self, cell: Cell) -> tuple[int, ...]:
        """The LoRA seeds of a cell, ascending."""
        return tuple(self.runs[cell])

    def conditions(self, kind: str) -> tuple[Condition, ...]:
        """The conditions of a kind of perturbation, in order."""
        return tuple(cell.condition for cell in self.runs if (cell.training, cell.kind) == (TRAININGS[0], kind))

    def trajectories(self, cell: Cell, metric: str, seeds: Iterable[int] | None = None) -> Trajectories:
        """One metric of a cell, of all its LoRA seeds or of the given ones."""
        runs = [self.runs[cell][seed] for seed in (self.seeds(cell) if seeds is None else seeds)]
        tables = [trajectories(self.scores[run.manifest.run_id], metric) for run in runs]
        is_set = any((table.index.get_level_values("prompt_id") == SET_PROMPT).any() for table in tables)
        rows = [(SET_PROMPT, SET_SEED)] if is_set else list(self.clips)
        index = pd.MultiIndex.from_tuples(rows, names=["prompt_id", "seed"])
        return Trajectories(
            values=np.stack([table.reindex(index).to_numpy(dtype=float) for table in tables]),
            prompts=tuple(prompt for prompt, _ in rows),
            steps=self.steps,
            dose=np.array([[run.magnitude[step] for step in self.steps] for run in runs]),
            seeds=tuple(self.seeds(cell) if seeds is None else seeds),
        )


def _by_cell(runs: Iterable[Run], scores: Mapping[str, pd.DataFrame]) -> dict[Cell, dict[int, Run]]:
    """Every run in its cell, cells and seeds in order. A control takes the policy of the run whose norm it has."""
    known = {run.manifest.run_id: run for run in runs}
    found: dict[Cell, dict[int, Run]] = {}
    for run in known.values():
        source = _reference(run, known, scores) if run.manifest.perturbation.get("kind") == RANDOM else run
        row = scores[run.manifest.run_id].iloc[0]
        cell = Cell(str(row.training), Condition(str(row.group), _policy(source)), _kind(run))
        _check_allowed(run, "training", cell.training, TRAININGS)
        _check_allowed(run, "group", cell.condition.group, GROUPS)
        seeds = found.setdefault(cell, {})
        if other := seeds.get(seed := int(row.lora_seed)):
            raise UserError(
                f"{other.directory.path} and {run.directory.path} are both {cell} with LoRA seed {seed}. Give one of "
                "them."
            )
        seeds[seed] = run
    order = [Cell(t, Condition(g, p), k) for k, g, p, t in product(KINDS, GROUPS, POLICIES, TRAININGS)]
    return {cell: dict(sorted(found[cell].items())) for cell in order if cell in found}


def _kind(run: Run) -> str:
    kind = str(run.manifest.perturbation.get("kind"))
    _check_allowed(run, "perturbation", kind, KINDS)
    return kind


def _policy(run: Run) -> str:
    policy = run.manifest.images.get("as_video")
    _check_allowed(run, "policy for stills (images.as_video)", policy, POLICIES)
    return str(policy)


def _reference(run: Run, known: Mapping[str, Run], scores: Mapping[str, pd.DataFrame]) -> Run:
    """The run that a random control was made after. Raises UserError unless it is given, and a twin in all but kind."""
    name = str((run.manifest.perturbation.get("reference") or {}).get("run"))
    if name not in known:
        raise UserError(
            f"{run.directory.path} is the random control of run {name}, which is not among the runs given. "
            "Give that run too, or leave its control out."
        )
    for column in ("training", "group", "lora_seed"):
        own, its = (scores[run_id][column].iloc[0] for run_id in (run.manifest.run_id, name))
        if own != its:
            raise UserError(
                f"{run.directory.path} has {column} {own}, the run {name} that it is a control of has {its}. "
                "Make the control with the experiment and the fit.seed of its reference."
            )
    return known[name]


def _check_allowed(run: Run, what: str, given: object, allowed: tuple[str, ...]) -> None:
    if given not in allowed:
        raise UserError(f"{run.directory.path}: its {what} is {given!r}; a coupling study has {', '.join(allowed)}.")


def _check_grid(runs: Mapping[Cell, Mapping[int, Run]]) -> None:
    """Within a kind, both trainings × every condition seen × every LoRA seed seen."""
    missing = []
    for kind in KINDS:
        cells = [cell for cell in runs if cell.kind == kind]
        conditions = dict.fromkeys(cell.condition for cell in cells)
        seeds = sorted({seed for cell in cells for seed in runs[cell]})
        for training, condition, seed in product(TRAININGS, conditions, seeds):
            cell = Cell(training, condition, kind)
            if seed not in runs.get(cell, {}):
                missing.append(f"{cell} · seed {seed}")
    if missing:
        raise UserError(
            f"{len(missing)} runs are missing: {'; '.join(missing)}. Every condition needs both trainings and the same "
            "LoRA seeds (fit.seed); run what is missing, or leave out what has no counterpart."
        )


def _shared(run: Run, rows: pd.DataFrame) -> dict[str, Any]:
    """What all runs of a study have in common: prompts, noises, steps, clips, metrics, a checkpoint per training."""
    manifest = run.manifest
    return {
        "probe steps": _steps(rows),
        "prompts": manifest.prompts,
        "prompts and noise seeds": _clips(rows),
        "clip settings": manifest.clips,
        "metrics": tuple(measure.name for measure in run.measures),
        f"checkpoint of the {rows.training.iloc[0]} model": manifest.system.get("sha256"),
    }


def _check_doses(runs: Iterable[Run], scores: Mapping[str, pd.DataFrame]) -> None:
    """From step 0 on, at two steps or more, ‖Δ‖/‖θ‖ is known and grows; that of a control is its reference's."""
    known = {run.manifest.run_id: run for run in runs}
    for run in known.values():
        steps = _steps(scores[run.manifest.run_id])
        if steps[0] != 0 or len(steps) < 2:
            raise UserError(
                f"{run.directory.path} was scored at the steps {list(steps)}; a slope needs step 0 and at least one "
                "more. Set probe_steps and run it again."
            )
        if unknown := [step for step in steps if step not in run.magnitude]:
            raise UserError(f"{run.directory.states_path} has no ‖Δ‖/‖θ‖ at the probe steps {unknown}. Run it again.")
        if not run.magnitude[steps[-1]] > run.magnitude[0]:
            raise UserError(
                f"{run.directory.path}: ‖Δ‖/‖θ‖ did not grow, nothing was perturbed. Look at its train.csv."
            )
        if _kind(run) == RANDOM:
            _check_norm(run, known[run.manifest.perturbation["reference"]["run"]], steps)


def _check_norm(control: Run, reference: Run, steps: Iterable[int]) -> None:
    for step in steps:
        own, its = control.magnitude[step], reference.magnitude[step]
        if abs(own - its) > SAME_NORM * its:
            raise UserError(
                f"{control.directory.path}: its ‖Δ‖/‖θ‖ at step {step} is {own:.4g}, that of its reference {its:.4g}. "
                "A control must have the norm of its reference; make it again."
            )


def _steps(rows: pd.DataFrame) -> tuple[int, ...]:
    return tuple(sorted(int(step) for step in rows.step.unique()))


def _clips(rows: pd.DataFrame) -> tuple[tuple[str, int], ...]:
    clips = rows.loc[rows.prompt_id != SET_PROMPT, ["prompt_id", "seed"]].drop_duplicates()
    return tuple(sorted((str(prompt), int(seed)) for prompt, seed in clips.itertuples(index=False)))
