"""What the commands that compare several runs share."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from rich.console import Console

from perturb.arguments import exit_code, make_parser
from perturb.store.paths import resolve

Analyse = Callable[[Sequence[Path], Path, Console], Iterable[Path]]
"""(run directories, or folders that hold them; the folder for the results; where to print) → the files written."""


def compare_runs(analyse: Analyse, *, name: str, description: str | None, arguments: Sequence[str] | None) -> int:
    """`python -m perturb.analysis.<name> RUNS… -o FOLDER`; the exit code: 0, or 2 for a user's mistake."""
    parser = make_parser(f"perturb.analysis.{name}", description)
    parser.add_argument("runs", nargs="+", type=resolve, help="run directories, or folders that hold them")
    parser.add_argument("-o", "--output", required=True, type=resolve, help="the folder for tables and figures")
    given = parser.parse_args(arguments)
    return exit_code(lambda: print(*analyse(given.runs, given.output, Console()), sep="\n"))
