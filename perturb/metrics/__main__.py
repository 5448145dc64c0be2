"""`python -m perturb.metrics list` shows every metric and whether its weights are present; `docs` prints their page."""

import sys

from perturb.arguments import exit_code, make_parser


def main() -> int:
    """The command; returns its exit code."""
    parser = make_parser("perturb.metrics", __doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="every metric, and which weights are present or where to put them")
    listing.add_argument("--weights", metavar="FOLDER", help="a folder that is searched before the caches")
    commands.add_parser("docs", help="the page docs/metrics.md")
    arguments = parser.parse_args()
    return exit_code(lambda: print(_text(arguments.command, getattr(arguments, "weights", None)), end=""))


def _text(command: str, weights: str | None) -> str:
    from perturb.metrics.page import page, table  # scikit-image and OpenCV take a second: --help does not wait

    return table(weights) if command == "list" else page()


if __name__ == "__main__":
    sys.exit(main())
