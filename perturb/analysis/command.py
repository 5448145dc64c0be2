"""What the commands that compare several runs share."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from perturb.arguments import exit_code, make_parser
from perturb.store.paths import resolve
from perturb.store.rundir import write_atomic

Analyse = Callable[[Sequence[Path], Path, Console], Iterable[Path]]
"""(run directories, or folders that hold them; the folder for the results; where to print) → the files written."""


WIDEST = 120
"""Characters; also the width where the output is a file or a pipe, where the terminal says nothing."""


def printable(console: Console) -> Console:
    """The console, `WIDEST` wide where it is no terminal."""
    return console if console.is_terminal else Console(file=console.file, width=WIDEST)


def write_tables(output: Path, tables: Mapping[str, Iterable[Mapping[str, Any]]]) -> list[Path]:
    """Write ``<name>.csv`` of the rows of each table into a folder, six digits to a number; returns the paths."""
    import pandas as pd  # slow to import: --help and plain mistakes do not wait for it

    for name, rows in tables.items():
        write_atomic(output / f"{name}.csv", pd.DataFrame(rows).to_csv(index=False, float_format="%.6g"))
    return [output / f"{name}.csv" for name in tables]


def compare_runs(analyse: Analyse, *, name: str, description: str | None, arguments: Sequence[str] | None) -> int:
    """`python -m perturb.analysis.<name> RUNS… -o FOLDER`; the exit code: 0, or 2 for a user's mistake."""
    parser = make_parser(f"perturb.analysis.{name}", description)
    parser.add_argument("runs", nargs="+", type=resolve, help="run directories, or folders that hold them")
    parser.add_argument("-o", "--output", required=True, type=resolve, help="the folder for tables and figures")
    given = parser.parse_args(arguments)
    return exit_code(lambda: print(*analyse(given.runs, given.output, Console()), sep="\n"))
