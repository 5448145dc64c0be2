"""Which cell of a coupling study each run fills; checked to be one study before anything is compared.

A cell is training × condition × kind of perturbation; a condition is perturbed group × image set D_I × policy for
stills. It holds, by pair of twins, one run per LoRA seed. A pair has one checkpoint per training.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from perturb.analysis.load import Measure, Run, Study, check_alike, clips_of
from perturb.analysis.notation import leaf
from perturb.analysis.statistics.contrast import Trajectories
from perturb.errors import UserError
from perturb.store.records import SET_PROMPT, SET_SEED

TRAININGS = ("full", "partial")
GROUPS = ("spatial", "temporal")
POLICIES = ("single_frame", "repeat")
LORA, RANDOM = KINDS = ("lora", "random")
OUR_WORLD = "perturb.world, "
"""What the names of the embedded image sets begin with."""
SAME_NORM = 0.01
"""How far, relatively, the ‖Δ‖/‖θ‖ of a control may be from that of its reference: rounding, no more."""


@dataclass(frozen=True)
class Condition:
    """What is perturbed, on which images, and how a still stands in for a video while that is fitted."""

    group: str
    policy: str
    images: str = ""

    def __str__(self) -> str:
        usual = (self.group, self.policy) == (GROUPS[0], POLICIES[0])  # a still is enough where time is not moved
        parts = [self.group, "" if usual else self.policy.replace("_", " "), self.image_set]
        return ", ".join(filter(None, parts))

    @property
    def image_set(self) -> str:
        """The images in short: ``high grade``."""
        return self.images.removeprefix(OUR_WORLD)

    @property
    def is_primary(self) -> bool:
        """Whether it is one of those that the headline is about: space, with a still as one frame."""
        return (self.group, self.policy) == (GROUPS[0], POLICIES[0])


@dataclass(frozen=True)
class Cell:
    """Runs that differ in their pair of twins and in their LoRA seed alone."""

    training: str
    condition: Condition
    kind: str

    def __str__(self) -> str:
        return " · ".join(filter(None, self.columns.values()))

    @property
    def columns(self) -> dict[str, str]:
        """The names that make a cell."""
        where = self.condition
        names = {"training": self.training, "group": where.group, "policy": where.policy, "images": where.images}
        return names | {"kind": self.kind}


@dataclass(frozen=True)
class Sample:
    """What all runs of a condition share: probe steps, (prompt, noise seed) of every clip, measures."""

    steps: tuple[int, ...]
    clips: tuple[tuple[str, int], ...]
    measures: tuple[Measure, ...]


Pairs = Mapping[str, Mapping[int, Run]]
"""By pair (its label, empty where it has none) and LoRA seed."""


@dataclass(frozen=True)
class Design:
    """A study: ``runs`` maps every cell to its runs, in one order of cells, pairs and seeds."""

    runs: Mapping[Cell, Pairs]
    scores: Mapping[str, pd.DataFrame]
    samples: Mapping[Condition, Sample]

    @staticmethod
    def of(study: Study) -> "Design":
        """Sort the runs into cells. Raises UserError for runs that do not make one study, and says which."""
        scores = {run.manifest.run_id: study.of(run) for run in study.runs}
        runs = _by_cell(study.runs, scores)
        _check_checkpoints(runs)
        samples = {}
        for condition in dict.fromkeys(cell.condition for cell in runs):
            mine = [run for cell in runs if cell.condition == condition for run in _flat(runs[cell])]
            check_alike((run, _shared(run, scores[run.manifest.run_id])) for run in mine)
            rows = scores[mine[0].manifest.run_id]
            samples[condition] = Sample(_steps(rows), tuple(clips_of(rows)), mine[0].measures)
        _check_doses(study.runs, scores)
        found = Design(runs, scores, samples)
        if not found.conditions:
            given = "; ".join(
                f"{cell} · seeds {sorted({s for r in by.values() for s in r})}" for cell, by in runs.items()
            )
            raise UserError(
                f"No pair of twins: no condition has both trainings with one LoRA seed (fit.seed). There are: {given}. "
                "Run what is missing, or give its folder too."
            )
        return found

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """Those under which some pair has both of its models, in order."""
        found = (cell.condition for cell in self.runs if cell.kind == LORA)
        return tuple(condition for condition in dict.fromkeys(found) if self.twins(condition))

    def twins(self, condition: Condition) -> dict[str, tuple[int, ...]]:
        """By pair, the LoRA seeds that both of its models have; only pairs that have some."""
        first, second = (self.runs.get(Cell(training, condition, LORA), {}) for training in TRAININGS)
        seeds = {pair: tuple(seed for seed in first[pair] if seed in second[pair]) for pair in first if pair in second}
        return {pair: shared for pair, shared in seeds.items() if shared}

    def members(self, cell: Cell) -> dict[str, tuple[int, ...]]:
        """By pair, the LoRA seeds that a cell is read from: those of both twins; of a control all there are."""
        if cell.kind == LORA:
            return self.twins(cell.condition)
        return {pair: tuple(seeds) for pair, seeds in self.runs.get(cell, {}).items()}

    def of_pair(self, cell: Cell, pair: str, seeds: Iterable[int]) -> list[Run]:
        """The runs of one pair in a cell."""
        return [self.runs[cell][pair][seed] for seed in seeds]

    def trajectories(self, cell: Cell, pair: str, seeds: Iterable[int], metric: str) -> Trajectories:
        """One metric of one pair in a cell; all NaN where it was not measured."""
        tables = [self._values[run.manifest.run_id].get(metric) for run in self.of_pair(cell, pair, seeds)]
        is_set = any(table is not None and (SET_PROMPT, SET_SEED) in table.index for table in tables)
        sample = self.samples[cell.condition]
        rows = [(SET_PROMPT, SET_SEED)] if is_set else list(sample.clips)
        index = pd.MultiIndex.from_tuples(rows, names=["prompt_id", "seed"])
        absent = np.full((len(rows), len(sample.steps)), np.nan)
        read = [absent if t is None else t.reindex(index, columns=list(sample.steps)).to_numpy(float) for t in tables]
        return Trajectories(np.stack(read), tuple(prompt for prompt, _ in rows))

    @cached_property
    def _values(self) -> dict[str, dict[str, pd.DataFrame]]:
        """By run and metric: (prompt, noise seed) × step."""
        return {
            run: {
                str(metric): table.droplevel("metric")
                for metric, table in rows.pivot(
                    index=["metric", "prompt_id", "seed"], columns="step", values="value"
                ).groupby(level="metric")
            }
            for run, rows in self.scores.items()
        }


def _flat(pairs: Pairs) -> list[Run]:
    return [run for seeds in pairs.values() for run in seeds.values()]


def _by_cell(runs: Iterable[Run], scores: Mapping[str, pd.DataFrame]) -> dict[Cell, dict[str, dict[int, Run]]]:
    """Every run in its cell, in order. A control takes image set and policy of the run whose norm it has."""
    known = {run.manifest.run_id: run for run in runs}
    found: dict[Cell, dict[str, dict[int, Run]]] = {}
    for run in known.values():
        source = _reference(run, known, scores) if run.manifest.perturbation.get("kind") == RANDOM else run
        row = scores[run.manifest.run_id].iloc[0]
        images = leaf(source.manifest.images.get("source", ""))
        cell = Cell(str(row.training), Condition(str(row.group), _policy(source), images), _kind(run))
        _check_allowed(run, "training", cell.training, TRAININGS)
        _check_allowed(run, "group", cell.condition.group, GROUPS)
        seeds = found.setdefault(cell, {}).setdefault(pair_of(run), {})
        if other := seeds.get(seed := int(row.lora_seed)):
            raise UserError(
                f"{other.directory.path} and {run.directory.path} are both {cell} with LoRA seed {seed} of one pair. "
                "Give one of them; runs of another pair of twins need another pair=NAME."
            )
        seeds[seed] = run
    far = {cell.condition.images: _distance(_flat(pairs)) for cell, pairs in found.items() if cell.kind == LORA}
    sets = sorted({cell.condition.images for cell in found}, key=lambda name: (far.get(name, math.inf), name))
    order = [Cell(t, Condition(g, p, i), k) for k, g, p, i, t in product(KINDS, GROUPS, POLICIES, sets, TRAININGS)]
    return {
        cell: {pair: dict(sorted(found[cell][pair].items())) for pair in sorted(found[cell])}
        for cell in order
        if cell in found
    }


def _distance(runs: Iterable[Run]) -> float:
    """The least distance of D_I that any of the runs records; inf where none does."""
    ratios = (run.manifest.distance.get("ratio") for run in runs)
    return min((ratio for ratio in ratios if ratio is not None), default=math.inf)


def pair_of(run: Run) -> str:
    """The label of the pair of twins that a run is of; empty where it has none."""
    return str(run.manifest.system.get("pair") or "")


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


def _check_checkpoints(runs: Mapping[Cell, Pairs]) -> None:
    """Within a pair a training has one checkpoint, and no other pair has it: one pair would count as two."""
    placed = [
        (cell.training, pair, run) for cell, pairs in runs.items() for pair in pairs for run in pairs[pair].values()
    ]
    where = "of pair {}" if len({pair for _, pair, _ in placed}) > 1 else "(name pairs of twins: pair=NAME)"
    check_alike(
        (run, {f"checkpoint of the {training} model {where.format(pair)}": run.manifest.system.get("sha256")})
        for training, pair, run in placed
    )
    known: dict[tuple[str, str], str] = {}
    for training, pair, run in placed:
        sha = run.manifest.system.get("sha256")
        if sha and (other := known.setdefault((training, sha), pair)) != pair:
            raise UserError(
                f"{run.directory.path}: the pairs {other!r} and {pair!r} have one {training} checkpoint, so they are "
                "one pair. Give its runs one label (pair=NAME)."
            )


def _shared(run: Run, rows: pd.DataFrame) -> dict[str, Any]:
    """What all runs of a condition have in common: prompts, noises, steps, clips, metrics, and D_I."""
    manifest = run.manifest
    fitted = {name: manifest.images.get(name) for name in ("count", "sha256")}
    return ({} if _kind(run) == RANDOM else {"image set": fitted}) | {
        "probe steps": _steps(rows),
        "prompts": manifest.prompts,
        "prompts and noise seeds": tuple(clips_of(rows)),
        "clip settings": manifest.clips,
        "metrics": tuple(measure.name for measure in run.measures),
    }


def _check_doses(runs: Iterable[Run], scores: Mapping[str, pd.DataFrame]) -> None:
    """From step 0 on, at two steps or more, ‖Δ‖/‖θ‖ is known and grows; that of a control is its reference's."""
    known = {run.manifest.run_id: run for run in runs}
    for run in known.values():
        steps = _steps(scores[run.manifest.run_id])
        if steps[0] != 0 or len(steps) < 2:
            raise UserError(
                f"{run.directory.path} was scored at the steps {list(steps)}; a study needs step 0 and at least one "
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
