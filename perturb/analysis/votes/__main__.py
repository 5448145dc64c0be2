"""`python -m perturb.analysis.votes VOTES… --key KEY -o FOLDER`: what people preferred, and how surely.

Writes votes.csv, vote_metrics.csv with --runs, and votes as png and pdf; prints the win rates.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from perturb.analysis.command import write_tables
from perturb.arguments import exit_code, make_parser
from perturb.store.paths import resolve


def analyse(files: Sequence[Path], key: Path, runs: Sequence[Path], output: Path, console: Console) -> list[Path]:
    """Write tables and figure into ``output``; returns what was written. Raises UserError for unusable files."""
    # pandas and matplotlib are slow to import: --help and plain mistakes do not wait for them
    from perturb.analysis.load import find_runs, load
    from perturb.analysis.plots import save_beside
    from perturb.analysis.votes.figure import votes_figure
    from perturb.analysis.votes.files import read_votes
    from perturb.analysis.votes.votes import lines, metric_rows, preferences, rate_rows

    votes = read_votes(files, key)
    study = load(find_runs(runs)) if runs else None
    measures = {m.name: m for run in study.runs for m in run.measures} if study else {}
    found = preferences(votes, study)
    for line in lines(votes, found, measures):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    tables = {"votes": list(rate_rows(found)), "vote_metrics": list(metric_rows(found))}
    written = write_tables(output, {name: rows for name, rows in tables.items() if rows})
    labels = {name: measure.label for name, measure in measures.items()}
    return [*written, *save_beside(votes_figure(votes.question, found, labels), output / "votes.png")]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0, or 2 for a mistake of the user's."""
    parser = make_parser("perturb.analysis.votes", __doc__)
    parser.add_argument("votes", nargs="+", type=resolve, help="the csv files that raters saved")
    parser.add_argument("--key", required=True, type=resolve, help="the key that was written beside the page")
    parser.add_argument(
        "--runs", nargs="+", type=resolve, default=[], help="the runs voted on, to correlate their metrics"
    )
    parser.add_argument("-o", "--output", required=True, type=resolve, help="the folder for tables and figure")
    given = parser.parse_args(arguments)
    return exit_code(lambda: print(*analyse(given.votes, given.key, given.runs, given.output, Console()), sep="\n"))


if __name__ == "__main__":
    sys.exit(main())
