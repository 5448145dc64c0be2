"""The figures of a coupling study. They compute no statistics.

Colour and marker are a training (full, partial), a hollow marker is a still repeated to a video, a dashed line is a
random control.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from perturb.analysis import style
from perturb.analysis.coupling.comparisons import PRIMARY_METRIC, SECONDARY, CellCurve, Results, Row
from perturb.analysis.coupling.design import GROUPS, LORA, RANDOM, TRAININGS, Cell
from perturb.analysis.notation import formula
from perturb.analysis.plots import path, step_axis, titled
from perturb.analysis.statistics.contrast import READINGS, Nested

VISUAL = "colourfulness"
"""The visual change that motion is shown against: D_I has more of it, and no movement of an object changes it."""
MARKER = {"full": "o", "partial": "^"}
ADVERB = {"full": "fully", "partial": "partially"}
DASHED = (0, (4, 2))
WIDTH = 10.0
"""Inches, as the figure of one run."""
ROW = 0.25
"""Inches of a row of the forest."""
SLOPES = tuple(reading for reading in READINGS if reading.summary == "slope")
HEADINGS = {"primary": "full − partial, LoRA", "random": "full − partial, random Δ", "control": "LoRA − random Δ"}


def figures(results: Results) -> Iterator[tuple[str, Figure]]:
    """All figures by name."""
    with mpl.rc_context(style.RC):
        yield "curves", curves_figure(results)
        yield "dose", dose_figure(results)
        yield "contrasts", forest_figure(results)


def curves_figure(results: Results) -> Figure:
    """Motion quality against step, a panel per training × group: LoRA seeds thin, their mean with its band."""
    figure = Figure(figsize=(WIDTH, 7.0), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, sharey=True)
    for training, row in zip(TRAININGS, axes, strict=True):
        for group, ax in zip(GROUPS, row, strict=True):
            cells = [cell for cell in results.design.runs if (cell.training, cell.condition.group) == (training, group)]
            for cell in cells:
                _against_steps(ax, results, cell)
            step_axis(ax, results.design.steps)
            ax.tick_params(labelbottom=True)
            ax.grid(axis="y")
            titled(ax, f"{ADVERB[training].capitalize()} trained, {group} perturbation", _doses(results, cells))
            ax.set_title(formula(training, group), loc="right", pad=16)
    axes[0, 0].set_ylim(bottom=0)
    for ax in axes[:, 0]:
        ax.set_ylabel("motion quality")
    for ax in axes[-1]:
        ax.set_xlabel("perturbation step")
    seed = Line2D([], [], color=style.QUIET, linewidth=0.7, label="one LoRA seed")
    _legend(figure, [*_keys(results), seed])
    return figure


def _against_steps(ax: Axes, results: Results, cell: Cell) -> None:
    curve = results.curves[cell, PRIMARY_METRIC]
    if cell.kind == LORA:
        for seed in curve.seeds:
            ax.plot(results.design.steps, seed, color=style.TRAINING_COLOUR[cell.training], linewidth=0.7, alpha=0.8)
    _draw(ax, results.design.steps, curve.levels, cell)


def _doses(results: Results, cells: Sequence[Cell]) -> str:
    """What the LoRAs of a panel came to: ``‖Δ‖/‖θ‖ at step 300: 7.6 %``, by policy where there are several."""
    loras = [cell for cell in cells if cell.kind == LORA]
    parts = [f"{100 * results.curves[cell, PRIMARY_METRIC].dose[-1]:.1f} %" for cell in loras]
    if len(loras) > 1:
        parts = [f"{part} ({cell.condition.policy.replace('_', ' ')})" for part, cell in zip(parts, loras, strict=True)]
    return f"‖Δ‖/‖θ‖ at step {results.design.steps[-1]}: {', '.join(parts)}" if parts else ""


def dose_figure(results: Results) -> Figure:
    """Motion kept, against ‖Δ‖/‖θ‖ and against visual change; a column per group. Shares of the start."""
    rows: dict[str, Callable[[Cell], Sequence[float]]] = {
        "perturbation  ‖Δ‖ / ‖θ‖": lambda cell: results.curves[cell, PRIMARY_METRIC].dose.tolist(),
    }
    if all(_has_shares(results, cell, VISUAL) for cell in results.design.runs):
        rows[f"{VISUAL}, as a share of the start"] = lambda cell: _means(results.curves[cell, VISUAL])
    figure = Figure(figsize=(WIDTH, 0.6 + 3.3 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(GROUPS), sharey=True, squeeze=False)
    for (label, x), line in zip(rows.items(), axes, strict=True):
        for group, ax in zip(GROUPS, line, strict=True):
            for cell in results.design.runs:
                if cell.condition.group == group and _has_shares(results, cell, PRIMARY_METRIC):
                    _draw(ax, x(cell), results.curves[cell, PRIMARY_METRIC].shares, cell)
            titled(ax, f"{group.capitalize()} perturbation")
            ax.set_xlabel(label)
            ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))  # whole per cents
            ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
            ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
            ax.grid(axis="y")
        line[0].set_ylabel("motion quality, as a share of the start")
    axes[0, 0].set_ylim(bottom=0)
    _legend(figure, _keys(results))
    return figure


def _has_shares(results: Results, cell: Cell, metric: str) -> bool:
    return (cell, metric) in results.curves and bool(results.curves[cell, metric].shares)


def _means(curve: CellCurve) -> list[float]:
    return [share.over_prompts.mean for share in curve.shares]


def forest_figure(results: Results) -> Figure:
    """Every contrast with both of its intervals: motion quality in four readings, other measures by condition."""
    compared = [list(rows) for _, rows in groupby(results.rows, key=lambda row: row.comparison)]
    motion = [rows for rows in compared if rows[0].comparison.family not in SECONDARY]
    others = [rows[0] for rows in compared if rows[0].comparison.family in SECONDARY]
    others = [row for row in others if row.contrast.difference.spread > 0]
    names = list(dict.fromkeys(row.comparison.metric for row in others))
    headings = len({row[0].comparison.family for row in motion} & set(HEADINGS))
    heights = [ROW * (len(motion) + headings) + 1.1, ROW * len(names) + 1.1]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.4), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=heights, squeeze=False)[:, 0]
    above.suptitle("Motion quality: difference of slopes", x=0.01, ha="left", fontsize=10, fontweight="bold")
    _motion_forest(list(above.subplots(1, len(SLOPES), sharey=True)), motion)
    text = "Other measures, full − partial, LoRA: difference of slopes, in standard deviations between prompts"
    below.suptitle(text, x=0.01, ha="left", fontsize=10, fontweight="bold")
    conditions = results.design.conditions(LORA)
    panels = below.subplots(1, len(conditions), sharey=True, sharex=True, squeeze=False)[0]
    for ax, condition in zip(panels, conditions, strict=True):
        for row in (row for row in others if row.comparison.first.condition == condition):
            _whisker(ax, names.index(row.comparison.metric), row.contrast.difference.standardised, primary=False)
        _forest(ax, [name.replace("_", " ") for name in names], title=str(condition))
    keys = [
        Line2D([], [], color=style.INK, linewidth=2.4, marker="o", label="95 % over prompts × LoRA seeds"),
        Line2D([], [], color=style.QUIET, linewidth=0.9, marker="|", label="95 % over LoRA seeds"),
        Line2D([], [], color=style.MOTION, linewidth=2.4, marker="D", label="leading reading"),
    ]
    _legend(figure, keys)
    return figure


def _motion_forest(axes: Sequence[Axes], motion: Sequence[Sequence[Row]]) -> None:
    labels: list[str] = []
    places = []
    for rows in motion:
        comparison = rows[0].comparison
        if (heading := HEADINGS.get(comparison.family)) and heading not in labels:
            labels.append(heading)
        places.append(len(labels))
        model = f"{comparison.first.training}, " if comparison.family == "control" else ""
        labels.append(f"{model}{comparison.first.condition}")
    for ax, reading in zip(axes, SLOPES, strict=True):
        for y, rows in zip(places, motion, strict=True):
            for row in (row for row in rows if row.reading == reading):
                _whisker(ax, y, row.contrast.difference, primary=row.is_primary)
        _forest(ax, labels, title=reading.unit.replace("start ", "start\n"))


def _whisker(ax: Axes, y: float, difference: Nested, *, primary: bool) -> None:
    """A point with a thick interval over prompts × LoRA seeds, and beneath it a thin one over LoRA seeds."""
    both, seeds = difference.over_both, difference.over_seeds
    colour = style.MOTION if primary else style.INK
    ax.plot([both.low, both.high], [y, y], color=colour, linewidth=2.4, solid_capstyle="butt")
    ax.plot([both.mean], [y], color=colour, marker="D" if primary else "o", markersize=5.5 if primary else 4.5)
    ax.plot([seeds.low, seeds.high], [y + 0.27] * 2, color=style.QUIET, linewidth=0.9, marker="|", markersize=4)


def _forest(ax: Axes, labels: Sequence[str], *, title: str) -> None:
    """Names at the left, a rule at no difference, the first row on top."""
    ax.axvline(0, color=style.QUIET, linewidth=0.8, linestyle=(0, (4, 3)))
    ax.set_yticks(range(len(labels)), labels)
    for tick in ax.get_yticklabels():
        tick.set_fontweight("bold" if tick.get_text() in HEADINGS.values() else "normal")
    ax.set_ylim(len(labels) - 0.3, -0.7)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="x")
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.set_title(title)


def _draw(ax: Axes, x: Sequence[float], levels: Sequence[Nested], cell: Cell) -> None:
    """The mean of a cell; the band of a control would hide that of its LoRA."""
    estimates = [level.over_both for level in levels]
    path(ax, x, estimates, colour=style.TRAINING_COLOUR[cell.training], band=cell.kind == LORA, **_look(cell))


def _look(cell: Cell) -> dict[str, Any]:
    """How matplotlib draws a cell's line, but for its colour."""
    face = "white" if cell.condition.policy == "repeat" else style.TRAINING_COLOUR[cell.training]
    look = {"marker": MARKER[cell.training], "markerfacecolor": face}
    return look if cell.kind == LORA else {**look, "linestyle": DASHED, "linewidth": 1.1, "markersize": 3.5}


def _keys(results: Results) -> list[Artist]:
    """What colours, markers and dashes mean, as far as the study has them."""
    keys: list[Artist] = [
        Line2D(
            [], [], color=style.TRAINING_COLOUR[training], marker=MARKER[training], label=f"{ADVERB[training]} trained"
        )
        for training in TRAININGS
    ]
    policies = {cell.condition.policy for cell in results.design.runs}
    if len(policies) > 1:
        quiet: dict[str, Any] = {"color": style.QUIET, "linestyle": "", "marker": "s"}
        keys.append(Line2D([], [], **quiet, label="still as one frame"))
        keys.append(Line2D([], [], **quiet, markerfacecolor="white", label="still repeated"))
    if any(cell.kind == RANDOM for cell in results.design.runs):
        label = "random Δ of the same norm"
        keys.append(Line2D([], [], color=style.QUIET, linestyle=DASHED, linewidth=1.1, label=label))
    return [*keys, Patch(color=style.QUIET, alpha=0.25, linewidth=0, label="95 % interval")]


def _legend(figure: Figure, keys: Sequence[Artist]) -> None:
    figure.legend(handles=list(keys), loc="outside lower center", ncols=4 if len(keys) > 5 else len(keys))
