"""How metrics answer to distortions.

A cell shows the median change from the clean clip: in per cent, or the plain difference for a metric that is near 0
or of either sign on clean clips.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from perturb.errors import UserError

COLUMNS = ("distortion", "strength", "unit", "metric", "axis", "scale", "change")
SMALL = 0.05
"""A metric whose largest difference is smaller than this nowhere gets full colour."""
UNCHANGED = 0.005
"""A smaller change is left white and empty: below half a per cent."""


def read_table(path: Path) -> pd.DataFrame:
    """The calibration table. UserError for a file that is not one."""
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a table: {error}") from error
    if missing := [name for name in COLUMNS if name not in table]:
        raise UserError(f"{path} is no calibration table: it has no column {', '.join(missing)}")
    return table


def strongest(table: pd.DataFrame) -> pd.DataFrame:
    """Every distortion at its last strength, which is its strongest."""
    last = table.groupby("distortion").strength.transform("last")
    return table.loc[table.strength == last, list(COLUMNS)]


def matrix_csv(tables: Sequence[pd.DataFrame]) -> str:
    """`strongest` of all tables as csv, changes to three digits."""
    return pd.concat([strongest(table) for table in tables]).to_csv(index=False, float_format="%.3g")


def scales(table: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """By metric: whether its changes are plain differences, and the change that gets full colour.

    That is 1 (± 100 %) of a relative change, the metric's largest of a difference.
    """
    by_metric = table.groupby("metric", sort=False)
    absolute = by_metric.scale.first() == "absolute"
    largest = by_metric.change.agg(lambda changes: changes.abs().max()).clip(lower=SMALL)
    return absolute, largest.where(absolute, 1.0)


def written(change: float, *, absolute: bool) -> str:
    """What a cell says.

    >>> written(-0.254, absolute=False), written(6.9, absolute=False), written(0.25, absolute=True)
    ('−25 %', '×7.9', '+.25')
    >>> written(10.25, absolute=True)
    '+10.25'
    """
    if math.isnan(change):
        return "–"
    if abs(change) < UNCHANGED:
        return ""
    if absolute:
        text = f"{change:+.2f}".replace("+0.", "+.").replace("-0.", "-.")
    else:
        text = f"×{1 + change:.2g}" if change > 1.995 else f"{100 * change:+.0f} %"
    return text.replace("-", "−")
