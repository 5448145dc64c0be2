"""The embedded world as files: encoded clips or stills with a table of captions, or webdataset shards of the same.

What is written is what a training on the world itself sees: sample ``index`` shows ``scene(seed, index)``.
Axes: t frames, h w pixels, c channels (RGB).
"""

import csv
import io
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from perturb.errors import UserError
from perturb.progress import progress
from perturb.store.rundir import replacing, write_atomic
from perturb.structured import check_range
from perturb.world.render import Grade, render, render_still
from perturb.world.scenes import FPS, FRAMES, scene, still_moment

Kind = Literal["clips", "stills"]
Form = Literal["files", "shards"]
GRADES: Mapping[Kind, tuple[Grade, ...]] = {"clips": ("low", "high"), "stills": ("web", "high")}
TABLE, CARD = "captions.csv", "export.json"


@dataclass(frozen=True, kw_only=True)
class Export:
    """What to write. ``fps`` goes round: sample i has ``fps[i % len(fps)]``; stills have neither ``frames`` nor fps.

    ``lossless``: clips in RGB with x264 at qp 0 (every player of FFmpeg reads them, browsers do not), else H.264 in
    yuv420p at crf 16. Stills are always lossless png. ``per_shard``: samples in one tar file.
    """

    kind: Kind
    grade: Grade
    count: int
    seed: int
    form: Form = "files"
    frames: int = FRAMES
    fps: tuple[float, ...] = (FPS, FPS, FPS, 2 * FPS)
    lossless: bool = False
    per_shard: int = 256

    def __post_init__(self) -> None:
        if self.kind not in GRADES or self.grade not in GRADES[self.kind]:
            allowed = "; ".join(f"{kind}: {', '.join(grades)}" for kind, grades in GRADES.items())
            raise UserError(f"kind={self.kind} grade={self.grade}; allowed: {allowed}")
        if self.form not in get_args(Form):
            raise UserError(f"form={self.form}; allowed: {', '.join(get_args(Form))}")
        for name in ("count", "frames", "per_shard"):
            check_range(name, getattr(self, name), low=1)
        check_range("seed", self.seed, low=0)
        if not self.fps or not all(1 <= fps <= 240 for fps in self.fps):
            raise UserError(f"fps={list(self.fps)}; allowed: one or more numbers from 1 to 240")

    def sample(self, index: int) -> dict[str, bytes]:
        """The files of one sample by their suffix: mp4 or png, and the caption (for clips also fps) beside it."""
        here = scene(self.seed, index)
        if self.kind == "stills":
            # the same moments as in a training: spread over the clip
            still = render_still(here, self.grade, moment=still_moment(index), noise_seed=index)
            return {"png": encode_png(still), "txt": here.caption.encode()}
        fps = self.fps[index % len(self.fps)]
        clip = render(here, self.grade, frames=self.frames, fps=fps, noise_seed=index)
        notes = {"caption": here.caption, "fps": fps, "duration": self.frames / fps}
        content = encode_mp4(clip, fps, lossless=self.lossless)
        return {"mp4": content, "txt": here.caption.encode(), "json": json.dumps(notes).encode()}


def export(settings: Export, folder: Path) -> Path:
    """Write the samples to ``folder`` and return what a training reads: the table, or the folder of shards.

    The same settings give the same bytes with the same versions of FFmpeg and x264. Raises UserError for a folder that
    is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not an empty folder; give another one with --out")
    with progress(f"{settings.grade}-grade {settings.kind}", settings.count) as advance:
        samples = _samples(settings, advance)
        (_write_files if settings.form == "files" else _write_shards)(settings, samples, folder)
    write_atomic(folder / CARD, json.dumps({"world": "perturb.world", **asdict(settings)}, indent=2) + "\n")
    return folder / TABLE if settings.form == "files" else folder


def encode_mp4(frames: np.ndarray, fps: float, *, lossless: bool) -> bytes:
    """H.264 of frames uint8 t h w c. Lossy clips need even sizes."""
    import av

    codec, pixels, quality = ("libx264rgb", "rgb24", {"qp": "0"}) if lossless else ("libx264", "yuv420p", {"crf": "16"})
    # x264's vector code reads beyond small pictures, and what lies there changes its decisions; its plain code does not
    options = {**quality, "x264-params": "asm=0"}
    buffer = io.BytesIO()
    # bitexact leaves the versions of FFmpeg out; one thread, because x264 writes their number down
    with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=options)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pixels
        stream.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def encode_png(image: np.ndarray) -> bytes:
    """A png of an image uint8 h w c."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="png")
    return buffer.getvalue()


def _samples(settings: Export, advance: Callable[[float], None]) -> Iterator[tuple[str, dict[str, bytes]]]:
    for index in range(settings.count):
        yield f"{index:06d}", settings.sample(index)
        advance(1)


def _write_files(settings: Export, samples: Iterator[tuple[str, dict[str, bytes]]], folder: Path) -> None:
    """One file per sample, and the table that names them all, last."""
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    writer.writerow(("path", "caption", "fps", "duration") if settings.kind == "clips" else ("path", "caption"))
    for key, files in samples:
        suffix = "mp4" if settings.kind == "clips" else "png"
        write_atomic(folder / f"{key}.{suffix}", files[suffix])
        notes = json.loads(files["json"]) if "json" in files else {}
        writer.writerow([f"{key}.{suffix}", files["txt"].decode(), *(notes[k] for k in ("fps", "duration") if notes)])
    write_atomic(folder / TABLE, rows.getvalue())


def _write_shards(settings: Export, samples: Iterator[tuple[str, dict[str, bytes]]], folder: Path) -> None:
    """Tar files of ``per_shard`` samples each: 000000.tar, 000001.tar, …"""
    from webdataset.writer import TarWriter

    for number in range(-(-settings.count // settings.per_shard)):
        with (
            replacing(folder / f"{number:06d}.tar") as temporary,
            temporary.open("wb") as file,
            # a fixed time of writing, so that the same samples give the same bytes
            TarWriter(file, mtime=0, encoder=False) as tar,
        ):
            for key, files in itertools.islice(samples, settings.per_shard):
                tar.write({"__key__": key, **files})
