"""Whole clips to score: videos, animations, npy files, folders of frames. Nothing is resized, cut or skipped.

Imports no torch: the processes that score clips would wait for it. Axes: t frames, h w pixels, c channels (RGB).
"""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from perturb.data import decoding, pictures
from perturb.data.source import BrokenSample
from perturb.errors import UserError

SUFFIXES = (*decoding.SUFFIXES, ".gif", ".apng", ".npy")
ADVICE = ": encode it anew with the right rate, or, if it says none, give fps=…"
MAX_BYTES = 2 * 2**30  # of a decoded clip: scoring holds several at a time
BELOW_ZERO = -0.1  # a clip in [-1, 1] has values below this; one in [0, 1] may miss 0 by a rounding error
ROUNDING = 1e-3


def read_clip(path: Path, fps: float | None = None) -> tuple[np.ndarray, float]:
    """All frames of a clip as uint8 t h w 3, and its frames per second; ``fps`` is for clips that do not say theirs.

    Videos say their rate, npy files, folders of frames and gifs without delays do not. Of a varying rate, frames are
    repeated through the pauses: see `Timeline`. Transparency is laid on white (but that of
    VP9 is not seen: it lies in a stream of its own). More than 8 bits are rounded to 8. Raises
    UserError with the reason for whatever cannot be read as a clip, without its path.
    """
    try:
        if path.is_dir():
            frames, native = read_frames(path), None
        elif path.suffix.lower() == ".npy":
            frames, native = to_uint8(_load_array(path)), None
        else:
            with decoding.readable(path.name), decoding.open_clip(path, path.name, silent=fps, advice=ADVICE) as video:
                frames, native = decoding.read_video(video, MAX_BYTES), video.fps
    except BrokenSample as error:
        raise UserError(error.reason) from None
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}") from None
    if native is None and fps is None:
        raise UserError(f"a {'folder of frames' if path.is_dir() else path.suffix} says no frame rate: give fps=…")
    return frames, float(native or fps or 0)


def read_frames(folder: Path) -> np.ndarray:
    """The images of a folder as one clip, uint8 t h w 3; frame 2 comes before frame 10, padded with zeros or not."""
    files = sorted((file for file in folder.iterdir() if is_picture(file)), key=lambda file: natural(file.name))
    return _stacked(((file.name, _open_frame(file)) for file in files), "the images of the folder")


def to_uint8(array: np.ndarray) -> np.ndarray:
    """An array t h w c as uint8 t h w 3: levels as they are, floats in [0, 1] or [-1, 1] scaled.

    c is 3, 1 (grey) or 4 (RGB and opacity, laid on white). Raises UserError for any other shape or type, NaN and
    infinities, and floats of which it is not clear in which range they are.
    """
    if array.ndim != 4 or array.shape[-1] not in (1, 3, 4):
        raise UserError(f"has shape {array.shape}; allowed: (frames, height, width, 3), or 1 or 4 channels")
    if 0 in array.shape:
        raise UserError(f"is empty: shape {array.shape}")
    if np.issubdtype(array.dtype, np.floating):
        array = pictures.to_levels(_unit_range(array))
    if array.dtype != np.uint8:
        raise UserError(f"has type {array.dtype}; allowed: uint8 (0 to 255), or floats in [0, 1] or [-1, 1]")
    if array.shape[-1] == 4:
        return pictures.to_levels(pictures.on_white(array.astype(np.float32) / 255))
    return np.repeat(array, 3, axis=-1) if array.shape[-1] == 1 else array


def natural(name: str) -> list[tuple[int, str]]:
    """Sort key by which frame_2 comes before frame_10.

    >>> sorted(["f10", "f2", "f1"], key=natural)
    ['f1', 'f2', 'f10']
    """
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def is_picture(file: Path) -> bool:
    """Whether a file counts as a frame: a visible image."""
    return file.suffix.lower() in pictures.SUFFIXES and not file.name.startswith(".") and file.is_file()


def _unit_range(array: np.ndarray) -> np.ndarray:
    """Floats in [0, 1] or [-1, 1] as float32 in [0, 1]. UserError where it is neither, or may be both."""
    if not np.isfinite(array).all():
        raise UserError("holds NaN or infinite values")
    low, high = float(array.min()), float(array.max())
    found = f"holds floats from {low:.4g} to {high:.4g}"
    if high > 1 + ROUNDING or low < -1 - ROUNDING:
        raise UserError(f"{found}; allowed: uint8 (0 to 255), or floats in [0, 1] or [-1, 1]")
    if BELOW_ZERO < low < -ROUNDING:
        raise UserError(f"{found}, which may mean [0, 1] or [-1, 1]: save it as uint8 (0 to 255)")
    return array.astype(np.float32) if low > BELOW_ZERO else (array.astype(np.float32) + 1) / 2


def _load_array(path: Path) -> np.ndarray:
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"takes more than {MAX_BYTES / 2**30:g} GiB: cut it into clips")
    try:
        with path.open("rb") as file:
            array = np.load(file, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"is not a readable .npy file: {error}") from None
    if not isinstance(array, np.ndarray):
        raise UserError("is an archive of several arrays; give one .npy per clip")
    return array


def _open_frame(file: Path) -> np.ndarray:
    try:
        return pictures.to_levels(pictures.read_picture(file, file.name))
    except BrokenSample as error:
        raise UserError(f"{file.name} {error.reason}") from None


def _stacked(frames: Iterable[tuple[str, np.ndarray]], what: str) -> np.ndarray:
    """Named frames of one size, together. UserError where sizes differ or they are too many to hold."""
    stack: list[np.ndarray] = []
    for name, frame in frames:
        if stack and frame.shape != stack[0].shape:
            (h, w), (height, width) = frame.shape[:2], stack[0].shape[:2]
            raise UserError(f"{what} differ in size: {name} is {w}×{h}, the first {width}×{height}")
        if (len(stack) + 1) * frame.size > MAX_BYTES:
            raise UserError(f"{what} take more than {MAX_BYTES / 2**30:g} GiB: cut it into clips")
        stack.append(frame)
    if not stack:
        raise UserError("holds no frames")
    return np.stack(stack)
