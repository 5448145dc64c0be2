"""The figure of a blind test: how often the first side won, and the metrics' correlation with the votes."""

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from perturb.analysis import style
from perturb.analysis.plots import titled
from perturb.analysis.statistics.resampling import Interval
from perturb.analysis.votes.ranking import Correlation
from perturb.analysis.votes.votes import Preference

WIDTH, LINE = 8.0, 0.23
FRAME = 1.0
"""Inches of a panel around its lines."""


def votes_figure(question: str, found: Sequence[Preference], labels: Mapping[str, str]) -> Figure:
    """Win rates on top; beneath them a panel of metrics for each comparison that has some."""
    ranked = [each for each in found if each.metrics]
    heights = [FRAME + 2 * LINE * len(found), *(FRAME + LINE * len(each.metrics) for each in ranked)]
    with mpl.rc_context(style.RC):
        figure = Figure(figsize=(WIDTH, sum(heights) + 0.5), layout="constrained")
        figure.suptitle(textwrap.shorten(f"“{question}”", 100, placeholder=" …”"), fontsize=10, parse_math=False)
        axes = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
        win_rates(axes[0], found)
        for ax, each in zip(axes[1:], ranked, strict=True):
            correlations(ax, each.metrics, labels)
            titled(ax, f"Metrics against votes: {each.comparison}", "Spearman's ρ of first − second with the votes")
        return figure


def win_rates(ax: Axes, found: Sequence[Preference]) -> Axes:
    """A line per comparison, with how many people and pairs it rests on."""
    ax.axvline(0.5, color=style.QUIET, linewidth=0.8, linestyle=(0, (4, 3)))
    for y, each in enumerate(found):
        dot(ax, y, each.rate.value, each.rate.interval)
        count = each.counts
        about = f"{count['raters']} rater{'s' * (count['raters'] != 1)} × {count['pairs']} pairs"
        about += f"; no interval: {each.rate.reason}" if each.rate.reason else ""
        ax.annotate(
            about, (0.01, y), (0, -11), textcoords="offset points", va="center", color=style.QUIET, fontsize=7.5
        )
    ax.set_xlim(0, 1)
    ax.set_ylim(len(found) - 0.4, -0.6)
    ax.set_yticks(range(len(found)), [each.comparison for each in found], parse_math=False)
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    ax.set_xlabel("votes for the first; 95 % interval over prompts and raters")
    return titled(ax, "Which clip people preferred")


def correlations(ax: Axes, metrics: Mapping[str, Correlation], labels: Mapping[str, str]) -> Axes:
    """A line per metric, the largest |ρ| on top; those without a number say why."""
    ordered = sorted(metrics.items(), key=lambda item: -abs(item[1].rho) if item[1].rho == item[1].rho else 1)
    ax.axvline(0, color=style.QUIET, linewidth=0.8, linestyle=(0, (4, 3)))
    for y, (_, one) in enumerate(ordered):
        dot(ax, y, one.rho, one.interval)
        if one.rho != one.rho:
            ax.annotate(one.reason, (-0.98, y), va="center", color=style.QUIET, fontsize=7.5)
    ax.set_xlim(-1, 1)
    ax.set_ylim(len(ordered) - 0.4, -0.6)
    ax.set_yticks(range(len(ordered)), [labels[name] for name, _ in ordered])
    return ax


def dot(ax: Axes, y: float, value: float, interval: Interval) -> Axes:
    """A value and its interval, which may be absent."""
    ax.plot([interval.low, interval.high], [y, y], color=style.MOTION, linewidth=2.2, alpha=0.55, solid_capstyle="butt")
    ax.plot([value], [y], color=style.MOTION, marker="o")
    return ax
