"""The figure of one model: where its perturbations are, and where they act. It computes no statistics."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from perturb.analysis import style
from perturb.analysis.heat import estimate_map, share_map
from perturb.analysis.layers.layers import WHOLE, Effect, Energy
from perturb.analysis.plots import titled

WIDTH = 12.0
BLOCKS = (WHOLE, "outer", "down", "middle", "up")
KINDS = (WHOLE, "convolution", "attention", "feed_forward", "other")
ROLES = ("convolution", "query", "key", "value", "out", "feed_forward", "projection", "embedding")


def layers_figure(training: str, motion: Sequence[Effect], energy: Sequence[Energy]) -> Figure:
    """A column per perturbed group: its energy by level and role above, its effect on motion by part below."""
    groups = list(dict.fromkeys(each.group for each in motion))
    with mpl.rc_context(style.RC):
        figure = Figure(figsize=(WIDTH if len(groups) > 1 else 0.6 * WIDTH, 7.2), layout="constrained")
        axes = figure.subplots(2, len(groups), squeeze=False)
        spread = max((abs(e.of(part).over_prompts.mean) for e in motion for part in e.parts[1:]), default=1.0)
        for group, (above, below) in zip(groups, axes.T, strict=True):
            title = f"{group.capitalize()} perturbation: share of ‖Δ‖² in per cent"
            mine = [each for each in energy if each.group == group]
            titled(above, title, "blank: no such layer" if mine else "unknown: the run came without its adapters")
            if mine:
                energy_map(above, mine)
            effect = next((e for e in motion if e.group == group), None)
            titled(below, "Change of motion quality when only this part has Δ", "± 95 %")
            if effect is not None:
                effect_map(below, effect, spread)
        figure.suptitle(f"{training.capitalize()} model", x=0.01, ha="left", fontsize=11, fontweight="bold")
        return figure


def energy_map(ax: Axes, energy: Sequence[Energy]) -> Axes:
    """Shares of the energy, a row per level from the way in to the way out."""
    share = {(each.level, each.role): each.share for each in energy}
    levels = sorted({each.level for each in energy}, key=_depth)
    roles = [role for role in ROLES if role in {each.role for each in energy}]
    table = np.array([[share.get((level, role), np.nan) for role in roles] for level in levels])
    return share_map(ax, table, levels, [role.replace("_", "\n") for role in roles])


def effect_map(ax: Axes, effect: Effect, spread: float) -> Axes:
    """Changes by block (rows) and kind of layer (columns); blank where a part was not tried."""
    estimates = [[effect.of(_part(block, kind)).over_both for kind in KINDS] for block in BLOCKS]
    return estimate_map(ax, estimates, BLOCKS, [kind.replace("_", "\n") for kind in KINDS], spread=spread)


def _part(block: str, kind: str) -> str:
    """The name of a part in both a block and a kind.

    >>> _part("all", "all"), _part("down", "all"), _part("all", "attention"), _part("down", "attention")
    ('all', 'down', 'attention', 'down attention')
    """
    return " ".join(name for name in (block, kind) if name != WHOLE) or WHOLE


def _depth(level: str) -> tuple[int, int]:
    """outer, then down.0, down.1 …, middle, … up.1, up.0."""
    block, _, number = level.partition(".")
    order = ("outer", "down", "middle", "up").index(block)
    return order, int(number or 0) * (-1 if block == "up" else 1)
