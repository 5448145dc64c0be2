"""`python -m perturb.metrics list` shows every metric and whether its weights are present; `docs` prints their page;
`fetch NAME…` downloads published weights of metrics, or of files and repositories, by name."""

import argparse
import sys

from perturb.arguments import exit_code, make_parser


def main() -> int:
    """The command; returns its exit code."""
    parser = make_parser("perturb.metrics", __doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="every metric, and which weights are present or where to put them")
    listing.add_argument("--weights", metavar="FOLDER", help="a folder that is searched before the caches")
    commands.add_parser("docs", help="the page docs/metrics.md")
    fetching = commands.add_parser("fetch", help="download published weights; prints licence and size first")
    fetching.add_argument(
        "names", nargs="+", metavar="NAME", help="a metric, a weight file or a repository of the list"
    )
    fetching.add_argument("--weights", metavar="FOLDER", help="where to put them (default: the caches)")
    arguments = parser.parse_args()
    return exit_code(lambda: _run(arguments.command, getattr(arguments, "weights", None), arguments))


def _run(command: str, folder: str | None, arguments: argparse.Namespace) -> None:
    from perturb.metrics.fetch import fetch  # scikit-image and OpenCV take a second: --help does not wait
    from perturb.metrics.page import page, table

    if command == "fetch":
        fetch(arguments.names, folder)
    else:
        print(table(folder) if command == "list" else page(), end="")


if __name__ == "__main__":
    sys.exit(main())
