"""An encoded video through PyAV: what it says of itself, and frames from any place on.

Only what lies between a keyframe and the last wanted frame is decoded. Axes: c channels (RGB), h w pixels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from perturb.data import pictures
from perturb.data.source import BrokenSample

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

SUFFIXES = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi")
CUT_SHORT = 0.9  # a video that ends before this share of its stated frames was cut off; a few frames less are usual
PLAUSIBLE_FPS = (1.0, 240.0)
RATE_TOLERANCE = 0.25  # by which timestamps may contradict the stated rate: variable-rate videos wander by less
REWINDS = (0.0, 1.0, 8.0, math.inf)  # seconds before the wanted frame


class OpenVideo:
    """One video file, or the bytes of one, open for reading; a context manager.

    ``fps``: native frames per second, the given one before the container's. ``count``: frames, as the container says
    or as its duration (else the given one, in seconds) makes likely. ``aspect``: width of a pixel over its height.
    Raises BrokenSample, here and in the methods; PyAV's own errors pass.
    """

    def __init__(self, file: Path | bytes, name: str, *, fps: float | None, duration: float | None) -> None:
        import av

        self.name = name
        self._container = av.open(_openable(file, name), "r")
        try:
            self._read_header(fps, duration)
        except BaseException:
            self._container.close()
            raise

    def __enter__(self) -> OpenVideo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()

    def _read_header(self, fps: float | None, duration: float | None) -> None:
        if not self._container.streams.video:
            raise BrokenSample(self.name, "holds no video stream")
        self._stream = self._container.streams.video[0]
        self._stream.thread_count = 1  # feeds decode several files at once; threads in each would only compete
        self.aspect = float(self._stream.sample_aspect_ratio or 0) or 1.0
        native = float(self._stream.average_rate or self._stream.guessed_rate or 0)
        if fps is None and not plausible(native):
            low, high = PLAUSIBLE_FPS
            found = f"says {native:g} frames per second" if native else "says no frame rate"
            raise BrokenSample(self.name, f"{found}; allowed: {low:g} to {high:g}, or the right one in a table's fps")
        self.fps, self._vouched = fps or native, fps is not None
        listed = self._stream.frames
        # where frames are listed (mp4) the container's rate is that of its timestamps, right or wrong; elsewhere
        # (Matroska, WebM) it is only a claim
        self._rate = native if listed and native else self.fps
        seconds = self._container.duration / 1e6 if self._container.duration else duration
        self.count = listed or (round(seconds * self._rate) if seconds else self._count_packets())

    def _count_packets(self) -> int:
        """Frames of a stream that states neither frames nor duration: read through, but not decoded."""
        return sum(packet.size > 0 for packet in self._container.demux(self._stream))

    def frames(self, start: int, stride: int, count: int) -> tuple[list[VideoFrame], int]:
        """Up to ``count`` frames from number ``start`` on, every ``stride``-th; and how many there proved to be."""
        shot: list[VideoFrame] = []
        first, number, damaged = start, -1, False
        for frame in self._from(start):
            # what is damaged stays so until the next keyframe: the frames between are drawn from it
            damaged = frame.is_corrupt or (damaged and not frame.key_frame)
            # by counting once it has begun: the clip has the frames that are there, even where timestamps wander
            number = number + 1 if shot else round(self._seconds(frame) * self._rate)
            if number < start:
                continue
            if damaged:
                raise BrokenSample(self.name, f"frame {number} is damaged")
            if not shot:
                first = number
            if (number - first) % stride == 0:
                shot.append(frame)
            if len(shot) == count:
                break
        self._check_rate(shot, stride)
        return shot, number + 1

    def too_many(self, size: int) -> int:
        """The number of decoded frames that no longer fit into ``size`` bytes."""
        frame = 3 * self._stream.width * self._stream.height * self.aspect
        return int(size // max(frame, 1)) + 1

    def _from(self, number: int) -> Iterator[VideoFrame]:
        """All frames from a keyframe at or before frame ``number`` on.

        Indices are in decoding order, so a keyframe that is decoded before the frame may be shown after it: then the
        seek is repeated from earlier.
        """
        seconds = number / self._rate
        base, origin = self._stream.time_base or 1, self._stream.start_time or 0
        for back in REWINDS:
            ticks = origin + math.floor(max(0.0, seconds - back) / base)
            self._container.seek(ticks, stream=self._stream)
            frames = self._container.decode(self._stream)
            head = next(frames, None)
            if head is not None and (ticks == origin or self._seconds(head) <= seconds + 0.5 / self._rate):
                return itertools.chain([head], frames)
        return iter(())

    def _seconds(self, frame: VideoFrame) -> float:
        """Time since the start of the stream."""
        if frame.pts is None:
            raise BrokenSample(self.name, "its frames carry no timestamps")
        return float((frame.pts - (self._stream.start_time or 0)) * (self._stream.time_base or 1))

    def _check_rate(self, shot: list[VideoFrame], stride: int) -> None:
        """Raise BrokenSample where the timestamps contradict the stated rate, unless a table vouches for it."""
        if self._vouched or len(shot) < 2:
            return
        lasted = self._seconds(shot[-1]) - self._seconds(shot[0])
        found = (len(shot) - 1) * stride / lasted if lasted > 0 else math.inf
        if abs(found / self.fps - 1) > RATE_TOLERANCE:
            raise BrokenSample(
                self.name,
                f"says {self.fps:g} frames per second, but its timestamps give {found:.4g}; "
                "a table's fps may give the right one",
            )


def read_video(file: Path, name: str, max_bytes: int) -> tuple[np.ndarray, float]:
    """All frames of a video as shown, uint8 t h w c, and its frames per second.

    Raises BrokenSample for what cannot be read, was cut short, or takes more than ``max_bytes``.
    """
    with readable(name), OpenVideo(file, name, fps=None, duration=None) as video:
        limit = video.too_many(max_bytes)
        shot, end = video.frames(0, 1, limit)
        if not shot:
            raise BrokenSample(name, "holds no frames")
        if len(shot) == limit:
            raise BrokenSample(name, f"takes more than {max_bytes / 2**30:g} GiB decoded: cut it into clips")
        if end < CUT_SHORT * video.count:
            raise BrokenSample(name, f"ends after {end} of {video.count} frames: cut off")
        h, w = (round(side) for side in shown_size(shot[0], video.aspect))
        return np.stack(list(upright(shot, h, w))), video.fps


def plausible(fps: float) -> bool:
    """Whether a video can have this many frames per second (NaN cannot)."""
    return PLAUSIBLE_FPS[0] <= fps <= PLAUSIBLE_FPS[1]


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Raises BrokenSample in the place of whatever PyAV raises for a file it cannot read."""
    import av

    try:
        yield
    except BrokenSample:
        raise
    except (av.FFmpegError, OSError, ValueError, EOFError) as error:
        # PyAV's strerror is the reason without number and path, which would travel with shared results
        reason = (getattr(error, "strerror", None) or str(error).strip() or type(error).__name__).splitlines()[0]
        raise BrokenSample(name, f"cannot be decoded: {reason}") from None


def shown_size(frame: VideoFrame, aspect: float) -> tuple[float, float]:
    """Height and width as shown: a phone's rotation and pixels that are ``aspect`` times as wide as high undone."""
    tall, wide = frame.height, frame.width * aspect
    return (wide, tall) if _turns(frame) % 2 else (tall, wide)


def upright(frames: Sequence[VideoFrame], h: int, w: int) -> Iterator[np.ndarray]:
    """Each frame as uint8 h w c, turned as the first one says and resized; transparency is laid on white.

    The flags ask for full chroma and the same bytes on every processor.
    """
    from av.video.reformatter import Interpolation as Flag
    from av.video.reformatter import VideoReformatter

    flags = Flag.BILINEAR | Flag.FULL_CHR_H_INT | Flag.FULL_CHR_H_INP | Flag.ACCURATE_RND | Flag.BITEXACT
    scaler = VideoReformatter()  # one for all frames: it keeps its tables
    turns = _turns(frames[0])
    height, width = (w, h) if turns % 2 else (h, w)
    clear = any(component.is_alpha for component in frames[0].format.components)
    form = "rgba" if clear else "rgb24"
    for frame in frames:
        scaled = scaler.reformat(frame, width=width, height=height, format=form, interpolation=flags, threads=1)
        levels = scaled.to_ndarray()
        if clear:
            levels = pictures.to_levels(pictures.on_white(levels.astype(np.float32) / 255))
        yield np.rot90(levels, turns)


def _turns(frame: VideoFrame) -> int:
    """Quarter turns to the left that put the frame upright."""
    return frame.rotation // 90 % 4


def _openable(file: Path | bytes, name: str) -> str | BytesIO:
    """What PyAV opens. A path is made absolute, so that FFmpeg cannot take it for one of its protocols."""
    if isinstance(file, bytes):
        size = len(file)
    elif file.is_file():
        size = file.stat().st_size
    else:
        raise BrokenSample(name, "no such file")
    if size == 0:
        raise BrokenSample(name, "is empty (0 bytes)")
    return BytesIO(file) if isinstance(file, bytes) else str(file.absolute())
