"""Where packaged files lie: weights and prompts inside the package, conf/ beside the checkout or inside the wheel."""

from collections.abc import Sequence
from pathlib import Path

from perturb.errors import UserError

PACKAGE = Path(__file__).parents[1]
SCHEME = "package:"


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

    Raises UserError for a path that is given twice.

    >>> distinct_names(["loras/a", "loras/b/"]), distinct_names(["1/adapters/step_000300", "2/adapters/step_000300"])
    (['a', 'b'], ['1/step_000300', '2/step_000300'])
    """
    split = [[part for part in Path(path).parts if part != "adapters"] for path in paths]
    for depth in range(1, max(map(len, split)) + 1):
        names = ["/".join(parts[-depth:]) for parts in split]
        if len(set(names)) == len(names):
            return names
    raise UserError(f"{', '.join(paths)}: one of these folders is given twice; give each once")
