"""An encoded video through PyAV: the times of its frames, and frames from any place on.

Only what lies between a keyframe and the last wanted frame is decoded. Axes: c channels (RGB), h w pixels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from perturb.data import pictures
from perturb.data.animations import OpenAnimation, is_animation
from perturb.data.source import BrokenSample
from perturb.data.timeline import PLAUSIBLE_FPS, Timeline, plausible
from perturb.errors import UserError

if TYPE_CHECKING:
    from av import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".3gp", ".webm", ".mkv", ".avi", ".flv", ".wmv", ".ogv"),
    *(".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".vob"),
)
CUT_SHORT = 0.9  # a video that ends before this share of what its container lists or lasts was cut off
SEEKABLE = ("mov", "matroska", "avi", "flv")  # by an index; in the others a search may end between two keyframes
REWINDS = (0.0, 1.0, 8.0)  # seconds before the wanted frame; then the file is read from its beginning
MAX_FRAMES = 100_000  # of a clip to score, an hour: more are times that jump, and would fill the memory with one frame
NO_FILM = 1 << 10 | 1 << 11 | 1 << 20  # FFmpeg's attached_pic, timed_thumbnails, still_image: cover art and its like


class OpenVideo:
    """One video file, or the bytes of one, open for reading; a context manager.

    Its frames are those of a constant rate, see `Timeline`: ``count`` of them, at ``fps``. A given ``fps`` goes before
    the file's own times. ``aspect``: width of a pixel over its height. Raises BrokenSample, here and in the methods;
    PyAV's own errors pass.
    """

    def __init__(self, file: Path | bytes, name: str, *, fps: float | None = None) -> None:
        self.name, self._file = name, file
        self._open()
        try:
            self.aspect = float(self._stream.sample_aspect_ratio or 0) or 1.0
            self._stamps = self._survey()
            self._timeline = Timeline([float(stamp * self._tick) for stamp in self._stamps], self._stated(), fps=fps)
        except BaseException:
            self._container.close()
            raise
        self.fps, self.count = self._timeline.fps, self._timeline.count

    def __enter__(self) -> OpenVideo:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    @property
    def size(self) -> float:
        """Bytes of a decoded frame as shown."""
        return 3 * self._stream.width * self._stream.height * self.aspect

    def frames(self, start: int, stride: int, count: int) -> list[VideoFrame]:
        """``count`` frames from number ``start`` on, every ``stride``-th."""
        shown = self._timeline.shown(range(start, start + (count - 1) * stride + 1, stride))
        wanted = {self._stamps[index]: number for number, index in enumerate(shown)}
        found: dict[int, VideoFrame] = {}
        damaged = False
        for frame in self._from(self._stamps[shown[0]]):
            # what is damaged stays so until the next keyframe: the frames between are drawn from it
            damaged = frame.is_corrupt or (damaged and not frame.key_frame)
            if frame.pts in wanted:
                if damaged:
                    raise BrokenSample(self.name, f"frame {start + stride * wanted[frame.pts]} is damaged")
                found[frame.pts] = frame
            if len(found) == len(wanted):
                return [found[self._stamps[index]] for index in shown]
        lost = next(number for stamp, number in wanted.items() if stamp not in found)
        raise BrokenSample(self.name, f"frame {start + stride * lost} is damaged: it cannot be decoded")

    def _open(self) -> None:
        """Open the file, at its beginning."""
        import av

        self._container = av.open(_openable(self._file, self.name), "r")
        try:
            self._stream = self._film()
        except BaseException:
            self._container.close()
            raise
        self._stream.thread_count = 1  # feeds decode several files at once; threads in each would only compete

    def _film(self) -> VideoStream:
        """The first video stream that is no cover picture."""
        films = [stream for stream in self._container.streams.video if not stream.disposition & NO_FILM]
        if not films:
            beside = ", only a cover picture" if self._container.streams.video else ""
            raise BrokenSample(self.name, f"holds no video stream{beside}")
        if films[0].codec_context is None:
            raise BrokenSample(self.name, "cannot be decoded: Decoder not found")
        return films[0]

    @property
    def _tick(self) -> Fraction:
        """Seconds."""
        return self._stream.time_base or Fraction(1)

    def _stated(self) -> list[float]:
        return [float(rate) for rate in (self._stream.average_rate, self._stream.guessed_rate) if rate]

    def _survey(self) -> list[int]:
        """When the frames are shown, in ticks and in order; reads the file through, without decoding.

        Left out is what nobody sees: frames before the start of an edit list, those before the first keyframe, and
        VP8's hidden reference frames.
        """
        listed = sum(not entry.is_discard for entry in self._stream.index_entries)
        packets, ends, lasts = [], 0.0, (self._container.duration or 0) / 1e6
        for packet in self._container.demux():
            stamp = packet.dts if packet.pts is None else packet.pts
            if not packet.size or stamp is None:
                continue
            ends = max(ends, float((stamp + (packet.duration or 0)) * packet.time_base))
            if packet.stream_index == self._stream.index:
                packets.append((stamp, packet.is_keyframe, packet.is_discard or self._hidden(packet)))
        begin = next((stamp for stamp, key, _ in packets if key), 0)
        stamps = sorted({stamp for stamp, _, hidden in packets if stamp >= begin and not hidden})
        if not stamps:
            raise BrokenSample(self.name, "holds no frames")
        if self._format == "mov":  # says of each frame where it lies; how long it lasts, an edit list may change
            if len(stamps) < CUT_SHORT * listed:
                raise BrokenSample(self.name, f"ends after {len(stamps)} of {listed} frames: cut off")
        elif ends < CUT_SHORT * lasts:
            raise BrokenSample(self.name, f"ends after {ends:.4g} of {lasts:.4g} seconds: cut off")
        return stamps

    @property
    def _format(self) -> str:
        return self._container.format.name.partition(",")[0]

    def _hidden(self, packet: Packet) -> bool:
        """Whether a packet of VP8 is decoded but never shown (RFC 6386, 9.1: show_frame)."""
        return self._stream.codec_context.name in ("vp8", "libvpx") and not bytes(packet)[0] >> 4 & 1

    def _from(self, stamp: int) -> Iterator[VideoFrame]:
        """All frames from a keyframe at or before the frame of time ``stamp`` on.

        Indices are in decoding order, so a keyframe that is decoded before the frame may be shown after it: then the
        seek is repeated from earlier.
        """
        for back in REWINDS if self._format in SEEKABLE else ():
            start = max(self._stamps[0], stamp - math.floor(back / self._tick))
            self._container.seek(start, stream=self._stream)
            frames = self._container.decode(self._stream)
            head = next(frames, None)
            if head is not None and head.pts is not None and head.pts <= stamp:
                return itertools.chain([head], frames)
        self._container.close()
        self._open()
        return self._container.decode(self._stream)


def read_video(video: OpenVideo | OpenAnimation, max_bytes: int) -> np.ndarray:
    """All frames as shown, uint8 t h w c. Raises BrokenSample for more than ``max_bytes`` of them."""
    if video.count > MAX_FRAMES:
        raise BrokenSample(video.name, f"lasts {video.count} frames: cut it into clips, or mend its times")
    if video.count * video.size > max_bytes:
        raise BrokenSample(video.name, f"takes more than {max_bytes / 2**30:g} GiB decoded: cut it into clips")
    shot = video.frames(0, 1, video.count)
    h, w = (round(side) for side in shown_size(shot[0], video.aspect))
    return np.stack(list(upright(shot, h, w)))


def open_clip(
    file: Path | bytes, name: str, *, fps: float | None = None, silent: float | None = None, advice: str = ""
) -> OpenVideo | OpenAnimation:
    """A video or an animation (gif, WebP, APNG), told apart by their first bytes; see `OpenVideo`, `OpenAnimation`.

    Raises BrokenSample, for a rate that cannot be with ``advice``, as does all that is done with it in `readable`.
    """
    film = OpenAnimation(file, name, fps=fps, silent=silent) if is_animation(file) else OpenVideo(file, name, fps=fps)
    if not plausible(film.fps):
        low, high = PLAUSIBLE_FPS
        found = f"its frames have {film.fps:.4g} per second" if film.fps else "says no frame rate"
        raise BrokenSample(name, f"{found}; allowed: {low:g} to {high:g}{advice}")
    return film


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Raises BrokenSample in the place of whatever PyAV raises for a file it cannot read."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # PyAV meets damage with IndexError, MemoryError and others beside FFmpeg's own
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
    last, levels = None, np.empty(0)
    for frame in frames:
        if frame is last:  # a pause
            yield levels
            continue
        # the same bytes, as long as nothing is resized, in half the time
        form = "rgba" if clear else "gbrp" if (frame.height, frame.width) == (height, width) else "rgb24"
        scaled = scaler.reformat(frame, width=width, height=height, format=form, interpolation=flags, threads=1)
        levels = _interleaved(scaled) if form == "gbrp" else scaled.to_ndarray()
        if clear:
            levels = pictures.to_levels(pictures.on_white(levels.astype(np.float32) / 255))
        last, levels = frame, np.rot90(levels, turns)
        yield levels


def _interleaved(frame: VideoFrame) -> np.ndarray:
    """A frame of the planes green, blue and red as h w c."""
    import cv2  # as av, only for who decodes

    planes = cast("Sequence[Any]", frame.planes)
    rows = (np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size) for plane in planes)
    green, blue, red = (plane[:, : frame.width] for plane in rows)
    return cv2.merge((red, green, blue))


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
