"""`python -m perturb.analysis.coupling RUNS… -o experiments/coupling`: a study's tables and figures.

Writes endpoints.csv, runs.csv, curves.csv, contrasts.csv, gaps.csv, cells.csv, prompts.csv.gz and the figures as png
and pdf; prints the verdict and the contrasts.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console

from perturb.analysis.command import compare_runs


def analyse(paths: Iterable[str | Path], output: Path, console: Console) -> list[Path]:
    """Write the tables and figures of a study into ``output`` and print its contrasts; returns what was written.

    ``paths`` are run directories, or folders with run directories anywhere beneath. Raises UserError for runs that do
    not make one complete study.
    """
    # pandas and matplotlib are slow to import: --help and plain mistakes do not wait for them
    from itertools import chain

    import pandas as pd
    from rich.text import Text

    from perturb.analysis.coupling import figure, stepwise_figure
    from perturb.analysis.coupling.comparisons import Results
    from perturb.analysis.coupling.coupling import contrast_rows, contrast_table, curve_rows, footnote, run_rows
    from perturb.analysis.coupling.design import Design
    from perturb.analysis.coupling.endpoints import endpoint_rows, of_design, summary
    from perturb.analysis.coupling.stepwise import Stepwise, cell_rows, gap_rows
    from perturb.analysis.load import find_runs, load
    from perturb.analysis.plots import save_beside
    from perturb.analysis.prompts import Clips, write_prompts
    from perturb.analysis.summary import WIDEST
    from perturb.store.rundir import write_atomic

    results = Results.of(Design.of(load(find_runs(paths))))
    stepwise, found = Stepwise.of(results), of_design(results.design)
    tables = {
        "endpoints": endpoint_rows(found),
        "runs": run_rows(results),
        "curves": curve_rows(results),
        "contrasts": contrast_rows(results),
        "gaps": gap_rows(results, stepwise),
        "cells": cell_rows(results, stepwise),
    }
    written = [output / f"{name}.csv" for name in tables]
    for path, rows in zip(written, tables.values(), strict=True):
        write_atomic(path, pd.DataFrame(rows).to_csv(index=False, float_format="%.6g"))
    if not console.is_terminal:
        console = Console(file=console.file, width=WIDEST)
    console.print(Text(f"{summary(found)}\n"))
    console.print(contrast_table(results))
    console.print(Text(footnote(results), style="dim"), width=min(WIDEST, console.width))
    clips = (
        Clips(where.columns, run, results.design.scores[run.manifest.run_id])
        for where, runs in results.design.runs.items()
        for run in runs.values()
    )
    written.append(write_prompts(output, clips))
    drawn = chain(figure.figures(results), stepwise_figure.figures(results, stepwise))
    return written + [path for name, one in drawn for path in save_beside(one, output / f"{name}.png")]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    return compare_runs(analyse, name="coupling", description=__doc__, arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
