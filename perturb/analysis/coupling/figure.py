"""The figures of a coupling study. They compute no statistics.

Colour and marker are a training (full, partial), a thin line or a dot is one pair of twins, a dashed line is a random
control.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from perturb.analysis import style
from perturb.analysis.coupling.curves import CellCurve, Results
from perturb.analysis.coupling.design import LORA, RANDOM, TRAININGS, Cell, Condition
from perturb.analysis.coupling.endpoints import Finding, headline
from perturb.analysis.coupling.fits import times
from perturb.analysis.plots import path, step_axis, titled
from perturb.analysis.statistics.endpoints import EVEN, PRIMARY
from perturb.analysis.statistics.estimates import Estimate

LOOK = "colourfulness"
"""The visual change that motion is shown against: D_I has more of it, and no movement of an object changes it."""
MARKER = {"full": "o", "partial": "^"}
ADVERB = {"full": "fully", "partial": "partially"}
DASHED = (0, (4, 2))
WIDTH = 10.0
"""Inches, as the figure of one run."""
COLUMNS, PANEL = 3, 2.7
"""Conditions beside each other, and inches of their height."""
ROW = 0.78
"""Inches of a condition in the answer."""


def figures(results: Results) -> Iterator[tuple[str, Figure]]:
    """All figures by name."""
    with mpl.rc_context(style.RC):
        yield "answer", answer_figure(results)
        yield "curves", _grid(results, curves_panel, "motion quality", _keys(results))
        yield "loss", _grid(results, loss_panel, "loss on D_I", _loss_keys())
        yield "dose", dose_figure(results)


# the answer -----------------------------------------------------------------------------------------------------------


def answer_figure(results: Results) -> Figure:
    """Both endpoints by condition: a mean with its interval, a dot per pair, and the gate in words."""
    found = results.findings
    figure = Figure(figsize=(WIDTH, 1.9 + ROW * len(found)), layout="constrained")
    figure.suptitle(headline(found), x=0.01, ha="left", fontsize=11, fontweight="bold", wrap=True, parse_math=False)
    primary, co_primary = figure.subplots(1, 2, sharey=True, width_ratios=[1.6, 1])
    for y, finding in enumerate(found):
        shares = [(pair.full.mean(), pair.partial.mean()) for pair in finding.pairs.values()]
        ahead = [pair.ahead.mean() for pair in finding.pairs.values() if pair.ahead is not None]
        whisker(primary, y, finding, finding.decision.difference, [full - partial for full, partial in shares])
        whisker(co_primary, y, finding, finding.decision.superiority, ahead)
        primary.annotate(_basis(finding), (0, y), xycoords=("axes fraction", "data"), xytext=(4, -19), **BENEATH)
    _forest(primary, found, 0.0, "share of motion kept along the path, full − partial")
    _forest(co_primary, found, EVEN, "how often full keeps the steadier path")
    keys = [
        Line2D(
            [], [], color=style.INK, linewidth=2.4, marker="D", label="mean, 95 % interval over pairs (cut at the edge)"
        ),
        Line2D([], [], color=style.QUIET, linewidth=2.4, marker="D", mfc="white", label="without a verdict"),
        Line2D([], [], color=style.QUIET, linestyle="", marker="o", alpha=0.7, label="one pair of twins"),
    ]
    figure.legend(handles=keys, loc="outside lower center", ncols=3)
    return figure


BENEATH: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7.5, "color": style.QUIET, "va": "center"}


def whisker(ax: Axes, y: float, finding: Finding, estimate: Estimate | None, pairs: Sequence[float]) -> Axes:
    """A mean with its interval and the pairs; hollow without a verdict, which is written out; no number on a floor."""
    verdict = finding.decision.is_conclusive
    colour = style.INK if verdict else style.QUIET
    if finding.has_number and estimate is not None:
        ax.plot(pairs, [y] * len(pairs), "o", color=style.QUIET, alpha=0.7, markersize=4, zorder=1)
        ax.plot([estimate.low, estimate.high], [y, y], color=colour, linewidth=2.4, solid_capstyle="butt")
        face = colour if verdict else "white"
        ax.plot([estimate.mean], [y], marker="D", color=colour, markerfacecolor=face, markersize=6)
    words = {"weight": "bold", "fontsize": 8, "color": style.INK if verdict else style.COLLAPSE}
    at = ax.get_yaxis_transform()
    said = "not measured" if finding.has_number and estimate is None else finding.verdict
    ax.text(0.5, y - 0.33, said, transform=at, ha="center", va="center", **words)
    return ax


def _basis(finding: Finding) -> str:
    found = finding.decision
    distance = " and ".join(dict.fromkeys(map(times, finding.distances)))
    kept = "" if np.isnan(found.full.mean) else f"full keeps {found.full.mean:.0%}, partial {found.partial.mean:.0%} · "
    return f"{kept}{finding.rests_on} · fits: {finding.convergence} · D_I: {distance}"


def _furthest(found: Sequence[Finding]) -> float:
    """The largest difference that must be seen: those of pairs, and ends of intervals, but for those over two pairs."""
    seen = [finding for finding in found if finding.has_number]
    pairs = [pair.full.mean() - pair.partial.mean() for finding in seen for pair in finding.pairs.values()]
    over = [finding.decision.difference for finding in seen if finding.decision.pairs != 2]
    return float(np.abs([0.0, *pairs, *(end for each in over for end in (each.low, each.high))]).max())


def _forest(ax: Axes, found: Sequence[Finding], none: float, title: str) -> None:
    """Names at the left, a rule at no difference, the first row on top."""
    ax.axvline(none, color=style.QUIET, linewidth=0.8, linestyle=DASHED)
    ax.set_yticks(range(len(found)), [str(finding.condition).replace(", ", "\n") for finding in found])
    ax.set_ylim(len(found) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="x")
    # of a probability all there is; else up to what must be seen: t over two pairs is so wide that it hides the rest
    reach = EVEN if none == EVEN else max(0.05, 1.15 * _furthest(found))
    ax.set_xlim(none - reach, none + reach)
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.set_title(title)


# along the steps ------------------------------------------------------------------------------------------------------


def _grid(results: Results, draw: Callable[..., Axes], label: str, keys: Sequence[Artist]) -> Figure:
    """A panel per condition; ``draw`` takes an ax, the results and the condition."""
    conditions = [finding.condition for finding in results.findings]
    columns = min(COLUMNS, len(conditions))
    rows = -(-len(conditions) // columns)
    size = (WIDTH * max(columns, 1.8) / COLUMNS, 0.7 + PANEL * rows)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for ax in axes[len(conditions) :]:
        ax.set_visible(False)
    for ax, condition in zip(axes[: len(conditions)], conditions, strict=True):
        draw(ax, results, condition)
        step_axis(ax, results.design.samples[condition].steps, apart=0.12)
        ax.grid(axis="y")
        ax.tick_params(labelbottom=True)
        ax.set_xlabel("perturbation step")
    axes[0].set_ylim(bottom=0)  # at last: it ends the scaling of all
    for ax in axes[::columns]:
        ax.set_ylabel(label)
    figure.legend(handles=list(keys), loc="outside lower center", ncols=3 if len(conditions) > 1 else 1)
    return figure


def curves_panel(ax: Axes, results: Results, condition: Condition) -> Axes:
    """Motion quality of both models: pairs thin, their mean with its band; controls dashed."""
    steps = results.design.samples[condition].steps
    finding = next(each for each in results.findings if each.condition == condition)
    for cell in results.cells(condition):
        if curve := results.curves.get((cell, PRIMARY)):
            if cell.kind == LORA and len(curve.pairs) > 1:
                for of_pair in curve.pairs.values():
                    ax.plot(steps, of_pair, color=style.TRAINING_COLOUR[cell.training], linewidth=0.6, alpha=0.6)
            _draw(ax, steps, curve.levels, cell)
    return titled(ax, str(condition).capitalize(), finding.verdict)


def loss_panel(ax: Axes, results: Results, condition: Condition) -> Axes:
    """The loss on D_I of every pair and model, and 1.5 × that of the untouched model on its own stills."""
    said = []
    for training in TRAININGS:
        colour = style.TRAINING_COLOUR[training]
        for fit in results.fits.get(Cell(training, condition, LORA), {}).values():
            said.append(fit.horizon.converged)
            if fit.losses:
                ax.plot(fit.steps, fit.losses, color=colour, marker=MARKER[training], markersize=3, linewidth=1.1)
            if fit.level is not None:
                ax.axhline(fit.level, color=colour, linewidth=0.8, linestyle=DASHED)
    known = [each for each in said if each is not None]
    words = f"{sum(known)} of {len(said)} fits have converged" if known else "not recorded by these runs"
    return titled(ax, str(condition).capitalize(), words)


def dose_figure(results: Results) -> Figure:
    """Motion kept, against ‖Δ‖/‖θ‖ and against the look; a row per condition. Shares of the start."""
    conditions = [finding.condition for finding in results.findings]
    figure = Figure(figsize=(WIDTH, 0.7 + PANEL * len(conditions)), layout="constrained")
    axes = figure.subplots(len(conditions), 2, sharey=True, squeeze=False)
    for condition, (dose, look) in zip(conditions, axes, strict=True):
        for cell in results.cells(condition):
            motion, looks = results.curves.get((cell, PRIMARY)), results.curves.get((cell, LOOK))
            if motion and motion.shares:
                _draw(dose, results.doses[cell].tolist(), motion.shares, cell)
                if looks and looks.shares:
                    _draw(look, _means(looks), motion.shares, cell)
        titled(dose, str(condition).capitalize())
        dose.set_xlabel("perturbation  ‖Δ‖ / ‖θ‖")
        look.set_xlabel(f"{LOOK}, as a share of the start")
        dose.set_ylabel("motion quality, share of start")
        for ax in (dose, look):
            ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))  # whole per cents
            ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
            ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
            ax.grid(axis="y")
    axes[0, 0].set_ylim(bottom=0)
    figure.legend(handles=_keys(results, pairs=False), loc="outside lower center", ncols=5)
    return figure


def _means(curve: CellCurve) -> list[float]:
    return [share.mean for share in curve.shares]


def _draw(ax: Axes, x: Sequence[float], levels: Sequence[Estimate], cell: Cell) -> None:
    """The mean of a cell; the band of a control would hide that of its LoRA."""
    control: dict[str, Any] = {"linestyle": DASHED, "linewidth": 1.1, "markersize": 3.5} if cell.kind == RANDOM else {}
    look = {"marker": MARKER[cell.training], **control}
    path(ax, x, levels, colour=style.TRAINING_COLOUR[cell.training], band=cell.kind == LORA, **look)


def _keys(results: Results, *, pairs: bool = True) -> list[Artist]:
    """What colours, markers and dashes mean, as far as the study has them; ``pairs``: whether each is drawn."""
    keys: list[Artist] = [*_models()]
    if any(cell.kind == RANDOM for cell in results.doses):
        label = "random Δ of the same norm"
        keys.append(Line2D([], [], color=style.QUIET, linestyle=DASHED, linewidth=1.1, label=label))
    if pairs and max(finding.decision.pairs for finding in results.findings) > 1:
        keys.append(Line2D([], [], color=style.QUIET, linewidth=0.6, label="one pair of twins"))
    return [*keys, Patch(color=style.QUIET, alpha=0.25, linewidth=0, label="95 % interval")]


def _loss_keys() -> list[Artist]:
    label = "1.5 × the loss of the untouched model on its own stills"
    return [*_models(), Line2D([], [], color=style.QUIET, linestyle=DASHED, linewidth=0.8, label=label)]


def _models() -> list[Line2D]:
    return [
        Line2D([], [], color=style.TRAINING_COLOUR[name], marker=MARKER[name], label=f"{ADVERB[name]} trained")
        for name in TRAININGS
    ]
