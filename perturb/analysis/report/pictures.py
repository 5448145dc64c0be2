"""The figures of a report that are no charts: of landscapes and ablations, and every png of a folder that is given."""

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from perturb.analysis.result import Result
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
    return tuple(_picture(file.stem.replace("_", " "), file.read_bytes()) for file in files)


def drawn(results: Sequence[Result]) -> Iterator[Picture]:
    """The figures of landscapes and ablations."""
    if all(result.is_curve for result in results):
        return  # matplotlib is slow to import
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from perturb.analysis.report.drawn import figures

    for title, figure in figures(results):
        buffer = io.BytesIO()
        FigureCanvasAgg(figure).print_png(buffer)
        yield _picture(title, buffer.getvalue())


def _picture(title: str, png: bytes) -> Picture:
    return Picture(title, base64.b64encode(png).decode())
