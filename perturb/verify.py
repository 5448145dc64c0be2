"""`python -m perturb.verify A B`: whether two finished trainings are twins. Exit code 0: they are; 1: they are not."""

import sys

from perturb.arguments import exit_code, make_parser
from perturb.store.paths import resolve


def verify(first: str, second: str) -> list[str]:
    """Why the trainings in two output folders are not twins; empty if they are."""
    from perturb.training.twins import differences, read_member

    return differences(read_member(resolve(first)), read_member(resolve(second)))


def main() -> int:
    """The command; returns its exit code."""
    parser = make_parser(
        "perturb.verify",
        "Check that two trainings began from the same weights, saw the same samples with the same noises "
        "and timesteps, and left everything that their recipes do not train as it was, bit for bit.",
    )
    parser.add_argument("first", metavar="A", help="output folder of a training, e.g. runs/train/nano/full")
    parser.add_argument("second", metavar="B", help="output folder of the other, e.g. runs/train/nano/partial")
    given = parser.parse_args()
    return exit_code(lambda: _print(given.first, given.second))


def _print(first: str, second: str) -> int:
    if reasons := verify(first, second):
        print("no twins:", *(f"- {reason}" for reason in reasons), sep="\n")
        return 1
    print(f"twins: {first} and {second} share their init, data and sample stream; what is frozen is intact")
    return 0


if __name__ == "__main__":
    sys.exit(main())
