"""`python -m perturb.analysis.summary RUN_DIR`: the table of a run in the terminal and its figure as png and pdf."""

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from rich.console import Console

from perturb.analysis.command import WIDEST, printable
from perturb.analysis.load import load
from perturb.analysis.result import Result
from perturb.analysis.table import result_table
from perturb.arguments import exit_code, make_parser
from perturb.store.paths import resolve
from perturb.store.rundir import RunDir

OWN = {
    ("spatial", "temporal"): "perturb.analysis.landscape.__main__",
    ("part",): "perturb.analysis.layers.__main__",
    ("adapter",): "perturb.analysis.adapters.__main__",
}
"""Coordinates of states → the analysis that shows them best."""


def summarise(run_path: str | Path, console: Console | None = None) -> Path:
    """Print the table of a run and return its figure, figures/summary.png, drawn unless it is newer than the scores.

    States of some coordinates have a table and a figure of their own, see `OWN`. Raises UserError for a folder that is
    not a scored run.
    """
    if own := OWN.get(load([run_path]).runs[0].coordinates):
        output = Path(run_path) / "figures"
        made: list[Path] = import_module(own).analyse([run_path], output, console or Console())
        return next((path for path in made if path.suffix == ".png"), output)
    result = show_table(run_path, console or Console())
    png = figure_path(result)
    return png if is_current(result.run.directory, png, png.with_suffix(".pdf")) else write_figure(result)


def show_table(run_path: str | Path, console: Console) -> Result:
    """Load a run and print its table."""
    console = printable(console)
    study = load([run_path])
    run = study.runs[0]
    result = Result.of(study, run)
    width = min(WIDEST, console.width)
    console.print(result_table(result, width), width=width)
    return result


def figure_path(result: Result) -> Path:
    """Where the figure of a run lies; beside it, the same as .pdf."""
    return result.run.directory.figures / "summary.png"


def write_figure(result: Result) -> Path:
    """Draw the figure of a run into its directory, as png and pdf; returns the path of the png."""
    from perturb.analysis.figure import (
        summary_figure,  # matplotlib is slow to import, and the table should not wait for it
    )
    from perturb.analysis.plots import save

    return save(summary_figure(result), figure_path(result))[0]


def is_current(directory: RunDir, *made: Path) -> bool:
    """Whether all these files are there, and younger than everything of the run that they show."""
    shown = [path for path in (directory.scores, directory.train_log, directory.manifest_path) if path.is_file()]
    written = [path.stat().st_mtime_ns for path in made if path.is_file()]
    return len(written) == len(made) and min(written) > max(path.stat().st_mtime_ns for path in shown)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0, or 2 for a mistake of the user's."""
    parser = make_parser("perturb.analysis.summary", __doc__)
    parser.add_argument("run", type=resolve, help="a run directory, for example runs/spatial_full/0123456789")
    run = parser.parse_args(arguments).run
    return exit_code(lambda: print(write_figure(show_table(run, Console()))))


if __name__ == "__main__":
    sys.exit(main())
