"""`python -m perturb.analysis.layers RUNS… -o experiments/layers`: where in the network Δ is, and where it acts.

Writes energy.csv, ablation.csv, prompts.csv.gz and a figure per model, layers_full and layers_partial, as png and pdf;
prints the ablation of motion quality.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console

from perturb.analysis.command import compare_runs, printable, write_tables


def analyse(paths: Iterable[str | Path], output: Path, console: Console) -> list[Path]:
    """Write tables and figures of ablation runs into ``output``, print the ablation; returns what was written.

    Raises UserError for runs that are no ablations, or not of one study.
    """
    # pandas and matplotlib are slow to import: --help and plain mistakes do not wait for them
    from rich.text import Text

    from perturb.analysis.layers.figure import layers_figure
    from perturb.analysis.layers.layers import effect_rows, effect_table, effects, energies
    from perturb.analysis.plots import save_beside
    from perturb.analysis.prompts import of_replicates, write_prompts
    from perturb.analysis.replicates import PART, read_replicates
    from perturb.analysis.statistics.endpoints import PRIMARY

    models, console = read_replicates(paths, PART), printable(console)
    found, energy = list(effects(models)), list(energies(models))
    written = write_tables(output, {"energy": map(vars, energy), "ablation": effect_rows(found, models)})
    motion = [effect for effect in found if effect.metric == PRIMARY]
    heading = "\nChange of motion quality when only this part is perturbed; bold: 95 % interval excludes 0"
    console.print(Text(heading, style="bold"))
    console.print(effect_table(motion))
    written.append(write_prompts(output, of_replicates(models)))
    for training in dict.fromkeys(model.training for model in models):
        mine = [effect for effect in motion if effect.training == training]
        figure = layers_figure(training, mine, [each for each in energy if each.training == training])
        written += save_beside(figure, output / f"layers_{training}.png")
    return written


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    return compare_runs(analyse, name="layers", description=__doc__, arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
