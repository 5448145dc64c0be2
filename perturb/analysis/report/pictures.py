"""Figures made elsewhere that a report shows too: every png of a folder, under its name."""

import base64
from dataclasses import dataclass
from pathlib import Path

from perturb.errors import UserError


@dataclass(frozen=True)
class Picture:
    """A png inside the page, base64."""

    title: str
    data: str


def pictures(folder: Path | None) -> tuple[Picture, ...]:
    """Every png of a folder, by name. Raises UserError for a folder that has none."""
    if folder is None:
        return ()
    files = sorted(folder.expanduser().glob("*.png"))
    if not files:
        raise UserError(f"{folder} holds no png. Give the folder that another analysis has written its figures to.")
    return tuple(Picture(file.stem.replace("_", " "), base64.b64encode(file.read_bytes()).decode()) for file in files)
