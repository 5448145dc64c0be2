"""The figures of a study step by step: trade-off, gap, collapse, profile, frames of both models. No statistics here.

Colour, marker and dashes are those of `coupling.figure`; every function draws on the ``ax`` it is given.
"""

from collections.abc import Iterator, Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from perturb.analysis import style
from perturb.analysis.coupling.comparisons import PRIMARY_CONDITION, PRIMARY_METRIC, CellCurve, Results
from perturb.analysis.coupling.design import LORA, TRAININGS, Cell, Condition
from perturb.analysis.coupling.figure import ADVERB, DASHED, MARKER, WIDTH
from perturb.analysis.coupling.stepwise import COLLAPSE, THRESHOLDS, Gap, Kept, Stepwise
from perturb.analysis.notation import formula
from perturb.analysis.plots import contact_sheet, path, step_axis, titled
from perturb.analysis.statistics.aggregates import KEPT
from perturb.analysis.strips import Pair, load_pairs

LOOKS = ("colourfulness", "watermark_trace", "sharpness")
"""What motion is traded for: D_I is colourful, crisp and bears no mark."""
EVERY = 5
"""Thresholds between two markers of a profile."""


def figures(results: Results, stepwise: Stepwise) -> Iterator[tuple[str, Figure]]:
    """All of them by name; the frames only where clips are there."""
    with mpl.rc_context(style.RC):
        yield "tradeoff", tradeoff_figure(results)
        yield "stepwise", stepwise_figure(results, stepwise)
        if pairs := load_pairs(results.design, PRIMARY_CONDITION):
            yield "frames", frames_figure(pairs)


def tradeoff_figure(results: Results) -> Figure:
    """Motion quality against visual measures along the steps; a row per condition, a column per measure."""
    conditions = results.design.conditions(LORA)
    looks = [name for name in LOOKS if all((cell, name) in results.curves for cell in results.design.runs)]
    figure = Figure(figsize=(WIDTH, 0.6 + 3.0 * len(conditions)), layout="constrained")
    axes = figure.subplots(len(conditions), max(len(looks), 1), sharey=True, sharex="col", squeeze=False)
    for row, condition in zip(axes, conditions, strict=True):
        for ax, look in zip(row[: len(looks)], looks, strict=True):
            for training in TRAININGS:
                cell = Cell(training, condition, LORA)
                curves = results.curves[cell, look], results.curves[cell, PRIMARY_METRIC]
                tradeoff_path(ax, *curves, results.design.steps, training)
            titled(ax, str(condition).capitalize())
            ax.xaxis.set_major_locator(MaxNLocator(4))
            ax.grid()
            ax.tick_params(labelbottom=True)
            ax.set_xlabel(look.replace("_", " "))
        row[0].set_ylabel("motion quality")
    axes[0, 0].set_ylim(bottom=0)
    figure.legend(handles=_models(), loc="outside lower center", ncols=3)
    return figure


def tradeoff_path(ax: Axes, visual: CellCurve, motion: CellCurve, steps: Sequence[int], training: str) -> Axes:
    """The path of one model through (visual, motion) as the steps grow; from a hollow start to a named end."""
    x = [level.over_prompts.mean for level in visual.levels]
    y = [level.over_prompts.mean for level in motion.levels]
    colour = style.TRAINING_COLOUR[training]
    ax.plot(x, y, marker=MARKER[training], color=colour)
    ax.plot(x[:1], y[:1], linestyle="", marker=MARKER[training], color=colour, markerfacecolor="white", markersize=7)
    away = {"xytext": (0, -11 if training == "partial" else 7), "textcoords": "offset points", "ha": "center"}
    ax.annotate(str(steps[-1]), (x[-1], y[-1]), **away, fontsize=7, color=style.QUIET)
    return ax


def stepwise_figure(results: Results, stepwise: Stepwise) -> Figure:
    """A row per condition: the gap between the models, the rate of collapse, and the profile at the end."""
    gaps = [gap for gap in stepwise.gaps if gap.kind == LORA]
    figure = Figure(figsize=(WIDTH, 0.6 + 2.9 * len(gaps)), layout="constrained")
    axes = figure.subplots(len(gaps), 3, sharex="col", sharey="col", squeeze=False)
    for row, gap in zip(axes, gaps, strict=True):
        gap_over_steps(row[0], gap, results.design.steps)
        collapse_rate(row[1], results, stepwise, gap.condition)
        kept = [k for k in stepwise.kept if k.cell.condition == gap.condition and k.cell.kind == LORA]
        performance_profile(row[2], kept)
        titled(row[0], str(gap.condition).capitalize(), "motion lost, full − partial; below 0: full lost more")
        titled(
            row[1], "Share of clips collapsed", f"solid: {100 * (1 - KEPT):.0f} % of start lost; dashed: standing still"
        )
        titled(row[2], f"Profile at step {results.design.steps[-1]}", "share above τ; thin: at the start")
        for ax in row:
            ax.tick_params(labelbottom=True)
    for ax, label in zip(axes[-1], ("perturbation step", "perturbation step", "motion quality τ"), strict=True):
        ax.set_xlabel(label)
    for ax in axes[:, 0]:
        ax.set_ylabel("gap in motion quality")
    keys = [*_models()[:2], Patch(color=style.QUIET, alpha=0.25, linewidth=0, label="95 % interval")]
    keys.append(Patch(color=style.QUIET, alpha=0.12, linewidth=0, label="95 % at all steps together, over prompts"))
    figure.legend(handles=keys, loc="outside lower center", ncols=4)
    return figure


def gap_over_steps(ax: Axes, gap: Gap, steps: Sequence[int]) -> Axes:
    """The difference of changes with its interval at every step and, wider, the band that holds at all of them."""
    ax.axhline(0, color=style.QUIET, linewidth=0.8, linestyle=DASHED)
    together = gap.together
    ax.fill_between(steps, [i.low for i in together], [i.high for i in together], color=style.INK, alpha=0.1, lw=0)
    path(ax, steps, [at.over_both for at in gap.difference], colour=style.INK, markersize=4)
    ax.grid(axis="y")
    return step_axis(ax, steps, apart=0.12)


def collapse_rate(ax: Axes, results: Results, stepwise: Stepwise, condition: Condition) -> Axes:
    """The share of clips that stand still, and of trajectories that have lost the most of their start, by step."""
    steps = results.design.steps
    for training in TRAININGS:
        cell = Cell(training, condition, LORA)
        colour = style.TRAINING_COLOUR[training]
        if static := results.curves.get((cell, COLLAPSE)):
            levels = [level.over_both for level in static.levels]
            path(ax, steps, levels, colour=colour, band=False, linestyle=DASHED, marker=MARKER[training], markersize=3)
        kept = next(k for k in stepwise.kept if k.cell == cell)
        ax.plot(steps, kept.collapsed_by(steps), color=colour, marker=MARKER[training])
    ax.set_ylim(-0.03, 1.03)
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    ax.grid(axis="y")
    return step_axis(ax, steps, apart=0.12)


def performance_profile(ax: Axes, cells: Sequence[Kept]) -> Axes:
    """P(motion quality > τ) against τ at the last step, with its interval; thin, the same at the first."""
    for kept in cells:
        colour, marker = style.TRAINING_COLOUR[kept.cell.training], MARKER[kept.cell.training]
        start, end = ([at.over_both for at in profile] for profile in kept.profiles)
        ax.plot(
            THRESHOLDS, [at.mean for at in start], color=colour, linewidth=0.8, marker=marker, markevery=EVERY, ms=2.5
        )
        path(ax, THRESHOLDS.tolist(), end, colour=colour, marker=marker, markevery=EVERY, markersize=3.5)
    ax.set_ylim(-0.03, 1.03)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    ax.grid(axis="y")
    return ax


def frames_figure(pairs: Sequence[Pair]) -> Figure:
    """Contact sheets: every frame of a prompt in both models, a row of frames per step."""
    clip = next(iter(pairs[0].first.values()))
    t, h, w = clip.shape[:3]
    sheet = (WIDTH / 2 - 0.6) * len(pairs[0].first) * h / (t * w)
    figure = Figure(figsize=(WIDTH, (sheet + 1.05) * len(pairs)), layout="constrained")
    rows = figure.subfigures(len(pairs), 1, squeeze=False)[:, 0]
    for part, pair in zip(rows, pairs, strict=True):
        part.suptitle(f"“{pair.prompt}”: {pair.detail}", x=0.01, ha="left", fontsize=9, parse_math=False)
        axes = part.subplots(1, 2, sharey=True)
        for ax, clips, training in zip(axes, (pair.first, pair.second), TRAININGS, strict=True):
            contact_sheet(ax, clips, title="")
            ax.set_title(formula(training, PRIMARY_CONDITION.group), parse_math=True)
        axes[0].set_ylabel("perturbation step")
    return figure


def _models() -> list[Line2D]:
    keys = [
        Line2D([], [], color=style.TRAINING_COLOUR[name], marker=MARKER[name], label=f"{ADVERB[name]} trained")
        for name in TRAININGS
    ]
    return [*keys, Line2D([], [], color=style.QUIET, marker="o", mfc="white", linestyle="", label="step 0")]
