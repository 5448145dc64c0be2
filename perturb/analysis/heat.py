"""Heat maps with their numbers written in them, so that they can be read in grey too."""

from collections.abc import Sequence
from itertools import product

import numpy as np
from matplotlib.axes import Axes

from perturb.analysis import style
from perturb.analysis.statistics.estimates import Estimate
from perturb.analysis.table import decimals, number

SEQUENTIAL, DIVERGING = "cividis_r", "PuOr"


def estimate_map(
    ax: Axes, estimates: Sequence[Sequence[Estimate]], rows: Sequence[str], columns: Sequence[str], *, spread: float
) -> Axes:
    """Means ± half-widths, colours from −spread to spread, bold where the interval excludes 0; blank where n is 0."""
    flat = [e for row in estimates for e in row if e.n]
    digits = decimals(e.mean for e in flat)
    texts = [[_text(e, digits) for e in row] for row in estimates]
    bold = [[e.excludes_zero for e in row] for row in estimates]
    means = np.array([[e.mean for e in row] for row in estimates], dtype=float)
    return _map(ax, means, texts, bold, rows=rows, columns=columns, cmap=DIVERGING, limits=(-spread, spread))


def share_map(ax: Axes, shares: np.ndarray, rows: Sequence[str], columns: Sequence[str]) -> Axes:
    """Shares r c in per cent to a tenth, NaN where there is nothing that could have one."""
    texts = [["" if np.isnan(share) else f"{100 * share:.1f}" for share in row] for row in shares]
    plain = [[False] * len(columns)] * len(rows)
    top = float(np.nanmax(shares, initial=1e-9))
    return _map(ax, shares, texts, plain, rows=rows, columns=columns, cmap=SEQUENTIAL, limits=(0.0, top))


def _text(estimate: Estimate, digits: int) -> str:
    if not estimate.n:
        return ""
    mean = number(estimate.mean, digits, "+")
    return mean if np.isnan(estimate.half_width) else f"{mean}\n±{estimate.half_width:.{digits}f}"


def _map(
    ax: Axes,
    values: np.ndarray,
    texts: Sequence[Sequence[str]],
    bold: Sequence[Sequence[bool]],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    cmap: str,
    limits: tuple[float, float],
) -> Axes:
    image = ax.imshow(values, cmap=cmap, vmin=limits[0], vmax=limits[1], aspect="auto")
    for i, j in product(range(len(rows)), range(len(columns))):
        if texts[i][j]:
            red, green, blue, _ = image.cmap(image.norm(values[i, j]))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            colour, weight = "white" if dark else style.INK, "bold" if bold[i][j] else "normal"
            ax.text(j, i, texts[i][j], ha="center", va="center", fontsize=7, color=colour, fontweight=weight)
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(rows)), rows)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    return ax
