"""The figure of a landscape: surfaces over α_S × α_T, and where they do not add up. It computes no statistics."""

from collections.abc import Iterable, Mapping

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from perturb.analysis import style
from perturb.analysis.heat import DIVERGING, estimate_map
from perturb.analysis.landscape.landscape import Landscape, Surface
from perturb.analysis.plots import titled
from perturb.analysis.replicates import BOTH_MODELS
from perturb.analysis.statistics.contrast import Floats, Nested
from perturb.analysis.statistics.endpoints import PRIMARY

VISUAL = "colourfulness"
WIDTH, ROW = 13.0, 3.3
SEQUENTIAL = "cividis"
SPACE, TIME = r"spatial scale $\alpha_S$", r"temporal scale $\alpha_T$"
LINES = 8
"""Contours of a surface, at most."""
SHADES = 25
EDGE = 0.05
"""No label of a contour nearer to the edge than this share of the axis."""


def landscape_figure(landscape: Landscape) -> Figure:
    """A row per model (and their difference), and a column each for motion, visual change, I and J."""
    with mpl.rc_context(style.RC):
        rows = landscape.trainings
        figure = Figure(figsize=(WIDTH, ROW * len(rows) + 0.5), layout="constrained")
        axes = figure.subplots(len(rows), 4, squeeze=False)
        for training, line in zip(rows, axes, strict=True):
            for metric, ax in zip((PRIMARY, VISUAL), line[:2], strict=True):
                surface = landscape.surface(training, metric)
                _surface(ax, landscape, surface, f"{metric.replace('_', ' ').capitalize()}, {training}")
        motion = {training: landscape.surface(training, PRIMARY) for training in rows}
        sums = {training: surface and surface.interaction for training, surface in motion.items()}
        products = {training: surface and surface.excess for training, surface in motion.items()}
        _cells(axes[:, 2], landscape, "Beyond the sum", sums)
        _cells(axes[:, 3], landscape, "Beyond the product of shares", products)
        text = (
            f"Scale 1: the LoRAs at step {landscape.step}. Dots: sampled states. Motion quality beyond the sum: "
            "Y(α_S, α_T) − Y(α_S, 0) − Y(0, α_T) + Y(0, 0).\nBeyond the product, of shares K = Y/Y(0, 0): "
            "K(α_S, α_T) − K(α_S, 0) K(0, α_T). Means over prompts ± half-width of the 95 % interval, bold where it "
            "excludes 0."
        )
        figure.supxlabel(text, fontsize=8, color=style.QUIET, x=0.01, ha="left")
        return figure


def _surface(ax: Axes, landscape: Landscape, surface: Surface | None, title: str) -> None:
    titled(ax, title)
    if surface is None:
        ax.text(0.5, 0.5, "not measured", ha="center", va="center", color=style.QUIET)
        return
    means = {s.training: s.values.mean(axis=(0, 1)) for s in landscape.surfaces if s.metric == surface.metric}
    mean = means.pop(surface.training)
    if surface.training == BOTH_MODELS:
        limit = float(np.abs(mean).max())
        contours(ax, landscape, mean, cmap=DIVERGING, limits=(-limit, limit))
    else:  # one scale for all models
        models = [mean, *(other for training, other in means.items() if training != BOTH_MODELS)]
        contours(ax, landscape, mean, cmap=SEQUENTIAL, limits=(float(np.min(models)), float(np.max(models))))


def contours(ax: Axes, landscape: Landscape, mean: Floats, *, cmap: str, limits: tuple[float, float]) -> Axes:
    """Filled and labelled contours of i j means over α_S (x) and α_T (y), a dot for every cell that was sampled."""
    x, y = np.meshgrid(landscape.spatial, landscape.temporal, indexing="ij")
    if np.ptp(mean) > 1e-9:
        ax.contourf(x, y, mean, levels=np.linspace(limits[0], limits[1], SHADES), cmap=cmap)
        levels = MaxNLocator(LINES).tick_values(limits[0], limits[1])
        lines = ax.contour(x, y, mean, levels=levels, colors=style.INK, linewidths=0.8)
        for label in ax.clabel(lines, fontsize=7.5, inline=False):
            label.set_path_effects([withStroke(linewidth=2, foreground="white")])
            across, up = label.get_position()
            inside = (EDGE < part / whole < 1 - EDGE for part, whole in ((across, x.max()), (up, y.max())))
            label.set_visible(all(inside))  # at the edge it would be cut
    ax.plot(x.ravel(), y.ravel(), ".", color=style.INK, markersize=3, clip_on=False)
    ax.set_xticks(landscape.spatial, [f"{scale:g}" for scale in landscape.spatial])
    ax.set_yticks(landscape.temporal, [f"{scale:g}" for scale in landscape.temporal])
    ax.set_xlabel(SPACE)
    ax.set_ylabel(TIME)
    return ax


def _cells(column: Iterable[Axes], landscape: Landscape, title: str, values: Mapping[str, Floats | None]) -> None:
    """One measure of departure (s p i j by model), on one scale of colours."""
    inner = {training: each[:, :, 1:, 1:] for training, each in values.items() if each is not None}
    spread = max((float(np.abs(each.mean(axis=(0, 1))).max()) for each in inner.values()), default=1.0)
    columns, rows = ([f"{scale:g}" for scale in scales[1:]] for scales in (landscape.spatial, landscape.temporal))
    for (training, _), ax in zip(values.items(), column, strict=True):
        titled(ax, f"{title}, {training}")
        if training not in inner:
            ax.text(0.5, 0.5, "not measured", ha="center", va="center", color=style.QUIET)
            continue
        y = inner[training]
        estimates = [[Nested.of(y[:, :, i, j]).over_both for i in range(y.shape[2])] for j in range(y.shape[3])]
        estimate_map(ax, estimates[::-1], rows[::-1], columns, spread=spread or 1.0)
        ax.set_xlabel(SPACE)
        ax.set_ylabel(TIME)
