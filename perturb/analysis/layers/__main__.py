"""`python -m perturb.analysis.layers RUNS… -o experiments/layers`: where in the network Δ is, and where it acts.

Writes energy.csv, ablation.csv, prompts.csv.gz and a figure per model, layers_full and layers_partial, as png and pdf;
prints the ablation of motion quality.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console

from perturb.analysis.command import compare_runs


def analyse(paths: Iterable[str | Path], output: Path, console: Console) -> list[Path]:
    """Write tables and figures of ablation runs into ``output``, print the ablation; returns what was written.

    Raises UserError for runs that are no ablations, or not of one study.
    """
    # pandas and matplotlib are slow to import: --help and plain mistakes do not wait for them
    import pandas as pd
    from rich.text import Text

    from perturb.analysis.layers.figure import layers_figure
    from perturb.analysis.layers.layers import effect_rows, effect_table, effects, energies
    from perturb.analysis.plots import save_beside
    from perturb.analysis.prompts import of_replicates, write_prompts
    from perturb.analysis.replicates import MOTION, PART, read_replicates
    from perturb.analysis.summary import WIDEST
    from perturb.store.rundir import write_atomic

    models = read_replicates(paths, PART)
    found, energy = list(effects(models)), list(energies(models))
    frames = {"energy": pd.DataFrame(energy), "ablation": pd.DataFrame(effect_rows(found, models))}
    for name, frame in frames.items():
        write_atomic(output / f"{name}.csv", frame.to_csv(index=False, float_format="%.6g"))
    if not console.is_terminal:
        console = Console(file=console.file, width=WIDEST)
    motion = [effect for effect in found if effect.metric == MOTION]
    heading = "\nChange of motion quality when only this part is perturbed; bold: 95 % interval excludes 0"
    console.print(Text(heading, style="bold"))
    console.print(effect_table(motion))
    written = [*(output / f"{name}.csv" for name in frames), write_prompts(output, of_replicates(models))]
    for training in dict.fromkeys(model.training for model in models):
        mine = [effect for effect in motion if effect.training == training]
        figure = layers_figure(training, mine, [each for each in energy if each.training == training])
        written += save_beside(figure, output / f"layers_{training}.png")
    return written


def summarise(run_path: str | Path) -> Path:
    """Print the ablation of one run and return its figure, drawn into its directory."""
    output = Path(run_path) / "figures"
    return next((path for path in analyse([run_path], output, Console()) if path.suffix == ".png"), output)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    return compare_runs(analyse, name="layers", description=__doc__, arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
