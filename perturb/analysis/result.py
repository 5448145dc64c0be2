"""Everything the table and the figure of one run show, computed once."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from perturb.analysis.load import Completeness, Measure, Point, Run, Study, completeness
from perturb.analysis.statistics.estimates import Curve, change_curve, level_curve
from perturb.store.states import STEP


@dataclass(frozen=True)
class Result:
    """One run with its curves: ``levels`` and ``changes`` map every metric to means over prompts, by point."""

    run: Run
    scores: pd.DataFrame
    points: tuple[Point, ...]
    measures: tuple[Measure, ...]
    levels: Mapping[str, Curve]
    changes: Mapping[str, Curve]
    counts: Completeness

    @staticmethod
    def of(study: Study, run: Run) -> "Result":
        """Compute the curves of the measures that the run's scores hold, in the manifest's order."""
        scores = study.of(run)
        present = set(scores.metric)
        measures = tuple(measure for measure in run.measures if measure.name in present)
        return Result(
            run=run,
            scores=scores,
            points=tuple(run.points),
            measures=measures,
            levels={measure.name: level_curve(scores, measure.name, run.along) for measure in measures},
            changes={measure.name: change_curve(scores, measure.name, run.along) for measure in measures},
            counts=completeness(scores),
        )

    @property
    def is_curve(self) -> bool:
        """Whether its states lie along the steps of a fit."""
        return self.run.along == STEP

    @property
    def labels(self) -> dict[Point, str]:
        """What a reader calls each point: the step, the scales, the part, the adapter."""
        return {point: state.label for point, state in self.run.points.items()}

    def named(self, point: Point) -> str:
        """``step 300``, ``part attention``, ``spatial, temporal 0.5, 1``.

        The coordinates with their values.
        """
        return f"{', '.join(self.run.coordinates)} {self.labels[point]}"

    @property
    def training(self) -> str:
        """How the perturbed model was trained: full, partial, …"""
        return str(self.scores.training.iloc[0])

    @property
    def group(self) -> str:
        """Which parameters Δ was added to: spatial or temporal."""
        return str(self.scores.group.iloc[0])

    @property
    def size(self) -> str:
        """The size of the sample in words: ``32 prompts × 1 noise``."""
        clips = self.scores[self.scores.seed >= 0]
        prompts, noises = clips.prompt_id.nunique(), clips.seed.nunique()
        return f"{prompts} prompt{'s' * (prompts != 1)} × {noises} noise{'s' * (noises != 1)}"
