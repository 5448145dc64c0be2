"""`python -m perturb.analysis.landscape RUNS… -o experiments/landscape`: space and time perturbed together.

Writes surfaces.csv, interactions.csv, prompts.csv.gz and landscape as png and pdf; prints the interactions of motion
quality.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console

from perturb.analysis.command import compare_runs, printable, write_tables


def analyse(paths: Iterable[str | Path], output: Path, console: Console) -> list[Path]:
    """Write tables and figure of landscape runs into ``output``, print the interactions; returns what was written.

    Raises UserError for runs that are no landscapes, or not of one study.
    """
    # pandas and matplotlib are slow to import: --help and plain mistakes do not wait for them
    from rich.text import Text

    from perturb.analysis.landscape.figure import landscape_figure
    from perturb.analysis.landscape.landscape import Landscape, interaction_rows, interaction_table, surface_rows
    from perturb.analysis.plots import save_beside
    from perturb.analysis.prompts import of_replicates, write_prompts
    from perturb.analysis.replicates import SCALES, read_replicates
    from perturb.analysis.statistics.endpoints import PRIMARY

    landscape, console = Landscape.of(read_replicates(paths, *SCALES)), printable(console)
    tables = {"surfaces": surface_rows(landscape), "interactions": interaction_rows(landscape)}
    written = write_tables(output, tables)
    written.append(write_prompts(output, of_replicates(landscape.models)))
    for training in landscape.trainings:
        if surface := landscape.surface(training, PRIMARY):
            prompts = surface.values.shape[1]
            console.print(Text(f"\nInteraction I of motion quality, {training} ({prompts} prompts)", style="bold"))
            console.print(interaction_table(landscape, surface))
    return written + list(save_beside(landscape_figure(landscape), output / "landscape.png"))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    return compare_runs(analyse, name="landscape", description=__doc__, arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
