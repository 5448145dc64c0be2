"""Image sets D_I: stills with captions, as tensors in [−1, 1].

Axes: b batch, c channels (RGB), h w pixels.
"""

import hashlib
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from perturb.data.captions import find_captions
from perturb.data.pictures import SUFFIXES, list_files, read_picture
from perturb.data.source import BrokenSample, check_choice
from perturb.errors import UserError
from perturb.store.paths import resolve

Policy = Literal["single_frame", "repeat"]
MAX_COVER = 16  # times the size wanted: an aspect 16 times that of the cut-out; panoramas have less


class ImageSet(Protocol):
    """Captioned stills, and the policy by which a still stands in for a video.

    ``single_frame``: a video of one frame (t = 1). ``repeat``: the still repeated along the frames.
    """

    as_video: Policy

    def __len__(self) -> int: ...

    def load(self, index: int, height: int, width: int) -> Tensor:
        """Image ``index`` as c h w in [−1, 1]."""
        ...

    def caption(self, index: int) -> str: ...

    def describe(self) -> dict[str, Any]:
        """For the manifest: source, count, ``skipped`` (the list of files left out), a digest of the content."""
        ...


class ImageFiles:
    """Captioned image files below one folder; what `ImageFolder` and `ImageTable` share.

    ``names`` are relative to ``root`` (or absolute), each with its caption. With ``max_corrupt_fraction`` every image
    is decoded once at the start, damaged ones are skipped and listed, and more than that fraction is a UserError; None
    reads no image before it is wanted. ``digest``: of the table that names and captions come from.
    """

    def __init__(
        self,
        root: Path,
        names: Sequence[str],
        captions: Sequence[str],
        *,
        as_video: Policy,
        max_corrupt_fraction: float | None,
        digest: str | None = None,
    ) -> None:
        self.as_video: Policy = as_video
        self.folder, self.checked = root, max_corrupt_fraction is not None
        self.names, self.captions = names, captions
        self.skipped: list[str] = []
        self._kept: Sequence[int] = range(len(names))
        if max_corrupt_fraction is None:
            self._digest = digest or _digest_of(zip(names, captions, strict=True))
            return
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            digests = list(pool.map(lambda name: _digest_if_sound(root / name), names))
        self._kept = [number for number, found in enumerate(digests) if found]
        self.skipped = [names[number] for number, found in enumerate(digests) if not found]
        _check_damage(self.skipped, len(names), max_corrupt_fraction, root)
        self._digest = _digest_of((digests[number], captions[number]) for number in self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def name(self, index: int) -> str:
        """The path of image ``index``, relative to the folder."""
        return self.names[self._kept[index]]

    def picture(self, index: int) -> Tensor:
        """Image ``index``, upright and on white, at its own size: c h w in [0, 1]. Raises BrokenSample."""
        file = self.folder / self.name(index)
        return decode_image(file, str(file))

    def load(self, index: int, height: int, width: int) -> Tensor:
        """Image ``index``, upright, on white, its shorter side resized and the centre cropped: c h w in [−1, 1]."""
        return resize_and_crop(self.picture(index), height, width) * 2 - 1

    def caption(self, index: int) -> str:
        """The caption of image ``index``. Raises BrokenSample where its row of a table cannot be read."""
        return self.captions[self._kept[index]]

    def describe(self) -> dict[str, Any]:
        """For the manifest: source, count, policy, the skipped files and a digest of bytes (or names) and captions."""
        return {
            "source": str(self.folder),
            "count": len(self),
            "as_video": self.as_video,
            "checked": self.checked,
            "skipped_count": len(self.skipped),
            "skipped": self.skipped,
            "sha256": self._digest,
        }


class ImageFolder(ImageFiles):
    """The images of a folder and its subfolders, in the order of their sorted relative paths.

    ``captions``: null looks for ``.txt`` files beside the images, then for captions.csv, captions.jsonl, metadata.csv
    or metadata.jsonl in the folder; a path names a table with ``file`` and ``caption`` (or the headings that
    ``columns`` names, see `Table`); "none" means no captions. Every image is decoded once at the start: damaged ones
    are skipped and listed; ``max_corrupt_fraction`` null leaves that out, for folders too large. Raises UserError for a
    missing or empty folder, missing captions, and more than ``max_corrupt_fraction`` damaged images.
    """

    def __init__(
        self,
        folder: str | Path,
        captions: str | Path | None = None,
        as_video: Policy = "single_frame",
        max_corrupt_fraction: float | None = 0.05,
        columns: Mapping[str, str | None] | None = None,
    ) -> None:
        check_settings(as_video, max_corrupt_fraction)
        root = resolve(folder)
        files = list_files(root, SUFFIXES, what="images", setting="images.folder")
        super().__init__(
            root,
            [file.relative_to(root).as_posix() for file in files],
            find_captions(root, files, captions, columns=columns),
            as_video=as_video,
            max_corrupt_fraction=max_corrupt_fraction,
        )


def decode_image(file: Path | bytes, name: str) -> Tensor:
    """An image file, or the bytes of one, see `read_picture`: c h w in [0, 1]. Raises BrokenSample."""
    return rearrange(torch.from_numpy(read_picture(file, name)), "h w c -> c h w")


def resize_and_crop(pixels: Tensor, height: int, width: int, place: tuple[int, int] | None = None) -> Tensor:
    """Resize c h w so that it just covers height × width (anti-aliased bilinear), then cut that size out.

    ``place``: top and left of the cut-out in the resized picture (see `cover_size`), None: its centre. Of a picture so
    long and narrow that it would have to be enlarged beyond `MAX_COVER` times the cut-out, only the part around the
    cut-out is resized.
    """
    h, w = pixels.shape[-2:]
    tall, wide = cover_size((h, w), height, width)
    top, left = ((tall - height) // 2, (wide - width) // 2) if place is None else place
    if tall * wide > MAX_COVER * height * width and tall * wide > h * w:
        (first, last), (begin, end) = _needed(top, height, tall / h, h), _needed(left, width, wide / w, w)
        pixels = pixels[:, first:last, begin:end]
        top, left = round(top - first * tall / h), round(left - begin * wide / w)
        tall, wide = round((last - first) * tall / h), round((end - begin) * wide / w)
    if (tall, wide) != tuple(pixels.shape[-2:]):
        size = (tall, wide)
        pixels = F.interpolate(pixels[None], size=size, mode="bilinear", antialias=True, align_corners=False)[0]
    return pixels[:, top : top + height, left : left + width].contiguous()


def _needed(start: int, length: int, scale: float, total: int) -> tuple[int, int]:
    """First and one past the last of ``total`` pixels that ``length`` resized ones from ``start`` on are made from."""
    # bilinear: a pixel on each side, when made smaller as many as are joined
    reach = math.ceil(max(1.0, 1 / scale)) + 1
    return max(0, math.floor(start / scale) - reach), min(total, math.ceil((start + length) / scale) + reach)


def cover_size(shown: tuple[float, float], height: int, width: int) -> tuple[int, int]:
    """The smallest size (h, w) with the proportions of ``shown`` that covers height × width.

    >>> cover_size((35, 61), 32, 32)
    (32, 56)
    """
    h, w = shown
    factor = max(height / h, width / w)
    return max(round(h * factor), height), max(round(w * factor), width)


def published_resize(image_u8: np.ndarray, height: int, width: int) -> Tensor:
    """h w c uint8 → b c h w in [−1, 1] as the published I2V script loads it: stretched, bilinear, no anti-aliasing.

    Half-pixel centres (cv2.INTER_LINEAR on float32); the aspect ratio is not kept.
    """
    pixels = rearrange(torch.from_numpy(image_u8.astype(np.float32)), "h w c -> 1 c h w")
    resized = F.interpolate(pixels, size=(height, width), mode="bilinear", align_corners=False)
    return (resized / 255 - 0.5) * 2


def load_conditioning_image(path: str | Path, height: int, width: int, *, crop: bool = False) -> Tensor:
    """The image that conditions I2V, b c h w in [−1, 1]: resized as published, or cut (`resize_and_crop`).

    Raises UserError if it is unreadable.
    """
    file = resolve(path)
    if not file.is_file():
        raise UserError(f"no image file {file}: give one with image=/path/image.png")
    pixels = decode_image(file, str(file))
    if crop:
        return resize_and_crop(pixels, height, width)[None] * 2 - 1
    levels = (pixels * 255).round().to(torch.uint8)
    return published_resize(rearrange(levels, "c h w -> h w c").numpy(), height, width)


def check_settings(as_video: Policy, max_corrupt_fraction: float | None = None) -> None:
    """Raise UserError for a policy or a fraction that cannot be."""
    check_choice("images.as_video", as_video, Policy)
    if max_corrupt_fraction is not None and not 0 <= max_corrupt_fraction <= 1:
        raise UserError(f"images.max_corrupt_fraction must lie in [0, 1] or be null, but it is {max_corrupt_fraction}")


def _digest_if_sound(file: Path) -> str:
    """SHA-256 of a file that `read_picture` can read, else an empty string."""
    try:
        content = file.read_bytes()
        read_picture(content, file.name)
    except (OSError, ValueError, BrokenSample):  # ValueError: a name with a zero byte
        return ""
    return hashlib.sha256(content).hexdigest()


def _check_damage(skipped: Sequence[str], total: int, allowed: float, folder: Path) -> None:
    if len(skipped) == total or len(skipped) > allowed * total:
        raise UserError(
            f"{len(skipped)} of {total} images in {folder} cannot be read, e.g. {', '.join(skipped[:3])}: "
            f"mend or remove them, or raise images.max_corrupt_fraction (now {allowed})"
        )


def _digest_of(rows: Iterable[tuple[str, str]]) -> str:
    total = hashlib.sha256()
    for name, caption in rows:
        total.update(f"{name}\0{caption}\0".encode())
    return total.hexdigest()
