"""What a coupling study compares, and the numbers of all of it. Its endpoints are those of `statistics.endpoints`.

    DiD = slope_full − slope_partial    of motion quality per 100 steps, under the spatial perturbation

Families, each corrected by Holm, and beside it by Benjamini and Hochberg, within one reading: ``primary`` · ``motion``
(motion quality under the other conditions) · ``parts`` (every other measure of motion, and of what the prompt names, ×
condition) · ``visual`` (every visual measure × condition) · ``random`` (motion quality of the controls, full − partial)
· ``control`` (motion quality, LoRA − the random Δ of its norm, in every condition and model).
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from perturb.analysis.coupling.design import LORA, RANDOM, TRAININGS, Cell, Condition, Design
from perturb.analysis.statistics.contrast import (
    READINGS,
    Contrast,
    Floats,
    Nested,
    Reading,
    Trajectories,
    benjamini_hochberg,
    contrast,
    holm,
    levels,
)
from perturb.errors import UserError

PRIMARY_METRIC = "motion_quality"
PRIMARY_CONDITION = Condition("spatial", "single_frame")
SECONDARY = {"parts": ("motion", "text"), "visual": ("visual",)}
"""Family → axes of the measures in it."""
LEADING = READINGS[0]
"""The slope that the first study declared; descriptive since, as it is decided by the start and the floor."""
SEED = 0
"""Of the sign flips. Every test draws its own, so that a number does not depend on what else is compared."""


@dataclass(frozen=True)
class Comparison:
    """Two cells that differ in training (full − partial) or in kind (LoRA − random), and what is compared."""

    family: str
    metric: str
    first: Cell
    second: Cell

    @property
    def name(self) -> str:
        """``full − partial`` or ``lora − random``."""
        one, other = self.first, self.second
        return f"{one.training} − {other.training}" if self.exchangeable else f"{one.kind} − {other.kind}"

    @property
    def exchangeable(self) -> bool:
        """Whether both sides could be swapped if they did not differ: twins could, a LoRA and its control not."""
        return self.first.kind == self.second.kind

    @property
    def columns(self) -> dict[str, str]:
        """What both cells share; empty where they differ."""
        first, second = self.first.columns, self.second.columns
        return {name: value if second[name] == value else "" for name, value in first.items()}


@dataclass(frozen=True)
class Row:
    """One comparison in one reading; ``p_holm`` and ``p_bh`` are adjusted within its family and reading."""

    comparison: Comparison
    reading: Reading
    contrast: Contrast
    p_holm: float = np.nan
    p_bh: float = np.nan

    @property
    def is_primary(self) -> bool:
        """Whether this is the leading reading of full − partial under the spatial perturbation."""
        return self.comparison.family == "primary" and self.reading == LEADING

    @property
    def label(self) -> str:
        """What sets the row apart from the others of its family and condition."""
        match self.comparison.family:
            case family if family in SECONDARY:
                return self.comparison.metric.replace("_", " ")
            case "random":
                return str(self.comparison.first.condition)
            case "control":
                return f"{self.comparison.first.training}, {self.comparison.first.condition}"
            case _:
                return self.reading.unit


@dataclass(frozen=True)
class CellCurve:
    """One metric of one cell along its steps.

    ``levels`` by step · ``shares`` the same as shares of step 0, empty where that means nothing · ``dose`` by step,
    mean ‖Δ‖/‖θ‖ · ``seeds`` LoRA seed × step, the mean over prompts.
    """

    levels: tuple[Nested, ...]
    shares: tuple[Nested, ...]
    dose: Floats
    seeds: Floats


@dataclass(frozen=True)
class Results:
    """Everything that the tables and figures of a study show, computed once; ``curves`` of what was measured."""

    design: Design
    curves: Mapping[tuple[Cell, str], CellCurve]
    rows: tuple[Row, ...]

    @staticmethod
    def of(design: Design) -> "Results":
        """Compute all of it. Raises UserError when the study lacks what its endpoints are read on."""
        if PRIMARY_METRIC not in (names := [measure.name for measure in design.measures]):
            raise UserError(
                f"No run has the metric {PRIMARY_METRIC}, which the endpoints are read on; they have {names}."
            )
        if PRIMARY_CONDITION not in design.conditions(LORA):
            raise UserError(
                f"No LoRA run is {PRIMARY_CONDITION.group} with images.as_video={PRIMARY_CONDITION.policy}, the "
                f"condition of the endpoints; there are {[str(where) for where in design.conditions(LORA)]}. Give "
                "those too."
            )
        ratio = {measure.name for measure in design.measures if measure.is_ratio}
        known = {(where, name): design.trajectories(where, name) for where in design.runs for name in names}
        curves = {key: _curve(t, is_ratio=key[1] in ratio) for key, t in known.items() if t.complete.any()}
        if unmeasured := [str(where) for where in design.runs if (where, PRIMARY_METRIC) not in curves]:
            raise UserError(
                f"No clip has {PRIMARY_METRIC} at every step and LoRA seed in {unmeasured}. Score them again."
            )
        rows = [row for comparison in comparisons(design) for row in _rows(comparison, design, ratio)]
        return Results(design, curves, tuple(_adjusted(rows)))


def comparisons(design: Design) -> Iterator[Comparison]:
    """What is compared, the condition of the endpoints first."""
    full, partial = TRAININGS
    for condition in design.conditions(LORA):
        family = "primary" if condition == PRIMARY_CONDITION else "motion"
        yield Comparison(family, PRIMARY_METRIC, Cell(full, condition, LORA), Cell(partial, condition, LORA))
    for condition in design.conditions(LORA):
        for family, axes in SECONDARY.items():
            for measure in design.measures:
                if measure.axis in axes and measure.name != PRIMARY_METRIC:
                    yield Comparison(family, measure.name, Cell(full, condition, LORA), Cell(partial, condition, LORA))
    for condition in design.conditions(RANDOM):
        yield Comparison("random", PRIMARY_METRIC, Cell(full, condition, RANDOM), Cell(partial, condition, RANDOM))
    for condition in design.conditions(RANDOM):
        for training in TRAININGS:
            yield Comparison("control", PRIMARY_METRIC, *(Cell(training, condition, kind) for kind in (LORA, RANDOM)))


def _rows(comparison: Comparison, design: Design, ratio: set[str]) -> Iterator[Row]:
    """Every reading that means something; a control that only some LoRA seeds have is compared with those."""
    seeds = [seed for seed in design.seeds(comparison.second) if seed in design.seeds(comparison.first)]
    first, second = (
        design.trajectories(where, comparison.metric, seeds) for where in (comparison.first, comparison.second)
    )
    has_share = comparison.metric in ratio and first.has_start and second.has_start
    for reading in READINGS:
        if reading.scale == "raw" or has_share:
            rng = np.random.default_rng(SEED)
            found = contrast(first, second, reading, rng, exchangeable=comparison.exchangeable)
            yield Row(comparison, reading, found)


def _adjusted(rows: list[Row]) -> Iterator[Row]:
    """The rows in their order, each with its p adjusted among those of its family and reading."""
    adjusted: dict[int, tuple[float, float]] = {}

    def family(i: int) -> tuple[str, str]:
        return rows[i].comparison.family, rows[i].reading.unit

    for _, members in groupby(sorted(range(len(rows)), key=family), key=family):
        places = list(members)
        p = [rows[i].contrast.test.p for i in places]
        adjusted |= zip(places, zip(holm(p).tolist(), benjamini_hochberg(p).tolist(), strict=True), strict=True)
    for i, row in enumerate(rows):
        yield dataclasses.replace(row, p_holm=adjusted[i][0], p_bh=adjusted[i][1])


def _curve(trajectories: Trajectories, *, is_ratio: bool) -> CellCurve:
    return CellCurve(
        levels=levels(trajectories, relative=False),
        shares=levels(trajectories, relative=True) if is_ratio and trajectories.has_start else (),
        dose=trajectories.dose.mean(axis=0),
        seeds=trajectories.by_prompt(trajectories.complete).mean(axis=1),
    )
