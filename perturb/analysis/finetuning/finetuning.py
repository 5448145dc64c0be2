"""Fine-tuning strategies side by side, one row per model.

A run is one training as a perturbation of the model it began from (`perturbation=trained`): step 0 is that model, the
last step the fine-tuned one, both sampled from the same prompts and noises.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import pandas as pd

from perturb.analysis.load import Measure, Run, Study, check_alike
from perturb.analysis.statistics.endpoints import PRIMARY
from perturb.analysis.statistics.estimates import Estimate, change_curve, level_curve
from perturb.analysis.table import cell, decimals
from perturb.errors import UserError

STARTS, STRATEGIES, GROUPS = ("full", "partial"), ("direct", "LoRA"), ("spatial", "temporal", "both")
NONE = "none"
"""The strategy of a model as it was."""
SHOWN = (
    *(PRIMARY, "dynamics", "consistency", "collapse"),
    *("sharpness", "colourfulness", "image_distance", "watermark", "watermark_trace", "ssim_drift"),
)
"""The measures of table.md; table.csv has all."""


@dataclass(frozen=True)
class Model:
    """One row. ``magnitude`` is ‖Δ‖_F/‖θ‖_F of what was trained; ``levels`` are means over prompts.

    ``changes`` are means of the difference from the start, paired by prompt and noise; a start has none.
    """

    start: str
    strategy: str
    group: str
    parameters: int
    magnitude: float
    levels: Mapping[str, Estimate]
    changes: Mapping[str, Estimate]


@dataclass(frozen=True)
class Comparison:
    """All models, each start before what was made of it; ``size`` of the sample in words."""

    models: tuple[Model, ...]
    measures: tuple[Measure, ...]
    size: str

    @staticmethod
    def of(study: Study) -> "Comparison":
        """Raises UserError for runs that do not belong in one table, and says which and why."""
        check_alike((run, _shared(study, run)) for run in study.runs)
        cells: dict[tuple[str, str, str], Run] = {}
        for run in study.runs:
            named = names(study, run)
            where = named["start"], named["strategy"], named["group"]
            if (other := cells.setdefault(where, run)) is not run:
                raise UserError(
                    f"{other.directory.path} and {run.directory.path} are both {' '.join(where)}. Give one of them."
                )
        models: list[Model] = []
        for where in product(STARTS, STRATEGIES, GROUPS):
            if run := cells.get(where):
                if where[0] not in {model.start for model in models}:
                    models.append(_model(study, run, where[0], NONE, ""))
                models.append(_model(study, run, *where))
        clips = study.scores[study.scores.seed >= 0]
        prompts, noises = clips.prompt_id.nunique(), clips.seed.nunique()
        return Comparison(
            models=tuple(models),
            measures=tuple(m for m in study.runs[0].measures if any(x.levels[m.name].n for x in models)),
            size=f"{prompts} prompts × {noises} noise{'s' * (noises != 1)}",
        )


# from runs to rows ----------------------------------------------------------------------------------------------------


def names(study: Study, run: Run) -> dict[str, str]:
    """Start, strategy and group. UserError for a run of something else than a training."""
    row, perturbation = study.of(run).iloc[0], run.manifest.perturbation
    start, group = str(row.training), str(row.group)
    if perturbation.get("kind") != "trained" or start not in STARTS or group not in GROUPS:
        raise UserError(
            f"{run.directory.path} has perturbation {perturbation.get('kind')!r} on {group} of the model {start}. "
            f"Give runs of perturbation=trained on {', '.join(GROUPS)} of {', '.join(STARTS)}."
        )
    return {"start": start, "strategy": "direct" if perturbation["lora"] is None else "LoRA", "group": group}


def _shared(study: Study, run: Run) -> dict[str, Any]:
    """What all runs of a table have in common, the samples trained on among them."""
    scores, manifest = study.of(run), run.manifest
    return {
        "probe steps": tuple(sorted(int(step) for step in scores.step.unique())),
        "prompts": manifest.prompts,
        "clips (size, sampler, noise seeds)": manifest.clips,
        "metrics": run.measures,
        "training samples": manifest.perturbation.get("sample_stream_sha256"),
        f"checkpoint of the {scores.training.iloc[0]} model": manifest.system.get("sha256"),
    }


def _model(study: Study, run: Run, start: str, strategy: str, group: str) -> Model:
    """The fine-tuned model of a run, at its last step; for the strategy "none" the start, at step 0."""
    scores, names = study.of(run), [measure.name for measure in run.measures]
    first, last = int(scores.step.min()), int(scores.step.max())
    tuned = strategy != NONE
    step = last if tuned else first
    return Model(
        start=start,
        strategy=strategy,
        group=group,
        parameters=int(run.manifest.perturbation["parameters"]) if tuned else 0,
        magnitude=run.magnitude.get(step, math.nan),
        levels={name: level_curve(scores, name).at(step) for name in names},
        changes={name: change_curve(scores, name).at(step) for name in names} if tuned else {},
    )


# tables ---------------------------------------------------------------------------------------------------------------


def table_csv(comparison: Comparison) -> str:
    """Every measure: its mean, the half-width of the interval, and both of the paired change."""
    return pd.DataFrame([_numbers(model, comparison.measures) for model in comparison.models]).to_csv(index=False)


def _numbers(model: Model, measures: Sequence[Measure]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "start": model.start,
        "strategy": model.strategy,
        "group": model.group,
        "trained_parameters": model.parameters,
        "magnitude": model.magnitude,
    }
    for name in (measure.name for measure in measures):
        level, change = model.levels[name], model.changes.get(name, Estimate(math.nan, math.nan, 0))
        row |= {name: level.mean, f"{name}_half_width": level.half_width}
        row |= {f"{name}_change": change.mean, f"{name}_change_half_width": change.half_width}
    return row


def table_markdown(comparison: Comparison) -> str:
    """The measures `SHOWN`, and under each mean its change, bold where the interval excludes 0."""
    measured = {measure.name: measure for measure in comparison.measures}
    measures = [measured[name] for name in SHOWN if name in measured]
    lines = [
        ["start", "strategy", "trained", "‖Δ‖/‖θ‖", *(measure.label for measure in measures)],
        ["---", "---", "---", "--:", *("--:" for _ in measures)],
    ]
    for model in comparison.models:
        size = "" if model.strategy == NONE else f"{model.magnitude:.1%}"
        cells = [_markdown(model, measure, comparison.models) for measure in measures]
        lines.append([model.start, model.strategy, model.group, size, *cells])
    note = (
        f"Means over {comparison.size} ± half-width of the 95 % Student-t interval over prompts. Under them the change "
        "from the start (strategy none), paired by prompt and noise; bold where its interval excludes 0. ↑ ↓ better "
        "direction, ↕ two-sided. `table.csv` has all measures."
    )
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + f"\n{note}\n"


def _markdown(model: Model, measure: Measure, models: Sequence[Model]) -> str:
    """Level and change, each with the digits of its column; a drift is a change already."""
    name = measure.name
    level, change = model.levels[name], model.changes.get(name)
    lines = [cell(level, decimals(other.levels[name].mean for other in models)) if level.n else "–"]
    if change and change.n and measure.axis != "drift":
        text = cell(change, decimals(other.changes[name].mean for other in models if other.changes), sign="+")
        lines.append(f"**{text}**" if change.excludes_zero else text)
    return "<br>".join(lines)
