"""Clips for eyes: mp4 through PyAV, contact sheets as png. Axes: t frames, h w pixels, c channels (RGB)."""

from fractions import Fraction
from pathlib import Path

import numpy as np
from einops import rearrange

from perturb.store.rundir import replacing


def write_mp4(path: Path, frames: np.ndarray, fps: float) -> None:
    """H.264 in yuv420p, which every browser plays, of frames uint8 t h w c. Odd sizes repeat the last row or column."""
    import av

    _, h, w, _ = frames.shape
    even = np.pad(frames, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)), mode="edge")
    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000), options={"crf": "16"})
        stream.height, stream.width, stream.pix_fmt = even.shape[1], even.shape[2], "yuv420p"
        for image in even:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        container.mux(stream.encode())


def write_contact_sheet(path: Path, clips: list[np.ndarray]) -> None:
    """One png: a row per clip, its frames from left to right; clips uint8 t h w c of one size. Atomic."""
    from PIL import Image

    sheet = rearrange(np.stack(clips), "b t h w c -> (b h) (t w) c")
    with replacing(path) as temporary:
        Image.fromarray(sheet).save(temporary, format="png")
