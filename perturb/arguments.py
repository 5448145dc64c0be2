"""What all commands share: ``--version``, output to any reader, and how a command ends: a message and an exit code."""

import argparse
import os
import select
import signal
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, NoReturn, TextIO

from perturb.disks import writing
from perturb.errors import UserError

MISTAKE = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
READER_GONE = 141  # 128 + SIGPIPE, likewise
AGAIN = "stopped; the same command, given again, goes on from what is finished"


class Parser(argparse.ArgumentParser):
    """A parser whose help may be read by ``head``, in any encoding."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse has it; its help goes to an output that takes every character."""
        _take_any_character()
        return super().parse_known_args(args, namespace)

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """Leave as argparse does, without a word where the reader of the output is gone."""
        if message:
            self._print_message(message, sys.stderr)
        sys.exit(exit_code(lambda: status))


def make_parser(module: str, description: str | None = None) -> argparse.ArgumentParser:
    """The parser of `python -m <module>`; the description keeps its lines."""
    parser = Parser(
        prog=f"python -m {module}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"perturb {version('perturb')}")
    return parser


def exit_code(task: Callable[[], object]) -> int:
    """Do ``task``: 0 or the code that it returns; after a message, 2 for a UserError or a disk that takes no file.

    130 after Ctrl-C; 141 where the reader of the output (``| head -1``) has gone, without a word.
    """
    try:
        _take_any_character()
        code = _code(task)
        sys.stdout.flush()  # here, where it can still be told that nobody reads it
        return code
    except BrokenPipeError:
        if _silence():
            return READER_GONE
        raise


def _code(task: Callable[[], object]) -> int:
    try:
        with writing():
            found = task()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt:
        print(AGAIN, file=sys.stderr)
        return INTERRUPTED
    except SystemExit as error:  # of hydra after --help; of rich, which closes the output itself, for a broken pipe
        if isinstance(error.__context__, BrokenPipeError):
            return READER_GONE
        if isinstance(error.code, str):
            raise
        found = error.code
    return found if isinstance(found, int) else 0


def cause(code: int) -> str:
    """What the exit code of a process says, negative where a signal ended it.

    >>> cause(-9), cause(3)
    ('SIGKILL, as when memory runs out', 'exit code 3')
    """
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"{name}, as when memory runs out" if name == "SIGKILL" else name


def _take_any_character() -> None:
    """Print what the output's encoding lacks as \\u0394, as Python does on stderr, rather than fail."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure:
        reconfigure(errors="backslashreplace")


def _silence() -> bool:
    """Whether somebody who read the output is gone; what was for him goes nowhere, also when Python ends."""
    gone = [stream for stream in (sys.stdout, sys.stderr) if _is_unread(stream)]
    for stream in gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return bool(gone)


def _is_unread(stream: TextIO) -> bool:
    """Whether a stream is a pipe whose other end is closed."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLOUT)
    except (AttributeError, OSError):  # no such call on this system, or no file behind the stream
        return False
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
