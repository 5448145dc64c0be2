"""Animations through Pillow: gif, WebP and APNG, their frames by their delays. Axes: h w pixels, c channels (RGB)."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image

from perturb.data import pictures
from perturb.data.source import BrokenSample
from perturb.data.timeline import Timeline

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

SUFFIXES = (".gif", ".webp", ".png", ".apng")
MAX_BYTES = 2 * 2**30  # of decoded frames
SHORTEST, INSTEAD = 20, 100  # milliseconds: as in browsers and FFmpeg, a delay below 20 ms means 100


class OpenAnimation:
    """All frames of an animation; offers what `OpenVideo` does.

    Frames are those of a constant rate, see `Timeline`: writers join equal frames to one that is shown longer. Where
    the file gives no frame a delay, each is shown once at ``silent`` frames per second; a given ``fps`` goes before all
    delays. One frame alone is shown as long as it says, at ``silent``, else at 10 frames per second. Raises
    BrokenSample for what cannot be read, ends too early, or takes more than `MAX_BYTES` decoded.
    """

    aspect = 1.0

    def __init__(self, file: Path | bytes, name: str, *, fps: float | None = None, silent: float | None = None) -> None:
        self.name = name
        try:
            content = file if isinstance(file, bytes) else file.read_bytes()
            if content[:3] == b"GIF" and not gif_is_whole(content):
                raise BrokenSample(name, "cannot be decoded: its end is missing, it was cut off")
            self._frames, delays = _decoded(content, name)
        except BrokenSample:
            raise
        except Exception as error:  # Pillow's decoders, as in `read_picture`
            raise BrokenSample(name, f"cannot be decoded: {pictures.damage(error)}") from None
        self._timeline = _timeline(delays, fps, silent)
        self.fps, self.count = self._timeline.fps, self._timeline.count

    def __enter__(self) -> OpenAnimation:
        return self

    def __exit__(self, *_: object) -> None:
        self._frames = []

    @property
    def size(self) -> int:
        """Bytes of a decoded frame."""
        return self._frames[0].size

    def frames(self, start: int, stride: int, count: int) -> list[VideoFrame]:
        """``count`` frames from number ``start`` on, every ``stride``-th."""
        from av import VideoFrame

        shown = self._timeline.shown(range(start, start + (count - 1) * stride + 1, stride))
        made = {index: VideoFrame.from_ndarray(self._frames[index], format="rgb24") for index in set(shown)}
        return [made[index] for index in shown]


def is_animation(file: Path | bytes) -> bool:
    """Whether a file, or the bytes of one, begins as a gif, or as a WebP or PNG of several pictures."""
    try:
        with io.BytesIO(file) if isinstance(file, bytes) else file.open("rb") as stream:
            return _begins_animated(stream)
    except (OSError, ValueError):
        return False


def gif_is_whole(content: bytes) -> bool:
    """Whether the blocks of a gif lead to its end mark; what ends between two frames looks whole to a decoder."""

    def table(flags: int) -> int:
        return 3 << (flags & 7) + 1 if flags & 0x80 else 0

    place = 13 + (table(content[10]) if len(content) > 10 else 0)
    while place < len(content) and content[place] != 0x3B:
        kind = content[place]
        place += 1
        if kind not in (0x21, 0x2C):
            continue  # padding
        if kind == 0x2C:
            place += 10 + (table(content[place + 8]) if place + 8 < len(content) else 0)
        else:
            place += 1
        while place < len(content) and content[place]:
            place += 1 + content[place]
        place += 1
    return place < len(content)


def _begins_animated(stream: BinaryIO) -> bool:
    head = stream.read(21)
    if head[:3] == b"GIF":
        return True
    if head[:4] == b"RIFF":
        return head[8:16] == b"WEBPVP8X" and len(head) > 20 and bool(head[20] & 2)
    if head[:8] != b"\x89PNG\r\n\x1a\n":
        return False
    stream.seek(8)
    while len(chunk := stream.read(8)) == 8 and chunk[4:] != b"IDAT":
        if chunk[4:] == b"acTL":
            return True
        stream.seek(int.from_bytes(chunk[:4], "big") + 4, io.SEEK_CUR)
    return False


def _decoded(content: bytes, name: str) -> tuple[list[np.ndarray], list[float]]:
    """The frames, uint8 h w c on white, and the delay of each in milliseconds."""
    frames: list[np.ndarray] = []
    delays: list[float] = []
    with Image.open(io.BytesIO(content)) as image:
        count = getattr(image, "n_frames", 1)
        if 3 * image.width * image.height * count > MAX_BYTES:
            raise BrokenSample(name, f"takes more than {MAX_BYTES / 2**30:g} GiB decoded: cut it into clips")
        # an APNG may begin with a picture for programs that show none of the others
        for number in range(int(getattr(image, "default_image", False)), count):
            image.seek(number)
            frames.append(pictures.rgb_levels(image))
            delays.append(float(image.info.get("duration", 0)))  # known once the frame is decoded
    if not frames:
        raise BrokenSample(name, "holds no frames")
    return frames, delays


def _timeline(delays: list[float], fps: float | None, silent: float | None) -> Timeline:
    if not any(delays) or fps is not None:
        return Timeline(range(len(delays)), fps=fps or silent or 0.0)
    times = np.cumsum([0.0, *(delay if delay >= SHORTEST else INSTEAD for delay in delays)]) / 1000
    stated = [silent or 1000 / INSTEAD] if len(delays) == 1 else []
    return Timeline(times[:-1].tolist(), stated, end=float(times[-1]))
