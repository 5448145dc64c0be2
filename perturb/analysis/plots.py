"""Plots: every function draws on the ``ax`` it is given and returns it, and computes no statistics.

Axis letters: t frames, h w pixels, c colour channels.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator
from PIL import Image

from perturb.analysis.statistics.estimates import Curve, Estimate
from perturb.analysis.style import QUIET
from perturb.disks import convenience
from perturb.store.rundir import replacing

CELL = 256
"""Pixels of the longer side of a frame in a strip; smaller frames are enlarged by whole factors, unsmoothed."""
GUTTER = 0.06
"""Space between two frames of a strip, as a share of the frame's height."""


def curve(ax: Axes, line: Curve, *, colour: str, label: str = "", band: bool = True, **style: Any) -> Axes:
    """Means against step as a line, their intervals as a band; ``style`` goes to matplotlib's plot.

    States that lie along no steps stand beside each other, with a bar for the interval.
    """
    if line.positions == line.points:
        return path(ax, line.positions, line.estimates, colour=colour, label=label, band=band, **style)
    means, widths = zip(*((e.mean, e.half_width if band else 0.0) for e in line.estimates), strict=True)
    ax.errorbar(line.positions, means, widths, fmt="o", color=colour, label=label, markersize=4, linewidth=1.2)
    return ax


def path(
    ax: Axes,
    x: Sequence[float],
    estimates: Sequence[Estimate],
    *,
    colour: str,
    label: str = "",
    band: bool = True,
    **style: Any,
) -> Axes:
    """`curve` against any x, in the order given. Where x turns back, bars: a band would fold over itself."""
    points = [(at, e.mean, e.low, e.high) for at, e in zip(x, estimates, strict=True) if e.n]
    known, mean, low, high = np.array(points, dtype=float).reshape(-1, 4).T
    ax.plot(known, mean, color=colour, label=label, **{"marker": "o", **style})
    if band and (np.diff(known) >= 0).all():
        ax.fill_between(known, low, high, color=colour, alpha=0.18, linewidth=0)
    elif band:
        ax.vlines(known, low, high, color=colour, alpha=0.4, linewidth=1.2)
    return ax


def step_axis(ax: Axes, steps: Sequence[Any], *, apart: float = 0.06) -> Axes:
    """Ticks at the probe steps, labelled where two labels would be further ``apart`` than this share of the axis."""
    shown = legible(steps, apart)
    span = max(steps[-1] - steps[0], 1)
    ax.set_xlim(steps[0] - 0.04 * span, steps[-1] + 0.04 * span)
    ax.xaxis.set_major_locator(FixedLocator(list(steps)))
    ax.xaxis.set_major_formatter(FixedFormatter([str(step) if step in shown else "" for step in steps]))
    return ax


def state_axis(ax: Axes, labels: Sequence[str]) -> Axes:
    """A tick for every state that lies along no steps, its label upright."""
    ax.set_xlim(-0.5, len(labels) - 0.5)
    ax.set_xticks(range(len(labels)), labels, rotation=90, fontsize=7)
    return ax


def magnitude_axis(ax: Axes, magnitude: Mapping[Any, float], steps: Sequence[Any]) -> Axes:
    """A second axis on top with ‖Δ‖/‖θ‖ at the probe steps where it is known."""
    known = [step for step in steps if step in magnitude]
    if known:
        top = ax.secondary_xaxis("top")
        top.set_xlabel("perturbation  ‖Δ‖ / ‖θ‖", labelpad=5)
        shown = legible(known, 0.11)
        top.xaxis.set_major_locator(FixedLocator(known))
        top.xaxis.set_major_formatter(FixedFormatter([_percent(magnitude[s]) if s in shown else "" for s in known]))
        top.spines["top"].set_visible(True)
    return ax


def change_panel(ax: Axes, line: Curve, *, colour: str, title: str, detail: str = "") -> Axes:
    """A small panel: paired change from the first step, a rule at no change, ``detail`` in grey under the title."""
    ax.axhline(0, color=QUIET, linewidth=0.8, linestyle=(0, (4, 3)))
    curve(ax, line, colour=colour, linewidth=1.4, markersize=3)
    titled(ax, title, detail, fontsize=8.5)
    low, high = ax.get_ylim()
    if high - low < 1e-9:  # nothing changed: without this the axis would show rounding errors
        ax.set_ylim(-0.1, 0.1)
    ax.yaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 2.5, 5, 10]))
    ax.ticklabel_format(axis="y", style="plain", useOffset=False)  # a factor like 1e-5 would lie on the detail
    return ax


def frame_strip(ax: Axes, clips: Mapping[Any, np.ndarray], *, title: str, detail: str = "") -> Axes:
    """First, middle and last frame (rows) of one prompt's clips (uint8 t h w c) at the given steps (columns)."""
    columns = [_thumbnails(clip) for clip in clips.values()]
    height, width = columns[0][0].shape[:2]
    gap = round(GUTTER * height)
    canvas = np.full((3 * (height + gap) - gap, len(columns) * (width + gap) - gap, 3), 255, np.uint8)
    for x, column in enumerate(columns):
        for y, frame in enumerate(column):
            canvas[y * (height + gap) :, x * (width + gap) :][:height, :width] = frame
    ax.imshow(canvas)
    ax.set_anchor("W")
    ax.set_xticks([x * (width + gap) + width / 2 for x in range(len(columns))], [str(step) for step in clips])
    ax.set_yticks([y * (height + gap) + height / 2 for y in range(3)], ["first", "middle", "last"])
    ax.tick_params(length=0, pad=3)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("perturbation step" if all(isinstance(each, int) for each in clips) else "state", labelpad=3)
    return titled(ax, title, detail)


def titled(ax: Axes, title: str, detail: str = "", **style: Any) -> Axes:
    """A title at the left, dollar signs taken literally, and beneath it, smaller and grey, a detail."""
    ax.set_title(title, pad=16 if detail else 5, parse_math=False, **style)
    ax.annotate(detail, (0, 1), (0, 4.5), xycoords="axes fraction", textcoords="offset points", color=QUIET, fontsize=8)
    return ax


def save(figure: Figure, png: Path) -> tuple[Path, Path]:
    """Write a figure as png and, beside it, as pdf; returns both paths. The same figure gives the same bytes."""
    logging.getLogger("fontTools").setLevel(logging.ERROR)  # it remarks on the creation date of a bundled font
    # each canvas draws once; savefig would draw everything a second time, to lay it out
    with replacing(png) as temporary:
        FigureCanvasAgg(figure).print_png(temporary)
    figure.set_layout_engine("none")  # keep the layout just made
    pdf = png.with_suffix(".pdf")
    with replacing(pdf) as temporary:
        FigureCanvasPdf(figure).print_pdf(temporary, metadata={"CreationDate": None})
    return png, pdf


def save_beside(figure: Figure, png: Path) -> tuple[Path, ...]:
    """`save` of a figure that goes with tables: a warning, and no path, where the disk does not take it."""
    with convenience("figures are"):
        return save(figure, png)
    return ()


def legible(steps: Sequence[int], apart: float) -> set[int]:
    """Steps whose labels do not touch: the last always, then from the left whatever keeps its distance.

    >>> sorted(legible([0, 5, 10, 50, 100], 0.09))
    [0, 10, 50, 100]
    """
    distance = apart * (steps[-1] - steps[0])
    shown = [steps[0]]
    for step in steps[1:-1]:
        if step - shown[-1] >= distance and steps[-1] - step >= distance:
            shown.append(step)
    return {*shown, steps[-1]}


def _percent(share: float) -> str:
    return "0" if share == 0 else f"{100 * share:.2g} %"


def _thumbnails(clip: np.ndarray) -> list[np.ndarray]:
    """First, middle and last frame at the size of a cell: enlarged without smoothing, or reduced by Lanczos."""
    frames = [clip[0], clip[len(clip) // 2], clip[-1]]
    longer = max(clip.shape[1:3])
    if longer <= CELL:
        factor = CELL // longer
        return [frame.repeat(factor, axis=0).repeat(factor, axis=1) for frame in frames]
    size = (round(clip.shape[2] * CELL / longer), round(clip.shape[1] * CELL / longer))
    return [np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS)) for frame in frames]
