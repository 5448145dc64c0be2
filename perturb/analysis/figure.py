"""The figure of one run: motion quality and visual measures by state, and two prompts' frames along the states."""

import textwrap
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from perturb.analysis import style
from perturb.analysis.load import Measure
from perturb.analysis.notation import formula, in_words, origin, title
from perturb.analysis.plots import change_panel, curve, frame_strip, magnitude_axis, state_axis, step_axis
from perturb.analysis.result import Result
from perturb.analysis.statistics.endpoints import PRIMARY
from perturb.analysis.strips import Strip, load_strips
from perturb.analysis.table import cell, decimals, number

WIDTH = 10.0
"""Inches; in a README the figure is shown at about 80 pixels per inch."""
HEADER, CAPTION = 0.78, 1.0
CHARTS, PANEL_ROW = 1.0, 1.35
PANELS = 4
"""Small panels beside each other."""
WIDEST_CELL = 1.6
"""Inches of a frame in a strip, where few steps would leave room for more."""
COLLAPSE = "collapse"


def summary_figure(result: Result) -> Figure:
    """Draw the figure; a run whose clips were not copied gets it without the frame strips."""
    strips = load_strips(result)
    across, strip_height = _strip_layout(strips)
    panels = [m for m in result.measures if m.axis != "motion" and result.changes[m.name].measured]
    panel_rows = max(2, -(-len(panels) // PANELS))
    heights = [HEADER, CHARTS + PANEL_ROW * panel_rows, *[strip_height] * (len(strips) // max(across, 1))]
    with mpl.rc_context(style.RC):
        figure = Figure(figsize=(WIDTH, sum(heights)), layout=ConstrainedLayoutEngine(rect=(0, 0, 0.992, 1)))
        grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
        _header(figure.add_subfigure(grid[0]), result)
        charts = figure.add_subfigure(grid[1]).add_gridspec(1, 2, width_ratios=[1, 1.8])
        assert isinstance(charts.figure, SubFigure)
        _motion(charts.figure.add_subfigure(charts[0]), result)
        _panels(charts.figure.add_subfigure(charts[1]), panels, panel_rows, result)
        for i, strip in enumerate(strips):
            row = grid[2 + i // across].subgridspec(1, across)
            _strip(figure.add_subfigure(row[i % across]), strip, characters=140 // across)
    return figure


def _strip_layout(strips: Sequence[Strip]) -> tuple[int, float]:
    """(strips beside each other, inches of one row of them): square frames go side by side, wide ones do not."""
    if not strips:
        return 0, 0.0
    h, w = strips[0].frame_size
    across = len(strips) if w / h < 1.25 else 1
    cell_width = min(WIDEST_CELL, (WIDTH / across - 0.7) / len(strips[0].clips))
    return across, 3 * cell_width * h / w + CAPTION


def _header(part: SubFigure, result: Result) -> None:
    manifest = result.run.manifest
    part.text(0.008, 0.9, title(manifest), fontsize=13, fontweight="bold", va="top", parse_math=False)
    part.text(0.992, 0.9, formula(result.training, result.group), fontsize=14, va="top", ha="right")
    words = in_words(result.training, result.group)
    about = f"{words[0].upper()}{words[1:]} ({origin(manifest)}).\n"
    about += f"Means over {result.size}; bands: 95 % interval over prompts."
    if absent := [m.name.replace("_", " ") for m in result.measures if not result.levels[m.name].measured]:
        about += f" Not measured: {', '.join(absent)}."
    part.text(0.008, 0.52, about, fontsize=8.5, color=style.QUIET, va="top")


def _heading(part: SubFigure, text: str) -> None:
    part.suptitle(text, x=0.02, ha="left", fontsize=9, fontweight="bold")


def _motion(part: SubFigure, result: Result) -> None:
    ax = part.subplots()
    quality, collapse = result.levels.get(PRIMARY), result.levels.get(COLLAPSE)
    title = "Motion quality"
    if quality and quality.measured:
        curve(ax, quality, colour=style.MOTION, label="motion quality", linewidth=2.4, zorder=5)
        if result.is_curve and len(result.points) > 1:
            change = cell(result.changes[PRIMARY].at(result.points[-1]), 2, sign="+").replace("±", " ± ")
            title += f": {change} from step {result.points[0]} to {result.points[-1]}"
    if collapse and collapse.measured:
        curve(ax, collapse, colour=style.COLLAPSE, label="collapse rate", linestyle="--", marker="s", band=False)
    _heading(part, title)
    top = next((scale for scale in (0.25, 0.5) if ax.dataLim.y1 <= scale), 1.0)  # the same few scales in every figure
    ax.set_ylim(-0.03 * top, 1.03 * top)
    ax.grid(axis="y")
    ax.set_xlabel("perturbation step" if result.is_curve else ", ".join(result.run.coordinates))
    _axis(ax, result)
    if result.is_curve:
        magnitude_axis(ax, result.run.magnitude, quality.positions if quality else ())
    if ax.lines:
        ax.legend(loc="best")


def _panels(part: SubFigure, measures: Sequence[Measure], rows: int, result: Result) -> None:
    axes = part.subplots(rows, PANELS, sharex=True, squeeze=False)
    _heading(part, f"Other measures: paired change from {result.named(result.points[0])}   (↑ ↓ better, ↕ two-sided)")
    for i, ax in enumerate(axes.ravel()):
        if i >= len(measures):
            ax.set_visible(False)
            continue
        _panel(ax, measures[i], result)
        if i + PANELS >= len(measures):
            ax.tick_params(labelbottom=True)


def _panel(ax: Axes, measure: Measure, result: Result) -> None:
    start = result.levels[measure.name].estimates[0]
    change_panel(
        ax,
        result.changes[measure.name],
        colour=style.AXIS_COLOUR[measure.axis],
        title=measure.label,
        detail=f"{number(start.mean, decimals([start.mean]))} at {result.named(result.points[0])}" if start.n else "",
    )
    _axis(ax, result, apart=0.28)


def _axis(ax: Axes, result: Result, apart: float = 0.06) -> Axes:
    steps = [point for point in result.points if isinstance(point, int)]
    return step_axis(ax, steps, apart=apart) if steps else state_axis(ax, list(result.labels.values()))


def _strip(part: SubFigure, strip: Strip, characters: int) -> None:
    title = textwrap.shorten(f"“{strip.prompt}”", characters, placeholder=" …”")
    frame_strip(part.subplots(), strip.clips, title=title, detail=strip.detail)
