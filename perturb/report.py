"""`python -m perturb.report runs/… -o report.html`: a page with verdict, charts and player, about one run or a study.

`--format md` writes tables and png for a paper or a README, `--format tex` a table for LaTeX (booktabs).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from perturb.analysis.report.content import Report
from perturb.analysis.report.player import Settings
from perturb.arguments import exit_code, make_parser

FORMATS = ("html", "md", "tex")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0, or 2 for a mistake of the user's."""
    options = _parser().parse_args(arguments)
    output = options.output or Path(f"report.{options.format}")
    return exit_code(lambda: _write(options, output))


def _write(options: argparse.Namespace, output: Path) -> None:
    report = Report.of(options.runs)
    if options.format == "html":
        from perturb.analysis.report.pictures import pictures
        from perturb.analysis.report.write import write_page

        write_page(report, output, Settings(options.clips_mb, options.clip_side), pictures(options.figures))
        print(output)
    else:
        from perturb.analysis.report.paper import write_latex, write_markdown

        write = write_markdown if options.format == "md" else write_latex
        print(*write(report, output), sep="\n")


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("perturb.report", __doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="run directories, or folders that hold them")
    parser.add_argument("-o", "--output", type=Path, help="the file to write; report.html, .md or .tex by default")
    parser.add_argument("--format", choices=FORMATS, default="html", help="html by default")
    parser.add_argument("--figures", type=Path, help="a folder of png to show in the page too")
    parser.add_argument(
        "--clips-mb",
        type=float,
        default=Settings.budget,
        help=f"megabytes of clips in the page, {Settings.budget:g} by default; 0 for none",
    )
    parser.add_argument(
        "--clip-side",
        type=int,
        default=Settings.side,
        help=f"pixels of the longer side of a clip in the page, {Settings.side} by default; larger clips are reduced",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
