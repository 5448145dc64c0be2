"""`python -m perturb.analysis.adapters RUNS… -o FOLDER`: given adapters, ranked by motion kept and look gained.

Writes ranking.csv and ranking as png and pdf; prints the ranking. RUNS are of python -m perturb.compare.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console

from perturb.analysis.command import compare_runs, printable, write_tables


def analyse(paths: Iterable[str | Path], output: Path, console: Console) -> list[Path]:
    """Write table and figure of a run, or of one with several LoRA seeds, into ``output``; print the ranking.

    Raises UserError for runs whose states are no adapters, or that are not of one study.
    """
    # pandas and matplotlib are slow to import: --help and plain mistakes do not wait for them
    from rich.text import Text

    from perturb.analysis.adapters.figure import ranking_figure
    from perturb.analysis.adapters.ranking import Ranking, footnote, ranking_rows, ranking_table
    from perturb.analysis.plots import save_beside
    from perturb.analysis.replicates import ADAPTER, read_replicates

    rows, written = [], []
    models, console = read_replicates(paths, ADAPTER), printable(console)
    for model in models:
        ranking = Ranking.of(model)
        console.print(Text(f"\nAdapters on the {model.training} model, by motion kept and look gained", style="bold"))
        console.print(ranking_table(ranking))
        console.print(Text(footnote(ranking), style="dim"))
        rows += [{"training": model.training, "group": model.group, **row} for row in ranking_rows(ranking)]
        name = "ranking.png" if len(models) == 1 else f"ranking_{model.training}_{model.group}.png"
        written += save_beside(ranking_figure(ranking), output / name)
    return [*write_tables(output, {"ranking": rows}), *written]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    return compare_runs(analyse, name="adapters", description=__doc__, arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
