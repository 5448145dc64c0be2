"""The figure of fine-tuning strategies. It computes no statistics."""

import math
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from perturb.analysis import style
from perturb.analysis.finetuning.finetuning import GROUPS, NONE, Comparison, Model
from perturb.analysis.plots import titled
from perturb.analysis.statistics.endpoints import PRIMARY
from perturb.analysis.statistics.estimates import Estimate
from perturb.analysis.table import cell, decimals

LOOKS = ("sharpness", "colourfulness", "watermark_trace", "watermark")
"""Motion is drawn against the first three of these that were measured."""
COLOUR = {"spatial": style.VISUAL, "temporal": style.MOTION, "both": style.COLLAPSE}
MARKER = {"spatial": "s", "temporal": "o", "both": "D"}


def finetuning_figure(comparison: Comparison) -> Figure:
    """Change of motion quality against change of three visual measures; a row of panels per start."""
    measured = {measure.name: measure for measure in comparison.measures}
    looks = [measured[name] for name in LOOKS if name in measured][:3]
    starts = [model for model in comparison.models if model.strategy == NONE]
    with mpl.rc_context(style.RC):
        figure = Figure(figsize=(10, 0.9 + 2.9 * len(starts)), layout="constrained")
        grid = figure.subplots(len(starts), len(looks), sharex="col", sharey=True, squeeze=False)
        for row, start in zip(grid, starts, strict=True):
            tuned = [model for model in comparison.models if model.start == start.start and model.changes]
            for ax, look in zip(row, looks, strict=True):
                change_plane(ax, tuned, look.name)
                titled(ax, f"{start.start}: {look.label}", f"start {_start(start, look.name)}")
            row[0].set_ylabel(f"change of motion quality ↑\nstart {_start(start, PRIMARY)}")
        for ax, look in zip(grid[-1], looks, strict=True):
            ax.set_xlabel(f"change of {look.label}")
        figure.legend(handles=_keys(), loc="outside lower center", ncols=5)
    return figure


def change_plane(ax: Axes, models: Sequence[Model], look: str) -> Axes:
    """One point per model, bars its two intervals, and rules at no change."""
    for rule in (ax.axhline, ax.axvline):
        rule(0, color=style.QUIET, linewidth=0.8, linestyle=(0, (4, 3)))
    for model in models:
        x, y = model.changes[look], model.changes[PRIMARY]
        if x.n and y.n:
            errors = {"xerr": _bar(x), "yerr": _bar(y), "elinewidth": 0.9}
            ax.errorbar(x.mean, y.mean, **errors, **_look(model.strategy, model.group), markersize=6.5)
    ax.xaxis.set_major_locator(MaxNLocator(4))
    return ax


def _start(model: Model, name: str) -> str:
    return cell(model.levels[name], decimals([model.levels[name].mean])).replace("±", " ± ")


def _bar(estimate: Estimate) -> float:
    return 0.0 if math.isnan(estimate.half_width) else estimate.half_width


def _look(strategy: str, group: str) -> dict[str, Any]:
    """Filled: direct; hollow: LoRA."""
    colour = COLOUR[group]
    face = colour if strategy == "direct" else "white"
    return {"color": colour, "marker": MARKER[group], "markerfacecolor": face, "linestyle": ""}


def _keys() -> list[Line2D]:
    keys = [Line2D([], [], **_look("direct", group), label=f"θ trained: {group}") for group in GROUPS]
    for strategy, face in (("direct", style.QUIET), ("LoRA", "white")):
        keys.append(Line2D([], [], color=style.QUIET, marker="o", linestyle="", markerfacecolor=face, label=strategy))
    return keys
