"""`python -m perturb.analysis.landscape RUNS… -o experiments/landscape`: space and time perturbed together.

Writes surfaces.csv, interactions.csv, prompts.csv.gz and landscape as png and pdf; prints the interactions of motion
quality.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console

from perturb.analysis.command import compare_runs


def analyse(paths: Iterable[str | Path], output: Path, console: Console) -> list[Path]:
    """Write tables and figure of landscape runs into ``output``, print the interactions; returns what was written.

    Raises UserError for runs that are no landscapes, or not of one study.
    """
    # pandas and matplotlib are slow to import: --help and plain mistakes do not wait for them
    import pandas as pd
    from rich.text import Text

    from perturb.analysis.landscape.figure import landscape_figure
    from perturb.analysis.landscape.landscape import Landscape, interaction_rows, interaction_table, surface_rows
    from perturb.analysis.plots import save_beside
    from perturb.analysis.prompts import of_replicates, write_prompts
    from perturb.analysis.replicates import MOTION, SCALES, read_replicates
    from perturb.analysis.summary import WIDEST
    from perturb.store.rundir import write_atomic

    landscape = Landscape.of(read_replicates(paths, *SCALES))
    written = []
    for name, rows in (("surfaces", surface_rows), ("interactions", interaction_rows)):
        path = output / f"{name}.csv"
        write_atomic(path, pd.DataFrame(rows(landscape)).to_csv(index=False, float_format="%.6g"))
        written.append(path)
    written.append(write_prompts(output, of_replicates(landscape.models)))
    if not console.is_terminal:
        console = Console(file=console.file, width=WIDEST)
    for training in landscape.trainings:
        if surface := landscape.surface(training, MOTION):
            prompts = surface.values.shape[1]
            console.print(Text(f"\nInteraction I of motion quality, {training} ({prompts} prompts)", style="bold"))
            console.print(interaction_table(landscape, surface))
    return written + list(save_beside(landscape_figure(landscape), output / "landscape.png"))


def summarise(run_path: str | Path) -> Path:
    """Print the interactions of one run and return its figure, drawn into its directory."""
    output = Path(run_path) / "figures"
    return next((path for path in analyse([run_path], output, Console()) if path.suffix == ".png"), output)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    return compare_runs(analyse, name="landscape", description=__doc__, arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
