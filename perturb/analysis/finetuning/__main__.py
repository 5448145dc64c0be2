"""`python -m perturb.analysis.finetuning RUNS… -o FOLDER`: fine-tuning strategies side by side, one row per model.

Writes table.csv, table.md, prompts.csv.gz and motion_visual as png and pdf.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from perturb.analysis.command import compare_runs


def analyse(paths: Sequence[Path], output: Path, _console: Console) -> list[Path]:
    """Write the tables and the figure into ``output``; returns what was written."""
    # pandas and matplotlib are slow to import: --help and plain mistakes do not wait for them
    from perturb.analysis.finetuning.figure import finetuning_figure
    from perturb.analysis.finetuning.finetuning import Comparison, names, table_csv, table_markdown
    from perturb.analysis.load import find_runs, load
    from perturb.analysis.plots import save_beside
    from perturb.analysis.prompts import Clips, write_prompts
    from perturb.store.rundir import write_atomic

    study = load(find_runs(paths))
    comparison = Comparison.of(study)
    tables = {"table.csv": table_csv(comparison), "table.md": table_markdown(comparison)}
    for name, text in tables.items():
        write_atomic(output / name, text)
    prompts = write_prompts(output, (Clips(names(study, run), run, study.of(run)) for run in study.runs))
    drawn = save_beside(finetuning_figure(comparison), output / "motion_visual.png")
    return [*(output / name for name in tables), prompts, *drawn]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    return compare_runs(analyse, name="finetuning", description=__doc__, arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
