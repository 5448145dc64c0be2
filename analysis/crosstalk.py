"""`python -m analysis.crosstalk table.csv -o crosstalk.png`: how metrics answer to distortions, as a heat map.

The table is that of `python -m perturb.metrics.calibration`. A cell shows the median change from the clean clip: in per
cent, or the plain difference for a metric that is near 0 or of either sign on clean clips.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from perturb.errors import UserError

COLUMNS = ("distortion", "strength", "unit", "metric", "axis", "scale", "change")


def read_table(path: Path) -> pd.DataFrame:
    """The calibration table. UserError for a file that is not one."""
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a table: {error}") from error
    if missing := [name for name in COLUMNS if name not in table]:
        raise UserError(f"{path} is no calibration table: it has no column {', '.join(missing)}")
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0, or 2 for a mistake of the user's."""
    parser = argparse.ArgumentParser(prog="python -m analysis.crosstalk", description=__doc__)
    parser.add_argument("table", type=Path, help="table.csv of the calibration")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the figure, a png; a pdf is put beside it")
    given = parser.parse_args(arguments)
    from analysis.crosstalk_figure import crosstalk_figure  # matplotlib is slow to import
    from analysis.plots import save

    try:
        print(*save(crosstalk_figure(read_table(given.table)), given.output), sep="\n")
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
