"""The interactive charts of one run."""

from collections.abc import Iterator, Sequence

import altair as alt

from perturb.analysis.load import Point
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
    states,
    with_player,
)
from perturb.analysis.result import Result
from perturb.analysis.statistics.endpoints import PRIMARY


def leading_panel(result: Result) -> Panel:
    """Motion quality along the steps, or in every state."""
    if not result.is_curve:
        detail = "Mean over prompts with its 95 % interval, in every state."
        return Panel("Motion quality", detail, spec(alt.layer(*_motion(result)), 260))
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
        layers = _layers(result, rows, "mean", chosen=is_chosen("measure"))
        menu = choice("measure", rows, "colourfulness")
        panel = Panel(
            "Explorer", "Means over prompts with 95 % intervals.", spec(alt.layer(*layers).add_params(menu), 260)
        )
        yield Section("Every measure", "Choose a measure.", (panel,))


def _motion(result: Result) -> list[alt.Chart]:
    return _layers(result, _rows(result, PRIMARY), "motion quality")


def _layers(result: Result, rows: Rows, title: str, chosen: str = "true") -> list[alt.Chart]:
    if result.is_curve:
        return lines(rows, STEP, "perturbation step", title, chosen=chosen)
    return states(rows, ", ".join(result.run.coordinates), title, chosen=chosen)


def _rows(result: Result, metric: str) -> Rows:
    curve = result.levels.get(metric)
    who = {"training": NAMES.get(result.training, result.training), "kind": LORA_LINE}
    return [
        {**who, **_place(result, point), "dose": result.run.magnitude.get(point), **bounds(curve.at(point))}
        for point in result.points
        if curve
    ]


def _place(result: Result, point: Point) -> dict[str, Point]:
    return {"step": point} if result.is_curve else {"state": result.labels[point]}
