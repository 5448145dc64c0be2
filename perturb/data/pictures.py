"""Image files as arrays, and files of a folder in order; without torch. Axes: h w pixels, c channels (RGB)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from perturb.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
# what Pillow raises on damaged files: SyntaxError for broken PNG chunks, ValueError and EOFError for cut headers
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


def damage(error: Exception) -> str:
    """What an error of `DAMAGED` says, without the path, which would travel with shared results."""
    if isinstance(error, UnidentifiedImageError):
        return "of no known format"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def rgb_pixels(image: Image.Image) -> np.ndarray:
    """A decoded file as float32 h w c in [0, 1]: upright by its EXIF tag, transparency laid on white, 16-bit kept."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        # Pillow's own conversion of 16-bit grey to RGB clips at 255
        limit = 1.0 if image.mode == "F" else 65535.0
        grey = (np.asarray(image).astype(np.float32) / np.float32(limit)).clip(0, 1)
        return np.repeat(grey[..., None], 3, axis=-1)
    if image.has_transparency_data:
        return on_white(np.asarray(image.convert("RGBA")).astype(np.float32) / 255)
    return np.asarray(image.convert("RGB")).astype(np.float32) / 255


def on_white(pixels: np.ndarray) -> np.ndarray:
    """Colour and opacity in [0, 1], last axis 4, laid on white: the same with last axis 3."""
    colour, opacity = pixels[..., :3], pixels[..., 3:]
    return colour * opacity + (1 - opacity)


def to_levels(pixels: np.ndarray) -> np.ndarray:
    """[0, 1] → uint8 0…255, rounded."""
    return (pixels * 255).round().clip(0, 255).astype(np.uint8)


def list_files(folder: Path, suffixes: Sequence[str], *, what: str, setting: str) -> list[Path]:
    """Visible files below ``folder`` with one of ``suffixes``, sorted by relative path.

    UserError where there are none, and for a visible folder that may not be read: its files would be missing.
    ``what`` and ``setting`` name, in the message, what is looked for and how to give the folder.
    """
    advice = f"give a folder of {what} with {setting}=/path/with/{what}"
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: {advice}")

    def refuse(error: OSError) -> None:
        if not Path(error.filename).name.startswith("."):
            raise UserError(f"{error.filename} cannot be read: {error.strerror}; allow it, or move it away") from error

    below = (Path(place, name) for place, _, names in os.walk(folder, onerror=refuse) for name in names)
    files = [
        file for file in below if file.suffix.lower() in suffixes and file.is_file() and not file.name.startswith(".")
    ]
    if not files:
        raise UserError(f"{folder} holds no {what} ({', '.join(suffixes)}): {advice}")
    return sorted(files, key=lambda file: file.relative_to(folder).as_posix())
