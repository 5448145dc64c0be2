"""Clips cut out of encoded videos: a random stride and start, resized and cropped.

Axes: c channels (RGB), t frames, h w pixels.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from perturb.data.decoding import CUT_SHORT, PLAUSIBLE_FPS, OpenVideo, plausible, readable, shown_size, upright
from perturb.data.images import MAX_COVER, cover_size
from perturb.data.source import BrokenSample, Crop, check_choice, crop_offset
from perturb.errors import UserError

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

STRIDE = {"min": 1, "max": 6}
ISO_DURATION = re.compile(r"PT(?:(\d+)H)?(?:(\d+)M)?(?:([\d.]+)S)?")


class ClipReader:
    """Cuts clips out of encoded videos: a random stride, a random start, resized to cover the size, then cropped.

    ``stride``: ``min`` and ``max``; drawn uniformly among those that fit into the video. ``crop``: "centre" or
    "random". A phone's rotation and pixels that are not square are undone.
    """

    def __init__(self, *, stride: Mapping[str, int] | None = None, crop: Crop = "centre") -> None:
        chosen = dict(STRIDE if stride is None else stride)
        if set(chosen) != set(STRIDE) or not all(type(value) is int for value in chosen.values()):
            raise UserError(f"stride is {chosen}; allowed: whole numbers min and max, for example {{min: 1, max: 6}}")
        if not 1 <= chosen["min"] <= chosen["max"]:
            raise UserError(f"stride is {chosen}; allowed: 1 ≤ min ≤ max")
        self.stride = chosen
        self.crop: Crop = check_choice("crop", crop, Crop)

    def describe(self) -> dict[str, Any]:
        """For the manifest."""
        return {"stride": self.stride, "crop": self.crop}

    def read(
        self,
        file: Path | bytes,
        name: str,
        *,
        frames: int,
        height: int,
        width: int,
        generator: torch.Generator,
        fps: str = "",
        duration: str = "",
    ) -> tuple[Tensor, float]:
        """A clip ``c t h w`` in [−1, 1] and its frames per second, native fps / stride.

        ``fps`` and ``duration`` are what a table says (empty: nothing); that fps goes before the container's, that
        duration is used where the container has none. Raises BrokenSample for whatever cannot be read.
        """
        stated, seconds = parse_fps(fps, name), parse_duration(duration, name)
        with readable(name), OpenVideo(file, name, fps=stated, duration=seconds) as video:
            shot, stride = self._cut(video, frames, generator)
            pixels = self._pixels(video, shot, height, width, generator)
        clip = rearrange(torch.from_numpy(pixels), "t h w c -> c t h w")
        return clip.float().div_(127.5).sub_(1), video.fps / stride

    def _cut(self, video: OpenVideo, frames: int, generator: torch.Generator) -> tuple[list[VideoFrame], int]:
        """The frames of a clip and its stride. A stated count that is a little too high is corrected and drawn anew."""
        count = video.count
        for _ in range(2):
            start, stride = self._place(video.name, count, frames, generator)
            shot, end = video.frames(start, stride, frames)
            if len(shot) == frames:
                return shot, stride
            if end < CUT_SHORT * video.count:
                break
            count = end
        raise BrokenSample(video.name, f"ends after {end} of {video.count} frames: cut off")

    def _place(self, name: str, count: int, frames: int, generator: torch.Generator) -> tuple[int, int]:
        """Start frame and stride, drawn uniformly: the stride among those that fit, the start where that one fits."""
        low, high = self.stride["min"], self.stride["max"]
        longest = high if frames == 1 else min(high, (count - 1) // (frames - 1))
        if count < 1 or longest < low:
            needed = (frames - 1) * low + 1
            raise BrokenSample(name, f"has {count} frames; {frames} at stride {low} take {needed}")
        stride = low + int(torch.randint(longest - low + 1, (), generator=generator))
        return int(torch.randint(count - (frames - 1) * stride, (), generator=generator)), stride

    def _pixels(
        self, video: OpenVideo, shot: list[VideoFrame], height: int, width: int, generator: torch.Generator
    ) -> np.ndarray:
        """uint8 t h w c: upright, with square pixels, resized to cover height × width, one cut-out for all frames."""
        h, w = cover_size(shown_size(shot[0], video.aspect), height, width)
        if h * w > MAX_COVER * height * width and h * w > shot[0].height * shot[0].width:
            raise BrokenSample(
                video.name, f"is too long and narrow for {width}×{height}: {shot[0].width}×{shot[0].height}"
            )
        top, left = crop_offset((h - height, w - width), self.crop, generator)
        return np.stack([image[top : top + height, left : left + width] for image in upright(shot, h, w)])


def parse_duration(text: str, name: str = "") -> float | None:
    """Seconds, written as a number or, as in WebVid, as ISO 8601; None for an empty text. Raises BrokenSample.

    >>> parse_duration("2.5"), parse_duration("PT00H01M02S"), parse_duration("")
    (2.5, 62.0, None)
    """
    text = text.strip().upper()
    if not text:
        return None
    iso = ISO_DURATION.fullmatch(text)
    try:
        hours, minutes, seconds = (float(part or 0) for part in iso.groups()) if iso else (0.0, 0.0, float(text))
    except ValueError:
        hours = minutes = seconds = 0.0
    total = 3600 * hours + 60 * minutes + seconds
    if not (math.isfinite(total) and total > 0):
        raise BrokenSample(name, f"the table gives the duration {text!r}; allowed: seconds, or PT00H00M12S")
    return total


def parse_fps(text: str, name: str) -> float | None:
    """What the table says, None where it says nothing. Raises BrokenSample."""
    if not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not plausible(value):
        low, high = PLAUSIBLE_FPS
        raise BrokenSample(name, f"the table gives {text!r} frames per second; allowed: {low:g} to {high:g}")
    return value
