"""The cross-talk matrix as a heat map. It computes no statistics."""

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from perturb.analysis import style
from perturb.analysis.crosstalk.crosstalk import scales, written

COLOURS = LinearSegmentedColormap.from_list("less_more", style.DIVERGING)
CELL = (0.5, 0.2)
"""Inches of a cell."""


def crosstalk_map(ax: Axes, table: pd.DataFrame) -> Axes:
    """Distortions down, metrics across; blue is less and orange is more than in the clean clip.

    Colour: the relative change, full at ± 100 %; for absolute changes, the share of the metric's largest one.
    """
    metrics = list(table.drop_duplicates("metric").metric)
    cases = table.drop_duplicates(["distortion", "strength"])
    wide = table.pivot(index=["distortion", "strength"], columns="metric", values="change")
    changes = wide.loc[list(zip(cases.distortion, cases.strength, strict=True)), metrics]
    absolute, largest = scales(table)
    ax.imshow((changes / largest).clip(-1, 1), cmap=COLOURS, vmin=-1, vmax=1, aspect="auto")
    for (y, x), change in np.ndenumerate(changes.to_numpy(dtype=float)):
        dark = abs(change / largest.iloc[x]) > 0.7
        text = written(change, absolute=bool(absolute.iloc[x]))
        ax.text(x, y, text, ha="center", va="center", fontsize=6, color="white" if dark else style.INK)
    _name_metrics(ax, table, metrics, absolute)
    _name_cases(ax, cases)
    ax.set_xlabel(
        "median change from the clean clip · blue less, orange more, empty below ½ %\n"
        "colour is full at ±100 %, of a difference at the largest of its column",
        fontsize=8,
    )
    return ax


def _name_metrics(ax: Axes, table: pd.DataFrame, metrics: list[str], absolute: pd.Series) -> None:
    """Names on top, in the colour of their axis; a rule where the axis changes."""
    axes = table.drop_duplicates("metric").set_index("metric").axis.loc[metrics]
    notes = np.where(absolute, "  (difference)", "")
    labels = [f"{name.replace('_', ' ')}{note}" for name, note in zip(metrics, notes, strict=True)]
    ax.set_xticks(range(len(metrics)), labels, rotation=50, ha="left", rotation_mode="anchor")
    ax.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0, pad=3)
    for label, axis in zip(ax.get_xticklabels(), axes, strict=True):
        label.set_color(style.AXIS_COLOUR[axis])
    for x in range(1, len(metrics)):
        if axes.iloc[x] != axes.iloc[x - 1]:
            ax.axvline(x - 0.5, color=style.INK, linewidth=0.8)


def _name_cases(ax: Axes, cases: pd.DataFrame) -> None:
    """Strengths at the rows, the name of the distortion at its first, a rule between distortions."""
    strengths = [
        f"{strength:g} {'' if pd.isna(unit) else unit}".strip()
        for strength, unit in zip(cases.strength, cases.unit, strict=True)
    ]
    ax.set_yticks(range(len(cases)), strengths, fontsize=7)
    names = list(cases.distortion)
    for y, name in enumerate(names):
        if y == 0 or names[y - 1] != name:
            place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
            ax.annotate(name, (0, y), (-76, 0), ha="right", va="center", fontsize=8, annotation_clip=False, **place)
            ax.axhline(y - 0.5, color=style.QUIET, linewidth=0.5)
    ax.spines[:].set_visible(False)


def crosstalk_figure(table: pd.DataFrame) -> Figure:
    """The map at a size that leaves every cell readable."""
    metrics, cases = table.metric.nunique(), len(table.drop_duplicates(["distortion", "strength"]))
    with mpl.rc_context(style.RC):
        figure = Figure(figsize=(2.6 + CELL[0] * metrics, 1.3 + CELL[1] * cases), layout="constrained")
        crosstalk_map(figure.subplots(), table)
    return figure
