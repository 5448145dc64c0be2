"""Image files as arrays, and files of a folder in order; without torch. Axes: h w pixels, c channels (RGB)."""

import io
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from perturb.data.source import BrokenSample
from perturb.errors import UserError
from perturb.store.paths import walk

LOG = logging.getLogger(__name__)
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
# pictures and videos that are not read, gifs not as stills: a folder that holds some of them says so
UNREAD = (
    ".gif",
    *(".heic", ".heif", ".avif", ".jxl", ".jp2", ".psd", ".svg", ".dng", ".cr2", ".nef", ".arw", ".tga", ".exr"),
    *(".rm", ".rmvb", ".swf", ".y4m", ".yuv", ".h264", ".hevc", ".ivf"),
)
ORIENTATION = 0x0112  # EXIF 2.3, table 4
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_picture(file: Path | bytes, name: str) -> np.ndarray:
    """An image file, or the bytes of one, as `rgb_pixels` gives it; of an animation the first picture.

    What checks a picture calls this too, so that none that was found sound is damaged later. Raises BrokenSample.
    """
    # Pillow's decoders meet damage with whatever a wrong number leads to: TypeError, struct.error, MemoryError, …
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
            return rgb_pixels(image)
    except Exception as error:
        raise BrokenSample(name, f"cannot be read as an image: {damage(error)}") from None


def damage(error: Exception) -> str:
    """What an error of a decoder says, without the path, which would travel with shared results."""
    if isinstance(error, UnidentifiedImageError):
        return "of no known format"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def rgb_pixels(image: Image.Image) -> np.ndarray:
    """A decoded file as float32 h w c in [0, 1]: upright by its EXIF tag, transparency laid on white, 16-bit kept."""
    image = _upright(image)
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        # Pillow's own conversion of 16-bit grey to RGB clips at 255
        limit = 1.0 if image.mode == "F" else 65535.0
        grey = np.nan_to_num(np.asarray(image).astype(np.float32) / np.float32(limit)).clip(0, 1)
        return np.repeat(grey[..., None], 3, axis=-1)
    if image.has_transparency_data:
        return on_white(_unit(image.convert("RGBA")))
    return _unit(image.convert("RGB"))


def rgb_levels(image: Image.Image) -> np.ndarray:
    """`rgb_pixels` as uint8 0…255, rounded."""
    if image.mode in ("RGB", "L", "P", "1") and not image.has_transparency_data:
        return np.asarray(_upright(image).convert("RGB"))
    return to_levels(rgb_pixels(image))


def on_white(pixels: np.ndarray) -> np.ndarray:
    """Colour and opacity in [0, 1], last axis 4, laid on white: the same with last axis 3."""
    colour, opacity = pixels[..., :3], pixels[..., 3:]
    return colour * opacity + (1 - opacity)


def to_levels(pixels: np.ndarray) -> np.ndarray:
    """[0, 1] → uint8 0…255, rounded."""
    return (pixels * 255).round().clip(0, 255).astype(np.uint8)


def list_files(folder: Path, suffixes: Sequence[str], *, what: str, setting: str) -> list[Path]:
    """The files of `walk` with one of ``suffixes``, sorted by relative path; pictures and videos of `UNREAD` are named.

    UserError where there are none, and for a visible folder that may not be read: its files would be missing.
    ``what`` and ``setting`` name, in the message, what is looked for and how to give the folder.
    """
    advice = f"give a folder of {what} with {setting}=/path/with/{what}"
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: {advice}")
    found = list(walk(folder))
    files = [file for file in found if file.suffix.lower() in suffixes]
    unread = Counter(suffix for file in found if (suffix := file.suffix.lower()) in UNREAD and suffix not in suffixes)
    left_out = ", ".join(f"{count} {suffix}" for suffix, count in sorted(unread.items()))
    if not files:
        others = f"; it has {left_out}, which are not read: convert them" if left_out else ""
        raise UserError(f"{folder} holds no {what} ({', '.join(suffixes)}){others}: {advice}")
    if left_out:
        LOG.warning("%s: left out %s, which are not read: convert them", folder, left_out)
    return sorted(files, key=lambda file: file.relative_to(folder).as_posix())


def _upright(image: Image.Image) -> Image.Image:
    """The decoded picture, turned as its EXIF tag says."""
    image.load()
    turn = UPRIGHT.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int:
    """What the EXIF tag says, 1 (upright) where there is none that can be read; no other tag is looked at."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # metadata of any shape; the pixels are sound
        return 1
    return value if isinstance(value, int) else 1


def _unit(image: Image.Image) -> np.ndarray:
    """8-bit levels as float32 in [0, 1]."""
    pixels = np.asarray(image).astype(np.float32)
    pixels /= 255
    return pixels
