"""`python -m perturb.analysis.adapters RUNS… -o FOLDER`: given adapters, ranked by motion kept and look gained.

Writes ranking.csv and ranking as png and pdf; prints the ranking. RUNS are of python -m perturb.compare.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console

from perturb.analysis.command import compare_runs


def analyse(paths: Iterable[str | Path], output: Path, console: Console) -> list[Path]:
    """Write table and figure of a run, or of one with several LoRA seeds, into ``output``; print the ranking.

    Raises UserError for runs whose states are no adapters, or that are not of one study.
    """
    # pandas and matplotlib are slow to import: --help and plain mistakes do not wait for them
    import pandas as pd
    from rich.text import Text

    from perturb.analysis.adapters.figure import ranking_figure
    from perturb.analysis.adapters.ranking import Ranking, footnote, ranking_rows, ranking_table
    from perturb.analysis.plots import save_beside
    from perturb.analysis.replicates import ADAPTER, read_replicates
    from perturb.analysis.summary import WIDEST
    from perturb.store.rundir import write_atomic

    if not console.is_terminal:
        console = Console(file=console.file, width=WIDEST)
    rows, written = [], [output / "ranking.csv"]
    models = read_replicates(paths, ADAPTER)
    for model in models:
        ranking = Ranking.of(model)
        console.print(Text(f"\nAdapters on the {model.training} model, by motion kept and look gained", style="bold"))
        console.print(ranking_table(ranking))
        console.print(Text(footnote(ranking), style="dim"))
        rows += [{"training": model.training, **row} for row in ranking_rows(ranking)]
        name = "ranking.png" if len(models) == 1 else f"ranking_{model.training}.png"
        written += save_beside(ranking_figure(ranking), output / name)
    write_atomic(written[0], pd.DataFrame(rows).to_csv(index=False, float_format="%.6g"))
    return written


def summarise(run_path: str | Path) -> Path:
    """Print the ranking of one run and return its figure, drawn into its directory."""
    output = Path(run_path) / "figures"
    return next((path for path in analyse([run_path], output, Console()) if path.suffix == ".png"), output)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    return compare_runs(analyse, name="adapters", description=__doc__, arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
