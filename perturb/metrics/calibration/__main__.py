"""`python -m perturb.metrics.calibration -o FOLDER`: the calibration table as csv and markdown, and its checks."""

import sys
from collections.abc import Sequence
from pathlib import Path

from perturb.arguments import make_parser
from perturb.metrics.calibration.agreement import agreement_csv, agreement_on_shapes
from perturb.metrics.calibration.table import calibrate, table_csv, table_markdown
from perturb.store.rundir import write_atomic


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = make_parser("perturb.metrics.calibration", __doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the tables")
    output = parser.parse_args(arguments).output
    rows = calibrate()
    write_atomic(output / "table.csv", table_csv(rows))
    write_atomic(output / "table.md", table_markdown(rows))
    agreements = agreement_csv(agreement_on_shapes())
    write_atomic(output / "agreement.csv", agreements)
    print(table_markdown(rows), agreements, sep="\n", end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
