"""Everything the table and the figure of one run show, computed once."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from perturb.analysis.load import Completeness, Measure, Run, Study, completeness
from perturb.analysis.statistics.estimates import Curve, change_curve, level_curve


@dataclass(frozen=True)
class Result:
    """One run with its curves: ``levels`` and ``changes`` map every metric to means over prompts, by step."""

    run: Run
    scores: pd.DataFrame
    steps: tuple[int, ...]
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
            steps=tuple(sorted(int(step) for step in scores.step.unique())),
            measures=measures,
            levels={measure.name: level_curve(scores, measure.name) for measure in measures},
            changes={measure.name: change_curve(scores, measure.name) for measure in measures},
            counts=completeness(scores),
        )

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
