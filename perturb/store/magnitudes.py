"""magnitude.csv beside an adapter: how large Δ is in every layer."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from perturb.errors import UserError
from perturb.store.rundir import write_atomic

FILE = "magnitude.csv"


@dataclass(frozen=True)
class LayerSize:
    """``ratio`` ‖Δ‖_F/‖θ‖_F and ``base`` ‖θ‖_F of one layer."""

    ratio: float
    base: float


def write_sizes(folder: Path, sizes: Mapping[str, LayerSize]) -> None:
    """One line per layer."""
    rows = (f"{layer},{size.ratio!r},{size.base!r}" for layer, size in sizes.items())
    write_atomic(folder / FILE, "\n".join(["layer,delta_ratio,base_norm", *rows]) + "\n")


def read_sizes(folder: Path) -> dict[str, LayerSize]:
    """Layer → its size. Raises UserError naming the file when it cannot be read."""
    path = folder / FILE
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
            return {row["layer"]: LayerSize(float(row["delta_ratio"]), float(row["base_norm"])) for row in rows}
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: copy the adapters' tables with the run; an old fit wrote none, then run it again"
        ) from None
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no table of layer,delta_ratio,base_norm: {error!r}") from None
