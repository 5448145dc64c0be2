"""Clips cut out of videos and animations: a random stride and start, resized and cropped.

Axes: c channels (RGB), t frames, h w pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from perturb.data.animations import OpenAnimation
from perturb.data.decoding import OpenVideo, open_clip, readable, shown_size, upright
from perturb.data.images import MAX_COVER, cover_size
from perturb.data.source import BrokenSample, Crop, check_choice, crop_offset
from perturb.data.timeline import PLAUSIBLE_FPS, plausible
from perturb.errors import UserError

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

STRIDE = {"min": 1, "max": 6}
ADVICE = "; a table, or the .json of a shard, may give the right fps"


class ClipReader:
    """Cuts clips out of videos and animations: random stride, random start, resized to cover the size, then cropped.

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
    ) -> tuple[Tensor, float]:
        """A clip ``c t h w`` in [−1, 1] and its frames per second, native fps / stride.

        ``fps`` is what a table says (empty: nothing); it goes before the file's. Raises BrokenSample for whatever
        cannot be read.
        """
        with readable(name), open_clip(file, name, fps=parse_fps(fps, name), advice=ADVICE) as video:
            start, stride = self._place(name, video.count, frames, generator)
            pixels = self._pixels(video, video.frames(start, stride, frames), height, width, generator)
        clip = rearrange(torch.from_numpy(pixels), "t h w c -> c t h w")
        return clip.float().div_(127.5).sub_(1), video.fps / stride

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
        self,
        video: OpenVideo | OpenAnimation,
        shot: list[VideoFrame],
        height: int,
        width: int,
        generator: torch.Generator,
    ) -> np.ndarray:
        """uint8 t h w c: upright, with square pixels, resized to cover height × width, one cut-out for all frames."""
        h, w = cover_size(shown_size(shot[0], video.aspect), height, width)
        if h * w > MAX_COVER * height * width and h * w > shot[0].height * shot[0].width:
            raise BrokenSample(
                video.name, f"is too long and narrow for {width}×{height}: {shot[0].width}×{shot[0].height}"
            )
        top, left = crop_offset((h - height, w - width), self.crop, generator)
        return np.stack([image[top : top + height, left : left + width] for image in upright(shot, h, w)])


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
