"""Where packaged files lie: weights and prompts inside the package, conf/ beside the checkout or inside the wheel."""

from pathlib import Path

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
