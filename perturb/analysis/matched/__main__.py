"""`python -m perturb.analysis.matched RUNS… -o experiments/coupling`: motion kept at an equal distance.

Writes matched.csv and a figure of it as png and pdf; prints the differences of the primary comparison.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console

from perturb.analysis.command import compare_runs


def analyse(paths: Iterable[str | Path], output: Path, console: Console) -> list[Path]:
    """Write matched.csv and the figure of a coupling study into ``output``; returns what was written.

    Raises UserError for runs that do not make one complete study.
    """
    # pandas and matplotlib are slow to import: --help and plain mistakes do not wait for them
    import pandas as pd

    from perturb.analysis.coupling.design import Design
    from perturb.analysis.load import find_runs, load
    from perturb.analysis.matched.figure import matched_figure
    from perturb.analysis.matched.matched import match_rows, matches
    from perturb.analysis.plots import save_beside
    from perturb.store.rundir import write_atomic

    design = Design.of(load(find_runs(paths)))
    found = list(matches(design))
    frame = pd.DataFrame(match_rows(found))
    write_atomic(output / "matched.csv", frame.to_csv(index=False, float_format="%.6g"))
    shown = frame[(frame.scale == "relative") & frame.family.isin(["primary", "motion"])]
    console.print("motion kept, as a share of the start, full − partial, where both have come equally far")
    columns = ["group", "policy", "axis", "level", "first", "second", "difference", "low", "high", "p_holm"]
    table = pd.DataFrame(shown, columns=columns).to_string(index=False, float_format="%.3f")
    console.print(table, highlight=False, soft_wrap=True)
    return [output / "matched.csv", *save_beside(matched_figure(design, found), output / "matched.png")]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    return compare_runs(analyse, name="matched", description=__doc__, arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
