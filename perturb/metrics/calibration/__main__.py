"""`python -m perturb.metrics.calibration -o FOLDER`: the tables of the embedded metrics as csv and markdown.
With `--learned` those of the learned metrics whose weights are installed, on fewer clips."""

import sys
from collections.abc import Sequence
from pathlib import Path

from perturb.arguments import exit_code, make_parser
from perturb.metrics.calibration.agreement import agreement_csv, agreement_on_shapes
from perturb.metrics.calibration.families_table import (
    every_member,
    families_csv,
    families_markdown,
    few_members,
    score,
    score_learned,
)
from perturb.metrics.calibration.footage import videos
from perturb.metrics.calibration.table import calibrate, calibrate_learned, table_csv, table_markdown
from perturb.metrics.learned import packaged_metrics
from perturb.store.paths import resolve
from perturb.store.rundir import write_atomic


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = make_parser("perturb.metrics.calibration", __doc__)
    parser.add_argument("-o", "--output", type=resolve, required=True, help="folder for the tables")
    parser.add_argument("--learned", action="store_true", help="the learned metrics of perturb[learned] instead")
    given = parser.parse_args(arguments)
    return exit_code(lambda: (_write_learned if given.learned else _write)(given.output))


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


def _write_learned(output: Path) -> None:
    metrics = packaged_metrics(device="cpu")
    rows = calibrate_learned(metrics)
    scored = [score_learned(metrics, member) for member in few_members()]
    names = list(dict.fromkeys(name for one in scored for name in one.values))
    write_atomic(output / "learned.csv", table_csv(rows))
    write_atomic(output / "learned.md", table_markdown(rows))
    write_atomic(output / "learned_families.csv", families_csv(scored, names))
    write_atomic(output / "learned_families.md", families_markdown(scored, names))


if __name__ == "__main__":
    sys.exit(main())
