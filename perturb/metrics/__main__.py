"""`python -m perturb.metrics list` shows every metric and whether its weights are present; `docs` prints their page."""

from perturb.arguments import make_parser


def main() -> None:
    """The command."""
    parser = make_parser("perturb.metrics", __doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="every metric, and which weights are present or where to put them")
    listing.add_argument("--weights", metavar="FOLDER", help="a folder that is searched before the caches")
    commands.add_parser("docs", help="the page docs/metrics.md")
    arguments = parser.parse_args()

    from perturb.metrics.page import page, table  # scikit-image and OpenCV take a second: --help does not wait

    print(table(arguments.weights) if arguments.command == "list" else page(), end="")


if __name__ == "__main__":
    main()
