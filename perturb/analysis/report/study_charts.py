"""The interactive charts of a coupling study. They compute no statistics."""

from collections.abc import Iterator, Sequence
from statistics import fmean

import altair as alt

from perturb.analysis import style
from perturb.analysis.coupling.curves import Results
from perturb.analysis.coupling.design import LORA, TRAININGS, Cell, Condition
from perturb.analysis.coupling.endpoints import Finding
from perturb.analysis.notation import symbol
from perturb.analysis.report.marks import (
    DOSE,
    LORA_LINE,
    NAMES,
    RANDOM_LINE,
    STEP,
    VALUE,
    Panel,
    Rows,
    Section,
    bounds,
    chart,
    choice,
    colour,
    is_chosen,
    known,
    lines,
    no_difference,
    points,
    spec,
    tips,
    with_player,
)
from perturb.analysis.report.words import capital
from perturb.analysis.statistics.endpoints import CONVERGED, FLAT, PRIMARY

STEPS = "perturbation step"
MEANS = "Means over pairs with 95 % intervals; of one pair over its prompts and LoRA seeds."


def leading_panel(results: Results) -> Panel:
    """The first condition of the headline: motion quality of both models along the steps."""
    condition = results.primary.condition
    layers = lines(_rows(results, results.cells(condition)), STEP, STEPS, "motion quality")
    detail = f"{MEANS} The upright line is where the player stands."
    return Panel(f"Motion quality: {condition}", detail, spec(with_player(layers), 260))


def sections(results: Results) -> Iterator[Section]:
    """Every section, in reading order."""
    conditions = [finding.condition for finding in results.findings]
    if any(finding.has_number for finding in results.findings):
        yield Section(
            "The answer, condition by condition",
            "Share of motion kept along the path, full − partial: the mean with its 95 % interval, and every pair of "
            "twins. No number where both models lie on the floor.",
            (_answer_panel(results.findings),),
        )
    if len(conditions) > 1:
        yield Section(
            "Every condition, step by step",
            "What was perturbed, on which images. Dashed, where there are: random controls.",
            tuple(_condition_panel(results, condition) for condition in conditions),
        )
    if panels := tuple(_loss_panels(results)):
        yield Section(
            "Have the fits converged?",
            f"Loss on D_I along the steps. A fit has converged at {CONVERGED:g} × the loss of the untouched model on "
            f"its own stills, or where its second half brings at most {FLAT:.0%} of the fall.",
            panels,
        )
    yield Section(
        "At equal dose, and for equal looks",
        "Equal steps are not equal perturbation: motion against ‖Δ‖/‖θ‖, and against a visual measure.",
        (*_dose_panels(results, conditions), *_tradeoff_panels(results)),
    )
    yield Section("Every measure", "Choose a measure and a condition.", (_explorer_panel(results),))


def _answer_panel(findings: Sequence[Finding]) -> Panel:
    rows, pairs = [], []
    for finding in (each for each in findings if each.has_number):
        name = {"condition": f"{finding.condition}: {finding.verdict}"}
        rows.append({**name, "pairs": finding.decision.pairs, **bounds(finding.decision.difference)})
        for pair, each in finding.pairs.items():
            pairs.append({**name, "pair": pair, "mean": known(float(each.full.mean() - each.partial.mean()))})
    names = [f"{finding.condition}: {finding.verdict}" for finding in findings]
    axis = alt.Axis(labelExpr="split(datum.label, ': ')", labelLimit=0, grid=False)
    y = alt.Y("condition:N", scale=alt.Scale(domain=names), title=None, axis=axis)
    base = chart(rows).encode(y)
    x = alt.X("low:Q", title="full − partial", axis=alt.Axis(format="+.0%", tickCount=6))
    seen = tips(["condition", "pairs", "mean", "low", "high"])
    mean = base.mark_point(filled=True, size=90, shape="diamond", opacity=1, color=style.INK)
    dots = chart(pairs).encode(y).mark_point(filled=True, size=35, opacity=0.7, color=style.MOTION)
    layers = [
        no_difference(upright=True),
        base.mark_rule(strokeWidth=3).encode(x, alt.X2("high:Q")),
        mean.encode(alt.X(VALUE), tooltip=seen),
        dots.encode(alt.X(VALUE), tooltip=tips(["pair", "mean"])),
    ]
    return Panel("Motion kept, full − partial", "Dots: pairs.", spec(alt.layer(*layers), 56 * len(names)))


def _condition_panel(results: Results, condition: Condition) -> Panel:
    names = " and ".join(symbol(training, condition.group) for training in TRAININGS)
    layers = lines(_rows(results, results.cells(condition)), STEP, STEPS, "motion quality")
    return Panel(capital(str(condition)), names, spec(alt.layer(*layers)))


def _loss_panels(results: Results) -> Iterator[Panel]:
    """Of the conditions whose runs record their loss; the mean over pairs, and the level where a fit has converged."""
    for condition in (finding.condition for finding in results.findings):
        rows, levels = [], []
        for training in TRAININGS:
            cell = Cell(training, condition, LORA)
            fits = list(results.fits[cell].values())
            if all(fit.losses for fit in fits):
                means = (fmean(fit.losses[k] for fit in fits) for k in range(len(fits[0].steps)))
                named = zip(fits[0].steps, means, strict=True)
                rows += [{**_names(cell), "step": step, "mean": known(mean)} for step, mean in named]
                known_levels = [fit.level for fit in fits if fit.level is not None]
                levels += [{**_names(cell), "mean": fmean(known_levels)}] if known_levels else []
        if rows:
            rule = chart(levels).mark_rule(strokeDash=[4, 3]).encode(alt.Y(VALUE), colour(rows))
            layers = alt.layer(*lines(rows, STEP, STEPS, "loss on D_I")[1:], *([rule] if levels else []))  # no bands
            yield Panel(capital(str(condition)), f"Dashed: {CONVERGED:g} × the loss on own stills.", spec(layers))


def _dose_panels(results: Results, conditions: Sequence[Condition]) -> Iterator[Panel]:
    for condition in conditions:
        if rows := _rows(results, results.cells(condition), shares=True):
            layers = lines(rows, DOSE, "‖Δ‖ / ‖θ‖", "share of the start", percent=True)
            title = f"{capital(str(condition))}: at equal dose"
            yield Panel(title, "Motion kept, as a share of the start, against the size of Δ.", spec(alt.layer(*layers)))


def _tradeoff_panels(results: Results) -> Iterator[Panel]:
    """Paths through (visual, motion), measure and condition by choice; none without a visual measure."""
    looks = {m.name for sample in results.design.samples.values() for m in sample.measures if m.axis == "visual"}
    rows = [
        {
            **_names(cell),
            "measure": metric,
            "step": step,
            "visual": known(curve.levels[i].mean),
            "motion": known(results.curves[cell, PRIMARY].levels[i].mean),
        }
        for (cell, metric), curve in results.curves.items()
        if metric in looks and cell.kind == LORA and (cell, PRIMARY) in results.curves
        for i, step in enumerate(results.design.samples[cell.condition].steps)
    ]
    if not rows:
        return
    x = alt.X("visual:Q", title="visual measure", scale=alt.Scale(zero=False, padding=10))
    base = chart(rows).transform_filter(is_chosen("measure", "condition"))
    base = base.encode(x, alt.Y("motion:Q", title="motion quality"), colour(rows))
    pale = alt.condition("datum.step == 0", alt.value(0.35), alt.value(1))
    marks = points(base, rows).encode(opacity=pale, tooltip=tips(["training", "step", "visual", "motion"]))
    made = alt.layer(base.mark_line().encode(order=STEP), marks)
    made = made.add_params(choice("measure", rows, "colourfulness"), choice("condition", rows, _home(results)))
    yield Panel("Trade-off path", "From the pale point, step 0, on.", spec(made))


def _explorer_panel(results: Results) -> Panel:
    rows = [{**row, "measure": metric} for cell, metric in results.curves for row in _rows(results, [cell], metric)]
    layers = lines(rows, STEP, STEPS, "mean", chosen=is_chosen("measure", "condition"))
    menus = choice("measure", rows, "colourfulness"), choice("condition", rows, _home(results))
    return Panel("Explorer", MEANS, spec(alt.layer(*layers).add_params(*menus), 280))


def _home(results: Results) -> str:
    """What a menu of conditions shows first."""
    return str(results.primary.condition)


def _rows(results: Results, cells: Sequence[Cell], metric: str = PRIMARY, *, shares: bool = False) -> Rows:
    """A row per cell and step, as far as the study has the cells; of shares none where they mean nothing."""
    rows = []
    for cell in cells:
        if curve := results.curves.get((cell, metric)):
            placed = zip(results.design.samples[cell.condition].steps, results.doses[cell], strict=True)
            levels = curve.shares if shares else curve.levels
            for (step, dose), level in zip(placed, levels, strict=True) if levels else ():
                rows.append({**_names(cell), "step": step, "dose": known(dose), **bounds(level)})
    return rows


def _names(cell: Cell) -> dict[str, str]:
    kind = LORA_LINE if cell.kind == LORA else RANDOM_LINE
    return {"training": NAMES[cell.training], "kind": kind, "condition": str(cell.condition)}
