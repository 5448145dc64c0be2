"""Disks that are full, read-only or closed to the user: one rule for all commands, another for mere conveniences."""

import contextlib
import errno
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from perturb.errors import UserError

FULL = ("no space left", "disk quota", "pytorchstreamwriter failed", "file write failed", "unexpected pos")
"""How torch and safetensors word a full disk, where the error number is lost on the way."""
CLOSED = {errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EFBIG}


class DiskError(UserError):
    """A file cannot be written: no room, or its place does not allow it. ``reason`` is the message without advice."""

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(f"{reason}. {advice}, then give the same command again: what is finished is kept.")
        self.reason = reason


def is_full(error: BaseException) -> bool:
    """Whether an error says that the disk, or the user's part of it, is full."""
    failures = getattr(error, "failures", None)  # torch.distributed's CheckpointException: rank → what happened there
    if isinstance(failures, dict):
        return any(is_full(cause) for cause, _ in failures.values())
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return True
    return any(words in str(error).lower() for words in FULL)


def free_room(path: Path) -> str:
    """How much is free where ``path`` lies, or would lie."""
    there = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    return f"{free / 1e9:.2f} GB free" if free >= 1e9 else f"{free / 1e6:.2f} MB free"


@contextlib.contextmanager
def writing(path: Path | None = None) -> Iterator[None]:
    """Raise DiskError in place of what says that ``path`` (None: the file that the error names) cannot be written."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        name = getattr(error, "filename", None)
        named = path or (Path(name) if isinstance(name, str) else None)
        free = free_room(named or Path())
        if is_full(error):
            what = f"{named} could not be written" if named else str(error)
            raise DiskError(f"the disk is full, or the user's part of it: {what} ({free})", "Make room") from error
        if isinstance(error, OSError) and error.errno in CLOSED:
            problem = (error.strerror or type(error).__name__).lower()
            verb = "written" if path else "read or written"
            reason = f"{named or 'a file'} cannot be {verb}: {problem} ({free})"
            raise DiskError(reason, "Make its folder writable, or give another one") from error
        raise


@contextlib.contextmanager
def convenience(what: str) -> Iterator[None]:
    """Around writing what no result depends on: where the disk does not take it, a warning, and work goes on.

    One warning per kind, which is ``what`` with its verb: "the mp4 beside clips are".
    """
    try:
        with writing():
            yield
    except DiskError as error:
        if what not in _warned:
            _warned.add(what)
            print(f"warning: {what} not written: {error.reason}", file=sys.stderr)


_warned: set[str] = set()
