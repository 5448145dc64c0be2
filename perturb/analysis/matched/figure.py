"""The figure of matched comparisons. It computes no statistics."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from perturb.analysis import style
from perturb.analysis.coupling.design import LORA, RANDOM, Condition, Design
from perturb.analysis.matched.matched import DOSE, Match
from perturb.analysis.plots import titled

WIDTH, ROW = 10.0, 2.6
NAMES = {DOSE: "‖Δ‖ / ‖θ‖ of both, in per cent", "colourfulness": "change of colourfulness of both"}
LABELS = {LORA: "LoRA", RANDOM: "random Δ of the same norm"}
LOOK: dict[str, dict[str, Any]] = {
    LORA: {"color": style.MOTION, "marker": "o"},
    RANDOM: {"color": style.QUIET, "marker": "s", "linestyle": "--"},
}


def matched_figure(design: Design, found: Sequence[Match]) -> Figure:
    """Motion kept, full − partial, against how far both have come: a row per axis, a column per condition."""
    shown = [m for m in found if m.scale == "relative" and m.comparison.first.kind == m.comparison.second.kind]
    axes_names = list(dict.fromkeys(match.axis for match in shown))
    conditions = design.conditions(LORA)
    with mpl.rc_context(style.RC):
        figure = Figure(figsize=(WIDTH, ROW * max(1, len(axes_names)) + 0.6), layout="constrained")
        axes = figure.subplots(max(1, len(axes_names)), len(conditions), squeeze=False, sharey=True)
        for axis, line in zip(axes_names, axes[: len(axes_names)], strict=True):
            for condition, ax in zip(conditions, line, strict=True):
                _panel(
                    ax, [m for m in shown if m.axis == axis and m.comparison.first.condition == condition], condition
                )
                ax.set_xlabel(NAMES.get(axis, f"{axis.replace('_', ' ')} of both"))
            line[0].set_ylabel("motion kept,\nfull − partial")
        kinds = {match.comparison.first.kind for match in shown}
        keys = [Line2D([], [], **look, label=LABELS[kind]) for kind, look in LOOK.items() if kind in kinds]
        keys.append(Line2D([], [], color=style.INK, linewidth=2.4, label="95 % interval"))
        if any(match.difference.over_seeds.n > 1 for match in shown):
            keys.append(Line2D([], [], color=style.INK, linewidth=0.8, label="95 % over LoRA seeds"))
        figure.legend(handles=keys, loc="outside lower center", ncols=len(keys))
        return figure


def _panel(ax: Axes, found: Sequence[Match], condition: Condition) -> None:
    ax.axhline(0, color=style.QUIET, linewidth=0.8, linestyle=(0, (4, 3)))
    for kind in LOOK:
        kept(ax, [match for match in found if match.comparison.first.kind == kind], kind)
    titled(ax, str(condition))
    ax.set_xlim(left=0)
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    ax.grid(axis="y")


def kept(ax: Axes, found: Sequence[Match], kind: str) -> Axes:
    """Differences against their level: a thick interval over prompts × LoRA seeds, a thin one over LoRA seeds."""
    differences = [match.difference for match in found]
    levels = [match.level for match in found]
    ax.plot(levels, [each.over_prompts.mean for each in differences], **LOOK[kind], linewidth=1.4)
    for level, each in zip(levels, differences, strict=True):
        for estimate, width in ((each.over_seeds, 0.8), (each.over_both, 2.4)):
            ax.plot([level] * 2, [estimate.low, estimate.high], color=LOOK[kind]["color"], linewidth=width)
    return ax
