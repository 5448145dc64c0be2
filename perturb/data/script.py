"""A script: which text holds from which frame of one clip on."""

from dataclasses import dataclass
from pathlib import Path

from perturb.errors import UserError
from perturb.store.paths import resolve


@dataclass(frozen=True)
class Line:
    """A text and the frame from which it holds."""

    frame: int
    text: str


def load_script(file: str | Path, fps: float) -> list[Line]:
    """The lines ``SECONDS: text`` of a file, rising from 0; seconds are those of a clip of ``fps`` frames per second.

    Raises UserError for a missing file and for a line that does not fit.
    """
    path = resolve(file)
    if not path.is_file():
        raise UserError(f"no script {path}: give script=/path/story.txt with lines like '0: a red circle moving left'")
    lines: list[Line] = []
    for number, row in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not row.strip():
            continue
        seconds, colon, text = row.partition(":")
        try:
            frame = round(float(seconds) * fps)
        except ValueError:
            frame = -1
        if not colon or not text.strip() or frame < 0 or (frame == 0) != (not lines):
            raise UserError(f"{path}, line {number} is {row!r}; allowed: 'SECONDS: text', the first at 0 seconds")
        if lines and frame <= lines[-1].frame:
            raise UserError(f"{path}, line {number} begins at frame {frame}, not after that before it; allowed: rising")
        lines.append(Line(frame, text.strip()))
    if not lines:
        raise UserError(f"{path} is empty; give lines like '0: a red circle moving left'")
    return lines
