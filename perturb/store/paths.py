"""Where packaged files lie: weights and prompts inside the package, conf/ beside the checkout or inside the wheel."""

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from perturb.errors import UserError

PACKAGE = Path(__file__).parents[1]
SCHEME = "package:"
ENDINGS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
"""Of files of weights."""


def resolve(path: str | Path) -> Path:
    """A user's path as a Path; ``package:weights/nano/full`` names a file that travels with the package.

    >>> resolve("package:errors.py").name
    'errors.py'
    """
    text = str(path)
    if text.startswith(SCHEME):
        return PACKAGE / text.removeprefix(SCHEME)
    return Path(text).expanduser()


def conf_dir() -> Path:
    """The configuration folder: the checkout's ``conf/`` when there is one, else the copy inside the wheel."""
    checkout = PACKAGE.parent / "conf"
    return checkout if (checkout / "config.yaml").is_file() else PACKAGE / "conf"


def distinct_names(paths: Sequence[str]) -> list[str]:
    """The last part of each path, with as many before it as tell all apart; a run's folder ``adapters`` never does.

    Files lose the ending of weights unless that alone tells two apart. Raises UserError for a path that is given twice.

    >>> distinct_names(["loras/a.pt", "loras/b/"]), distinct_names(["1/adapters/step_000300", "2/adapters/step_000300"])
    (['a', 'b'], ['1/step_000300', '2/step_000300'])
    """
    whole = [
        [part for part in Path(path).parts if part != "adapters"] or [Path(path).absolute().name] for path in paths
    ]
    ends = [next((end for end in ENDINGS if parts[-1].endswith(end)), "") for parts in whole]
    short = [[*parts[:-1], parts[-1].removesuffix(end)] for parts, end in zip(whole, ends, strict=True)]
    for split in (short, whole):
        for depth in range(1, max(map(len, split)) + 1):
            names = ["/".join(parts[-depth:]) for parts in split]
            if len(set(names)) == len(names):
                return names
    raise UserError(f"{', '.join(paths)}: one of these folders is given twice; give each once")


def walk(folder: Path) -> Iterator[Path]:
    """Every visible file below ``folder``, also behind links; links that lead nowhere are among them.

    Hidden files and folders (.ipynb_checkpoints, .cache) are left out. A folder is read once, by its own place rather
    than by a link to it. Raises UserError for a folder that cannot be read.
    """
    root = os.path.realpath(folder)
    linked: list[Path] = []
    seen: set[str] = set()
    waiting = [folder]
    while waiting or linked:
        place = (waiting or linked).pop()
        if (own := os.path.realpath(place)) in seen:
            continue
        seen.add(own)
        for entry in _entries(place):
            path, kind = place / entry.name, _kind(entry)
            if stat.S_ISDIR(kind):
                inside = entry.is_symlink() and Path(os.path.realpath(path)).is_relative_to(root)
                (linked if inside else waiting).append(path)
            elif stat.S_ISREG(kind) or not kind:
                yield path


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is visible in a folder, in reverse order: the last one is taken first."""
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}; allow it, or move it away") from error
    return sorted(visible, key=lambda entry: entry.name, reverse=True)


def _kind(entry: os.DirEntry[str]) -> int:
    """The mode of what an entry leads to, 0 where it leads nowhere."""
    try:
        return entry.stat().st_mode
    except OSError:
        return 0
