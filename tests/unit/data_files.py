"""Real encoded videos and tar shards for the tests of perturb.data, made with PyAV and tarfile.

Axes: t frames, h w pixels, c channels (RGB).
"""

import io
import os
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.video.reformatter import ColorRange
from torch import Tensor

from perturb.data.source import Sample, Source

# every frame shows its own number: (number + 1) · LEVEL in red
LEVEL = 5


def numbered(count: int = 40, height: int = 32, width: int = 32) -> np.ndarray:
    """uint8 t h w c: frame i is red of brightness (i + 1) · LEVEL."""
    frames = np.zeros((count, height, width, 3), dtype=np.uint8)
    frames[..., 0] = (np.arange(count) + 1)[:, None, None] * LEVEL
    return frames


def write_video(
    path: Path,
    frames: np.ndarray,
    *,
    rate: float = 24,
    codec: str = "libx264rgb",
    pixels: str = "rgb24",
    given: str = "rgb24",
    full_range: bool = False,
    stamps: tuple[float, ...] | None = None,
    rotation: int = 0,
    faststart: bool = False,
    options: Mapping[str, str] | None = None,
) -> Path:
    """Encode frames t h w c, lossless unless told otherwise; ``stamps``: the time of each frame in seconds.

    ``given``: the pixel format of ``frames``. ``full_range``: says that 0 to 255 is black to white, not 16 to 235.
    ``faststart`` puts the index before the pictures, so that a cut file can still be opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    muxer = {"movflags": "+faststart"} if faststart else {}
    quality = {"qp": "0"} if codec == "libx264rgb" else {}
    with av.open(str(path), "w", options=muxer) as container:
        stream: Any = container.add_stream(codec, rate=Fraction(rate), options={**quality, **(options or {})})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pixels
        if full_range:
            stream.codec_context.color_range = ColorRange.JPEG
        if stamps is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        container.start_encoding()  # writes the header, also of a video without frames
        for number, pixels_of_frame in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels_of_frame), format=given)
            if stamps is not None:
                frame.pts, frame.time_base = round(stamps[number] * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@contextmanager
def as_nobody() -> Iterator[None]:
    """What may not be read: root may read anything, so it becomes another user."""
    user = os.geteuid()
    os.seteuid(user or 65534)
    try:
        yield
    finally:
        os.seteuid(user)


def numbers(clip: Tensor) -> list[int]:
    """Which frames of `numbered` a clip c t h w in [−1, 1] shows, read from its middle."""
    red = clip[0, :, clip.shape[2] // 2, clip.shape[3] // 2]
    return [round(float(value + 1) * 127.5 / LEVEL) - 1 for value in red]


def load(source: Source, index: int = 0, *, frames: int = 4, size: int | tuple[int, int] = 32, seed: int = 0) -> Sample:
    """One sample, square unless told otherwise."""
    height, width = (size, size) if isinstance(size, int) else size
    generator = torch.Generator().manual_seed(seed)
    return source.load(index, frames=frames, height=height, width=width, generator=generator)


def write_shard(path: Path, files: Mapping[str, bytes]) -> Path:
    """A tar file of these files, in this order."""
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def mutated(content: bytes, random: np.random.Generator) -> bytes:
    """A file with some bytes changed, a part gone, or a part doubled."""
    data = bytearray(content)
    for _ in range(random.integers(1, 3)):
        place, length = int(random.integers(len(data))), int(random.integers(1, 9))
        match random.integers(4):
            case 0:
                data[place : place + length] = random.bytes(length)
            case 1:
                del data[place : place + length]
            case 2:
                data[place:place] = data[place : place + length] * 3
            case _ if len(data) > 40:
                del data[max(20, place) :]
    return bytes(data)
