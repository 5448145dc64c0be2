"""`python -m perturb.metrics.calibration -o FOLDER`: the calibration tables as csv and markdown, and their checks."""

import sys
from collections.abc import Sequence
from pathlib import Path

from perturb.arguments import exit_code, make_parser
from perturb.metrics.calibration.agreement import agreement_csv, agreement_on_shapes
from perturb.metrics.calibration.families_table import every_member, families_csv, families_markdown, score
from perturb.metrics.calibration.footage import videos
from perturb.metrics.calibration.table import calibrate, table_csv, table_markdown
from perturb.store.paths import resolve
from perturb.store.rundir import write_atomic


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = make_parser("perturb.metrics.calibration", __doc__)
    parser.add_argument("-o", "--output", type=resolve, required=True, help="folder for the tables")
    output = parser.parse_args(arguments).output
    return exit_code(lambda: _write(output))


def _write(output: Path) -> None:
    videos()  # a missing package is named before minutes are spent
    rows = calibrate()
    write_atomic(output / "table.csv", table_csv(rows))
    write_atomic(output / "table.md", table_markdown(rows))
    scored = [score(member) for member in every_member()]
    write_atomic(output / "families.csv", families_csv(scored))
    write_atomic(output / "families.md", families_markdown(scored))
    agreements = agreement_csv(agreement_on_shapes())
    write_atomic(output / "agreement.csv", agreements)
    print(table_markdown(rows), families_markdown(scored), agreements, sep="\n", end="")


if __name__ == "__main__":
    sys.exit(main())
