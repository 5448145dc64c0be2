"""`python -m perturb.analysis.coupling RUNS… -o experiments/coupling`: a study's verdict, tables and figures.

Writes endpoints.csv, runs.csv, curves.csv, prompts.csv.gz and the figures as png and pdf; prints the verdict.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console

from perturb.analysis.command import WIDEST, compare_runs, printable, write_tables


def analyse(paths: Iterable[str | Path], output: Path, console: Console) -> list[Path]:
    """Write the tables and figures of a study into ``output`` and print its verdict; returns what was written.

    ``paths`` are run directories, or folders with run directories anywhere beneath. Raises UserError for runs that do
    not make one study.
    """
    # pandas and matplotlib are slow to import: --help and plain mistakes do not wait for them
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from perturb.analysis.coupling.curves import Results, curve_rows, run_rows
    from perturb.analysis.coupling.design import Design
    from perturb.analysis.coupling.endpoints import HEADER, endpoint_rows, footnote, headline
    from perturb.analysis.coupling.figure import figures
    from perturb.analysis.load import find_runs, load
    from perturb.analysis.plots import save_beside
    from perturb.analysis.prompts import write_prompts

    results = Results.of(Design.of(load(find_runs(paths))))
    rows = {"endpoints": endpoint_rows(results.findings), "runs": run_rows(results), "curves": curve_rows(results)}
    written, console = write_tables(output, rows), printable(console)
    answer = Table(*HEADER, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for finding in results.findings:
        answer.add_row(*finding.cells, style="bold" if finding.condition.is_primary else "")
    console.print(Text(f"{headline(results.findings)}\n", style="bold"))
    console.print(answer)
    console.print(Text(footnote(results.findings), style="dim"), width=min(WIDEST, console.width))
    written.append(write_prompts(output, results.clips))
    return written + [path for name, one in figures(results) for path in save_beside(one, output / f"{name}.png")]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    return compare_runs(analyse, name="coupling", description=__doc__, arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
