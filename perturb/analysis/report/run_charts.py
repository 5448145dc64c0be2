"""The interactive charts of one run."""

from collections.abc import Iterator, Sequence

import altair as alt

from perturb.analysis.coupling.comparisons import PRIMARY_METRIC
from perturb.analysis.notation import symbol
from perturb.analysis.report.content import name
from perturb.analysis.report.marks import (
    LORA_LINE,
    NAMES,
    STEP,
    Panel,
    Rows,
    Section,
    bounds,
    choice,
    is_chosen,
    lines,
    spec,
    with_player,
)
from perturb.analysis.result import Result


def leading_panel(result: Result) -> Panel:
    """Motion quality along the steps."""
    detail = "Mean over prompts with its 95 % interval. The upright line is where the player stands."
    return Panel("Motion quality", detail, spec(with_player(_motion(result)), 260))


def each(results: Sequence[Result]) -> Iterator[Section]:
    """Motion quality of runs that make no study, one chart each."""
    panels = (
        Panel(name(result.run), symbol(result.training, result.group), spec(alt.layer(*_motion(result))))
        for result in results
    )
    yield Section("Each run", "Motion quality, mean over prompts with its 95 % interval.", tuple(panels))


def sections(result: Result) -> Iterator[Section]:
    """Every measure, by choice."""
    rows = [
        {**row, "measure": measure.name}
        for measure in result.measures
        if result.levels[measure.name].measured
        for row in _rows(result, measure.name)
    ]
    if rows:
        layers = lines(rows, STEP, "perturbation step", "mean", chosen=is_chosen("measure"))
        menu = choice("measure", rows, "colourfulness")
        panel = Panel(
            "Explorer", "Means over prompts with 95 % intervals.", spec(alt.layer(*layers).add_params(menu), 260)
        )
        yield Section("Every measure", "Choose a measure.", (panel,))


def _motion(result: Result) -> list[alt.Chart]:
    return lines(_rows(result, PRIMARY_METRIC), STEP, "perturbation step", "motion quality")


def _rows(result: Result, metric: str) -> Rows:
    curve = result.levels.get(metric)
    who = {"training": NAMES.get(result.training, result.training), "kind": LORA_LINE}
    return [
        {**who, "step": step, "dose": result.run.magnitude.get(step), **bounds(curve.at(step))}
        for step in result.steps
        if curve
    ]
