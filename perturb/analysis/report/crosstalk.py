"""The cross-talk matrix in a report: what else moves each measure, from the calibration of the metrics."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import pandas as pd

from perturb.analysis.crosstalk.crosstalk import scales, written
from perturb.analysis.statistics.endpoints import PRIMARY

MATRIX = "crosstalk.csv"
"""Written by `python -m perturb.analysis.crosstalk experiments/metric_calibration/table.csv … --matrix`."""
LESS, MORE, OPAQUE = "0, 114, 178", "213, 94, 0", 0.6


@dataclass(frozen=True)
class Cell:
    """What it says, and its colour in CSS."""

    text: str
    colour: str


@dataclass(frozen=True)
class Matrix:
    """Distortions at their strongest down, the report's measures across.

    ``note``: the pitfalls of motion quality, which speak of the worst clips where the medians are silent.
    """

    note: str
    metrics: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


def matrix(infos: Iterable[Mapping[str, Any]]) -> Matrix:
    """Of those among the manifest's metric ``infos`` that the calibration knows, in its order."""
    with (resources.files("perturb.analysis.report") / MATRIX).open(encoding="utf-8") as file:
        table = pd.read_csv(file)
    pitfalls = {info["name"]: str(info.get("pitfalls", "")) for info in infos}
    table = table.loc[table.metric.isin(list(pitfalls))]
    names = tuple(table.drop_duplicates("metric").metric)
    return Matrix(pitfalls.get(PRIMARY, ""), names, tuple(_rows(table)))


def _rows(table: pd.DataFrame) -> Iterator[tuple[str, tuple[Cell, ...]]]:
    absolute, largest = scales(table)
    for distortion, rows in table.groupby("distortion", sort=False):
        first, changes = rows.iloc[0], rows.set_index("metric").change.reindex(largest.index)
        shares = (changes / largest).clip(-1, 1).fillna(0)  # learned metrics do not meet all distortions
        cells = (
            Cell(
                written(changes[name], absolute=bool(absolute[name])),
                f"rgba({MORE if shares[name] > 0 else LESS}, {OPAQUE * abs(shares[name]):.2f})",
            )
            for name in largest.index
        )
        unit = "" if pd.isna(first.unit) else first.unit
        yield f"{distortion}, {first.strength:g} {unit}".strip(), tuple(cells)
