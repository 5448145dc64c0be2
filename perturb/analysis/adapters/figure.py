"""The figure of a ranking: motion kept against look gained. It computes no statistics."""

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from perturb.analysis import style
from perturb.analysis.adapters.ranking import Ranking


def ranking_figure(ranking: Ranking) -> Figure:
    """One point per adapter; the untouched model where the two lines cross."""
    with mpl.rc_context(style.RC):
        figure = Figure(figsize=(6.4, 4.4), layout="constrained")
        ranking_map(figure.subplots(), ranking)
        return figure


def ranking_map(ax: Axes, ranking: Ranking) -> Axes:
    """Estimates with their 95 % intervals; those of the first front are filled."""
    ax.axhline(1, color=style.QUIET, linewidth=0.8, linestyle=(0, (4, 3)))
    ax.axvline(0.5, color=style.QUIET, linewidth=0.8, linestyle=(0, (4, 3)))
    for each in ranking.standings:
        if not (each.kept.n and each.look.n):
            continue
        at, hue = (each.look.mean, each.kept.mean), style.MOTION if each.front == 1 else style.QUIET
        ax.errorbar(
            *at, xerr=each.look.half_width, yerr=each.kept.half_width,
            fmt="o", capsize=2, linewidth=1.2, color=hue, markerfacecolor=hue if each.front == 1 else "white",
        )  # fmt: skip
        ax.annotate(each.adapter, at, xytext=(6, 5), textcoords="offset points", fontsize=8)
    ax.set_xlabel("looks better than without (share of comparisons)")
    ax.set_ylabel("motion kept")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.margins(0.12)
    ax.set_title("Motion kept and look gained; dashed: the model without an adapter")
    return ax
