"""The interactive charts of a coupling study. They compute no statistics."""

from collections.abc import Iterator, Sequence

import altair as alt

from perturb.analysis import style
from perturb.analysis.coupling.comparisons import LEADING, PRIMARY_CONDITION, PRIMARY_METRIC
from perturb.analysis.coupling.design import KINDS, LORA, TRAININGS, Cell, Condition
from perturb.analysis.coupling.stepwise import COLLAPSE, THRESHOLDS
from perturb.analysis.notation import symbol
from perturb.analysis.report.content import Coupling
from perturb.analysis.report.marks import (
    DOSE,
    LORA_LINE,
    NAMES,
    RANDOM_LINE,
    SHARE,
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
    steps,
    tips,
    with_player,
)
from perturb.analysis.report.words import capital, contrast_in_words
from perturb.analysis.statistics.aggregates import KEPT
from perturb.analysis.statistics.contrast import Nested

STEPS = "perturbation step"
HOME = str(PRIMARY_CONDITION)
"""What a menu of conditions shows first."""


def leading_panel(coupling: Coupling) -> Panel:
    """The primary condition: motion quality of both models along the steps."""
    cells = [Cell(training, PRIMARY_CONDITION, kind) for kind in KINDS for training in TRAININGS]
    layers = lines(_rows(coupling, cells), STEP, STEPS, "motion quality")
    detail = "Means over prompts with 95 % intervals. The upright line is where the player stands."
    return Panel("Motion quality under the spatial perturbation", detail, spec(with_player(layers), 260))


def sections(coupling: Coupling) -> Iterator[Section]:
    """Every section, in reading order."""
    conditions = coupling.results.design.conditions(LORA)
    if len(conditions) > 1:
        yield Section(
            "Every condition, step by step",
            "What was perturbed, and how a still stood in for a video. Dashed, where there are: random controls.",
            tuple(_condition_panel(coupling, condition) for condition in conditions),
        )
    yield Section(
        "The gap between the models",
        "Change of motion quality from step 0, full − partial, in pairs of the same prompt and noise. Below 0 the full "
        "model lost more. Dark band: 95 % at a step; pale band: 95 % at all steps together, over prompts alone.",
        tuple(_gap_panel(coupling, condition) for condition in conditions),
    )
    yield Section(
        "At equal dose, and for equal looks",
        "Equal steps are not equal perturbation: motion against ‖Δ‖/‖θ‖, and against a visual measure.",
        (*_dose_panels(coupling, conditions), *_tradeoff_panels(coupling)),
    )
    yield Section(
        "Collapse, and how motion is spread",
        "A mean does not say whether all clips lose a little or some lose all.",
        (_collapse_panel(coupling), _profile_panel(coupling)),
    )
    yield Section(
        "All contrasts of motion quality",
        "Difference of slopes per 100 steps. Thick: 95 % over prompts × LoRA seeds; thin: over LoRA seeds alone.",
        (_forest_panel(coupling),),
    )
    yield Section("Every measure", "Choose a measure and a condition.", (_explorer_panel(coupling),))


def _condition_panel(coupling: Coupling, condition: Condition) -> Panel:
    names = " and ".join(symbol(training, condition.group) for training in TRAININGS)
    layers = lines(_rows(coupling, _cells(coupling, condition)), STEP, STEPS, "motion quality")
    return Panel(capital(str(condition)), names, spec(alt.layer(*layers)))


def _gap_panel(coupling: Coupling, condition: Condition) -> Panel:
    gap = next(g for g in coupling.stepwise.gaps if (g.condition, g.kind) == (condition, LORA))
    rows = [
        {
            "step": step,
            **bounds(gap.difference[i].over_both),
            "band low": known(gap.together[i].low),
            "band high": known(gap.together[i].high),
            "adjusted p": known(gap.band.p[i]),
            "P(full ahead)": known(gap.improvement[i].value),
        }
        for i, step in enumerate(coupling.results.design.steps)
    ]
    base = chart(rows).encode(steps(rows))
    point = alt.OverlayMarkDef(filled=True, size=45, color=style.INK)
    seen = tips(["step", "mean", "low", "high", "band low", "band high", "adjusted p", "P(full ahead)"])
    layers = [
        base.mark_area(opacity=0.1, color=style.INK).encode(alt.Y("band low:Q"), alt.Y2("band high:Q")),
        base.mark_area(opacity=0.18, color=style.INK).encode(alt.Y("low:Q"), alt.Y2("high:Q")),
        no_difference(),
        base.mark_line(color=style.INK, point=point).encode(alt.Y(VALUE, title="gap in motion quality"), tooltip=seen),
    ]
    detail = "On the points: p adjusted for the steps, probability that the full model is ahead."
    return Panel(capital(str(condition)), detail, spec(alt.layer(*layers)))


def _dose_panels(coupling: Coupling, conditions: Sequence[Condition]) -> Iterator[Panel]:
    for condition in conditions:
        if rows := _rows(coupling, _cells(coupling, condition), shares=True):
            layers = lines(rows, DOSE, "‖Δ‖ / ‖θ‖", "share of the start", percent=True)
            title = f"{capital(str(condition))}: at equal dose"
            yield Panel(title, "Motion kept, as a share of the start, against the size of Δ.", spec(alt.layer(*layers)))


def _tradeoff_panels(coupling: Coupling) -> Iterator[Panel]:
    """Paths through (visual, motion), measure and condition by choice; none without a visual measure."""
    design, curves = coupling.results.design, coupling.results.curves
    looks = [measure.name for measure in design.measures if measure.axis == "visual"]
    rows = [
        {
            **_names(cell),
            "measure": metric,
            "step": step,
            "visual": known(curve.levels[i].over_prompts.mean),
            "motion": known(curves[cell, PRIMARY_METRIC].levels[i].over_prompts.mean),
        }
        for (cell, metric), curve in curves.items()
        if metric in looks and cell.kind == LORA
        for i, step in enumerate(design.steps)
    ]
    if not rows:
        return
    x = alt.X("visual:Q", title="visual measure", scale=alt.Scale(zero=False, padding=10))
    base = chart(rows).transform_filter(is_chosen("measure", "condition"))
    base = base.encode(x, alt.Y("motion:Q", title="motion quality"), colour(rows))
    pale = alt.condition("datum.step == 0", alt.value(0.35), alt.value(1))
    marks = points(base, rows).encode(opacity=pale, tooltip=tips(["training", "step", "visual", "motion"]))
    made = alt.layer(base.mark_line().encode(order=STEP), marks)
    made = made.add_params(choice("measure", rows, "colourfulness"), choice("condition", rows, HOME))
    yield Panel("Trade-off path", "From the pale point, step 0, on.", spec(made))


def _collapse_panel(coupling: Coupling) -> Panel:
    probed, rows = coupling.results.design.steps, []
    for kept in coupling.stepwise.kept:
        if kept.cell.kind == LORA:
            lost = {**_names(kept.cell), "what": f"{100 * (1 - KEPT):.0f} % of the start lost"}
            shares = zip(probed, kept.collapsed_by(probed), strict=True)
            rows += [{**lost, "step": step, "mean": known(share)} for step, share in shares]
            if static := coupling.results.curves.get((kept.cell, COLLAPSE)):
                still = {**_names(kept.cell), "what": "standing still"}
                levels = zip(probed, static.levels, strict=True)
                rows += [{**still, "step": step, **bounds(level.over_both)} for step, level in levels]
    axis = alt.Y(VALUE, title="share of clips", axis=SHARE, scale=alt.Scale(domain=[0, 1]))
    base = chart(rows).transform_filter(is_chosen("condition"))
    base = base.encode(steps(rows), axis, colour(rows))
    dash = alt.StrokeDash("what:N", legend=None)
    marks = points(base, rows).encode(tooltip=tips(["training", "what", "step", "mean"]))
    made = alt.layer(base.mark_line().encode(dash), marks).add_params(choice("condition", rows, HOME))
    detail = "Solid: trajectories that have lost half of their own start; dashed: clips that stand still."
    return Panel("Collapse rate", detail, spec(made))


def _profile_panel(coupling: Coupling) -> Panel:
    probed = coupling.results.design.steps
    rows = [
        {**_names(kept.cell), "when": f"step {step}", "τ": float(tau), **bounds(at.over_both)}
        for kept in coupling.stepwise.kept
        if kept.cell.kind == LORA
        for step, profile in zip((probed[0], probed[-1]), kept.profiles, strict=True)
        for tau, at in zip(THRESHOLDS, profile, strict=True)
    ]
    made = chart(rows).transform_filter(is_chosen("condition")).mark_line().encode(
        alt.X("τ:Q", title="motion quality τ"),
        alt.Y(VALUE, title="share of clips above τ", axis=SHARE),
        colour(rows),
        alt.StrokeDash("when:N", legend=None, sort=[f"step {probed[-1]}", f"step {probed[0]}"]),
        tooltip=tips(["training", "when", "τ", "mean", "low", "high"]),
    )  # fmt: skip
    detail = "How many clips have more than τ: dashed at the start, solid at the last step."
    return Panel("Performance profile", detail, spec(made.add_params(choice("condition", rows, HOME))))


def _forest_panel(coupling: Coupling) -> Panel:
    rows = [
        {
            "contrast": contrast_in_words(row.comparison),
            "role": "leading reading" if row.is_primary else "secondary",
            **bounds(row.contrast.difference.over_both),
            **bounds(row.contrast.difference.over_seeds, "seed "),
            "test": row.contrast.test.name,
            "skewed": row.contrast.test.skewed,
            "p": known(row.contrast.test.p),
            "p Holm": known(row.p_holm),
            "p BH": known(row.p_bh),
        }
        for row in coupling.results.rows
        if row.comparison.metric == PRIMARY_METRIC and row.reading == LEADING
        if row.contrast.difference.over_prompts.n
    ]
    roles = alt.Scale(domain=["leading reading", "secondary"], range=[style.MOTION, style.INK])
    role = alt.Color("role:N", title=None, scale=roles, legend=alt.Legend(columns=1))
    names = alt.Y(
        "contrast:N",
        sort=None,
        title=None,
        axis=alt.Axis(labelExpr="split(datum.label, ': ')", labelLimit=0, grid=False),
    )
    seen = tips(["contrast", "mean", "low", "high", "seed low", "seed high", "test", "skewed", "p", "p Holm", "p BH"])
    base = chart(rows).encode(names)
    x = alt.X("low:Q", title=None, axis=alt.Axis(tickCount=8, labelOverlap=True))
    across = base.mark_rule(strokeWidth=3).encode(x)
    layers = [
        no_difference(upright=True),
        across.encode(alt.X2("high:Q"), role),
        base.mark_point(filled=True, size=70, opacity=1).encode(alt.X(VALUE), role, tooltip=seen),
    ]
    if any(row["seed low"] is not None for row in rows):
        seeds = base.mark_rule(strokeWidth=1, yOffset=7, color=style.QUIET)
        layers.append(seeds.encode(alt.X("seed low:Q"), alt.X2("seed high:Q")))
    detail = "On the points: the test and its p, and adjusted by Holm and by Benjamini and Hochberg."
    return Panel("Motion quality", detail, spec(alt.layer(*layers), 34 * len(rows)))


def _explorer_panel(coupling: Coupling) -> Panel:
    rows = [
        {**row, "measure": metric}
        for cell, metric in coupling.results.curves
        for row in _rows(coupling, [cell], metric)
    ]
    layers = lines(rows, STEP, STEPS, "mean", chosen=is_chosen("measure", "condition"))
    menus = choice("measure", rows, "colourfulness"), choice("condition", rows, HOME)
    detail = "Means over prompts with 95 % intervals."
    return Panel("Explorer", detail, spec(alt.layer(*layers).add_params(*menus), 280))


def _rows(coupling: Coupling, cells: Sequence[Cell], metric: str = PRIMARY_METRIC, *, shares: bool = False) -> Rows:
    """A row per cell and step, as far as the study has the cells; of shares none where they mean nothing."""
    results, rows = coupling.results, []
    for cell in cells:
        curve = results.curves.get((cell, metric))
        levels: Sequence[Nested] = () if curve is None else curve.shares if shares else curve.levels
        if curve is not None and levels:
            for step, dose, level in zip(results.design.steps, curve.dose, levels, strict=True):
                row = {**_names(cell), "step": step, "dose": known(dose), **bounds(level.over_both)}
                rows.append(row | bounds(level.over_seeds, "seed "))
    return rows


def _cells(coupling: Coupling, condition: Condition) -> list[Cell]:
    return [cell for cell in coupling.results.design.runs if cell.condition == condition]


def _names(cell: Cell) -> dict[str, str]:
    kind = LORA_LINE if cell.kind == LORA else RANDOM_LINE
    return {"training": NAMES[cell.training], "kind": kind, "condition": str(cell.condition)}
