"""What the commands with plain arguments share: ``--version``, and mistakes as one message with exit code 2."""

import argparse
import sys
from collections.abc import Callable
from importlib.metadata import version

from perturb.errors import UserError


def make_parser(module: str, description: str | None = None) -> argparse.ArgumentParser:
    """The parser of `python -m <module>`; the description keeps its lines."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"perturb {version('perturb')}")
    return parser


def exit_code(task: Callable[[], object]) -> int:
    """Do ``task``: 0, or 2 after the message of a UserError."""
    try:
        task()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
