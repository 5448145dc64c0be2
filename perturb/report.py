"""`python -m perturb.report runs/… -o report.html`: a page with verdict, charts and player, about one run or a study.

`--format md` writes tables and png for a paper or a README, `--format tex` a table for LaTeX (booktabs). `--gallery`
writes a page with a row per run, its clips in every state, about whole folders. `--blind test.html` writes a page on
which people vote which of two clips is better without knowing what they are (docs/blind_test.md), and test.key.csv,
which says what they were.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from perturb.arguments import exit_code, make_parser
from perturb.errors import UserError
from perturb.store.paths import resolve

if TYPE_CHECKING:
    from perturb.analysis.report.blind_pairs import BlindSettings
    from perturb.analysis.report.player import Settings

FORMATS = ("html", "md", "tex")

# pandas takes a second to import: Ctrl-C must end that second like any other, without a traceback.


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0, or 2 for a mistake of the user's."""
    return exit_code(lambda: _write(_parser().parse_args(arguments)))


def _write(options: argparse.Namespace) -> None:
    from perturb.analysis.report.content import Report
    from perturb.analysis.report.player import Settings

    if options.gallery or options.blind:
        print(*(_gallery if options.gallery else _blind)(options), sep="\n")
        return
    report, output = Report.of(options.runs), options.output or Path(f"report.{options.format}")
    if options.format == "html":
        from perturb.analysis.report.pictures import pictures
        from perturb.analysis.report.write import write_page

        write_page(report, output, Settings(*_size(options, Settings())), pictures(options.figures))
        print(output)
    else:
        from perturb.analysis.report.paper import write_latex, write_markdown

        write = write_markdown if options.format == "md" else write_latex
        print(*write(report, output), sep="\n")


def _gallery(options: argparse.Namespace) -> list[Path]:
    """The page with a row per run. Raises UserError for options that are a report's."""
    if options.figures or options.format != "html":
        raise UserError("--gallery has no figures and is html; leave --figures and --format out.")
    from perturb.analysis.report.gallery import write_gallery
    from perturb.analysis.report.player import GALLERY, Settings

    output = options.output or Path("gallery.html")
    write_gallery(options.runs, output, Settings(*_size(options, GALLERY)))
    return [output]


def _blind(options: argparse.Namespace) -> list[Path]:
    """The page for votes and its key. Raises UserError for options that are a report's."""
    if options.output or options.figures or options.format != "html":
        raise UserError("--blind names its own file and is html; leave --output, --figures and --format out.")
    from perturb.analysis.report.blind import write_blind
    from perturb.analysis.report.blind_pairs import BlindSettings

    asked = BlindSettings(
        options.question,
        tuple(options.at),
        options.pairs,
        options.ties,
        options.seed,
        *_size(options, BlindSettings()),
    )
    return write_blind(options.runs, options.blind, asked)


def _size(options: argparse.Namespace, default: Settings | BlindSettings) -> tuple[float, int]:
    """(megabytes, pixels) of the clips, as given or by default."""
    budget = default.budget if options.clips_mb is None else options.clips_mb
    return budget, default.side if options.clip_side is None else options.clip_side


def _parser() -> argparse.ArgumentParser:
    from perturb.analysis.report.blind_pairs import BlindSettings
    from perturb.analysis.report.player import GALLERY, Settings

    parser = make_parser("perturb.report", __doc__)
    parser.add_argument("runs", nargs="+", type=resolve, help="run directories, or folders that hold them")
    parser.add_argument(
        "-o", "--output", type=resolve, help="the file to write; report.html, .md, .tex or gallery.html by default"
    )
    parser.add_argument("--format", choices=FORMATS, default="html", help="html by default")
    parser.add_argument("--figures", type=resolve, help="a folder of png to show in the page too")
    parser.add_argument(
        "--clips-mb",
        type=float,
        help=f"megabytes of clips in the page, {Settings.budget:g} by default (blind test: {BlindSettings.budget:g})",
    )
    parser.add_argument(
        "--clip-side",
        type=int,
        help=f"pixels of the longer side of a clip, {Settings.side} by default (gallery: {GALLERY.side}, blind test: "
        f"{BlindSettings.side}); larger clips are reduced",
    )
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--gallery", action="store_true", help="write a page with a row per run instead of a report")
    other.add_argument("--blind", type=resolve, metavar="HTML", help="write a page for votes instead of a report")
    blind = parser.add_argument_group("blind test")
    blind.add_argument("--question", default=BlindSettings.question, help="what is asked; %(default)r by default")
    blind.add_argument(
        "--at", type=int, nargs="+", default=(), metavar="STEP", help="steps to compare at; the last by default"
    )
    blind.add_argument("--pairs", type=int, help="how many pairs a rater sees; all of them by default")
    blind.add_argument("--ties", action="store_true", help="allow 'no difference' as an answer")
    blind.add_argument("--seed", type=int, default=BlindSettings.seed, help="of the order; %(default)s by default")
    return parser


if __name__ == "__main__":
    sys.exit(main())
