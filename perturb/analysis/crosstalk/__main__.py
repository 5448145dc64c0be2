"""`python -m perturb.analysis.crosstalk table.csv -o crosstalk.png`: how metrics answer to distortions, as a heat map.

The table is that of `python -m perturb.metrics.calibration`. The part that every report shows, each distortion at its
strongest, is written to perturb/analysis/report/crosstalk.csv by --matrix, of all tables where several are given.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from perturb.arguments import exit_code, make_parser
from perturb.store.paths import resolve


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0, or 2 for a mistake of the user's."""
    parser = make_parser("perturb.analysis.crosstalk", __doc__)
    parser.add_argument("tables", type=resolve, nargs="+", help="table.csv of the calibration; the first is drawn")
    parser.add_argument("-o", "--output", type=resolve, required=True, help="the figure, a png; a pdf is put beside it")
    parser.add_argument("--matrix", type=resolve, help="the rows that a report shows, a csv")
    given = parser.parse_args(arguments)
    return exit_code(lambda: _write(given.tables, given.output, given.matrix))


def _write(sources: Sequence[Path], output: Path, matrix: Path | None) -> None:
    # pandas and matplotlib are slow to import: --help and plain mistakes do not wait for them
    from perturb.analysis.crosstalk.crosstalk import matrix_csv, read_table
    from perturb.analysis.crosstalk.figure import crosstalk_figure
    from perturb.analysis.plots import save
    from perturb.store.rundir import write_atomic

    tables = [read_table(source) for source in sources]
    print(*save(crosstalk_figure(tables[0]), output), sep="\n")
    if matrix is not None:
        write_atomic(matrix, matrix_csv(tables))


if __name__ == "__main__":
    sys.exit(main())
