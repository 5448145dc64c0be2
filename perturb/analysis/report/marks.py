"""What the interactive charts of a report share: Vega-Lite made with Altair. Nothing is computed here.

Colour and point shape are a training, a dashed line is a random control. A row is one point: a dict of plain values.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from perturb.analysis import style
from perturb.analysis.statistics.estimates import Estimate

SHOWN = "shown"
"""The parameter by which the player tells a chart at which step it stands."""
NAMES = {"full": "fully trained", "partial": "partially trained"}
LORA_LINE, RANDOM_LINE = "LoRA", "random"
HEIGHT = 210
STEP, DOSE, VALUE = "step:Q", "dose:Q", "mean:Q"
SHARE = alt.Axis(format=".0%", tickMinStep=0.01)
WORDS = {"training", "kind", "what", "when", "state", "condition", "pair"}
BOUNDS = ("training", "kind", "step", "dose", "mean", "low", "high")
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Panel:
    """One chart under its title, with a line on how to read it."""

    title: str
    detail: str
    spec: dict[str, Any]


@dataclass(frozen=True)
class Section:
    """Charts that answer one question."""

    title: str
    lead: str
    panels: tuple[Panel, ...]


def lines(
    rows: Rows, x: str, x_title: str, y_title: str, *, percent: bool = False, chosen: str = "true"
) -> list[alt.Chart]:
    """A line with its band per training and kind; a control without a band, or it would hide that of its LoRA.

    ``chosen``: a Vega expression that selects the rows to draw.
    """
    y_axis = SHARE if percent else alt.Axis()
    base = chart(rows).transform_filter(chosen)
    base = base.encode(alt.X(x, title=x_title, axis=SHARE) if x == DOSE else steps(rows, x_title), colour(rows))
    several = len({row["kind"] for row in rows}) > 1
    scale = alt.Scale(domain=[LORA_LINE, RANDOM_LINE], range=[[1, 0], [5, 3]])
    dash = alt.StrokeDash("kind:N", title=None, scale=scale, legend=alt.Legend() if several else None)
    band = base.transform_filter(f"datum.kind == '{LORA_LINE}'").mark_area(opacity=0.18)
    known = [name for name in BOUNDS if any(row.get(name) is not None for row in rows)]
    return [
        band.encode(alt.Y("low:Q", axis=y_axis), alt.Y2("high:Q")),
        base.mark_line().encode(alt.Y(VALUE, title=y_title, axis=y_axis), dash, order=STEP),
        points(base, rows).encode(alt.Y(VALUE), tooltip=tips(known)),
    ]


def states(rows: Rows, x_title: str, y_title: str, *, chosen: str = "true") -> list[alt.Chart]:
    """A point with its interval for every state that lies along no steps, in the order of the rows."""
    axis = alt.Axis(labelAngle=-60, labelLimit=140)
    base = chart(rows).transform_filter(chosen).encode(alt.X("state:N", sort=None, title=x_title, axis=axis))
    base = base.encode(colour(rows))
    known = [name for name in ("state", *BOUNDS) if any(row.get(name) is not None for row in rows)]
    return [
        base.mark_rule(strokeWidth=2).encode(alt.Y("low:Q", title=y_title), alt.Y2("high:Q")),
        points(base, rows).encode(alt.Y(VALUE, title=y_title), tooltip=tips(known)),
    ]


def steps(rows: Rows, title: str = "perturbation step") -> alt.X:
    """The axis of probe steps, with a tick at each."""
    ticks = sorted({row["step"] for row in rows})
    return alt.X(STEP, title=title, axis=alt.Axis(values=ticks, labelOverlap="greedy"))


def with_player(layers: Sequence[alt.Chart]) -> Any:
    """The layers with an upright rule at the step that the player shows."""
    rule = chart([{}]).transform_calculate(at=SHOWN).mark_rule(color=style.QUIET, strokeDash=[3, 3])
    return alt.layer(rule.encode(alt.X("at:Q")), *layers).add_params(alt.param(name=SHOWN, value=0))


def chart(rows: Rows) -> alt.Chart:
    """An empty chart over rows; values that are None stay gaps."""
    return alt.Chart(alt.Data(values=rows))


def points(base: alt.Chart, rows: Rows) -> alt.Chart:
    """Points with the shape of their training."""
    scale = alt.Scale(domain=_trainings(rows), range=["circle", "triangle-up"])
    return base.mark_point(filled=True, size=55, opacity=1).encode(alt.Shape("training:N", title=None, scale=scale))


def colour(rows: Rows) -> alt.Color:
    """The colour of each training in the rows."""
    colours = {NAMES[training]: hue for training, hue in style.TRAINING_COLOUR.items()}
    names = _trainings(rows)
    scale = alt.Scale(domain=names, range=[colours.get(name, style.INK) for name in names])
    return alt.Color("training:N", title=None, scale=scale)


def _trainings(rows: Rows) -> list[str]:
    """The names in the rows, the full model first wherever there is one."""
    found = dict.fromkeys(row["training"] for row in rows)
    return sorted(found, key=[*NAMES.values(), *found].index)


def no_difference(*, upright: bool = False) -> alt.Chart:
    """A rule at 0."""
    rule = chart([{"zero": 0}]).mark_rule(color=style.QUIET, strokeDash=[4, 3])
    return rule.encode(alt.X("zero:Q")) if upright else rule.encode(alt.Y("zero:Q"))


def choice(name: str, rows: Rows, value: str) -> alt.Parameter:
    """A menu of what the rows have under ``name``; selects by ``is_chosen(name)``."""
    options = list(dict.fromkeys(str(row[name]) for row in rows))
    labels = [option.replace("_", " ") for option in options]
    menu = alt.binding_select(options=options, labels=labels, name=f"{name} ")
    return alt.param(name=f"{name}_choice", value=value if value in options else options[0], bind=menu)


def is_chosen(*names: str) -> str:
    """The Vega expression for rows that the menus of these names select."""
    return " && ".join(f"datum.{name} == {name}_choice" for name in names)


def tips(names: Sequence[str]) -> list[alt.Tooltip]:
    """What a pointer sees: words as they are, numbers with four digits."""
    return [alt.Tooltip(f"{name}:N") if name in WORDS else alt.Tooltip(f"{name}:Q", format=".4~g") for name in names]


def bounds(estimate: Estimate) -> dict[str, float | None]:
    """Mean, low and high of an estimate."""
    return {"mean": known(estimate.mean), "low": known(estimate.low), "high": known(estimate.high)}


def known(value: float) -> float | None:
    """Five digits are enough for an eye; JSON knows no NaN.

    >>> known(0.12345678), known(math.nan)
    (0.12346, None)
    """
    return float(f"{value:.5g}") if math.isfinite(value) else None


def spec(made: Any, height: Any = HEIGHT) -> dict[str, Any]:
    """Vega-Lite of a chart as wide as its place on the page, in the look of the page."""
    axis = alt.AxisConfig(
        labelColor=style.INK,
        titleColor=style.INK,
        titleFontWeight="normal",
        gridColor="#e8e8e8",
        domainColor=style.QUIET,
        tickColor=style.QUIET,
        labelFontSize=11,
        titleFontSize=12,
    )
    styled = made.properties(width="container", height=height).configure(
        font="system-ui, sans-serif",
        background="transparent",
        autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
        axis=axis,
        legend=alt.LegendConfig(orient="bottom", labelFontSize=12, symbolSize=90, symbolOpacity=1),
        view=alt.ViewConfig(stroke=None),
    )
    found = styled.to_dict()
    # Legends in a line each: side by side they are cut in a narrow chart. Altair has no word for it.
    found["config"]["legend"]["layout"] = {"bottom": {"direction": "vertical"}}
    return found
