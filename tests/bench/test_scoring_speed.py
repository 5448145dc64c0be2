"""Clips per second of scoring by every embedded metric, and where the time goes: reading, flow, the rest.

Clips are mp4 files, as a user has them, or npy files, as a study writes them.

Slow, and only true on an idle machine. By hand: pytest -m slow -s tests/bench/test_scoring_speed.py
PERTURB_BENCH_CLIPS sets how many clips are scored, PERTURB_BENCH_WORKERS by how many processes.
"""

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perturb.data.footage import read_clip
from perturb.metrics import ClipSource, Engine, embedded_metrics
from perturb.metrics.embedded.flow import optical_flow
from perturb.metrics.embedded.frames import at_most
from perturb.metrics.embedded.motion import LARGEST
from perturb.store.video import write_mp4

CLIPS = int(os.environ.get("PERTURB_BENCH_CLIPS", "64"))
WORKERS = int(os.environ.get("PERTURB_BENCH_WORKERS", "2"))
TARGET = 4.0  # clips per second at 320×512×16 on two cores
SIZES = {"64×64×8": (8, 64, 64), "320×512×16": (16, 320, 512)}


def scene(seed: int, frames: int, height: int, width: int) -> np.ndarray:
    """A smooth texture that moves by three pixels per frame, with a little noise: uint8 t h w c."""
    import cv2

    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 216, (height // 8, width // 8 + 8, 3)).astype(np.uint8)
    large = cv2.resize(coarse, (width + 3 * frames, height), interpolation=cv2.INTER_CUBIC)
    clean = np.stack([large[:, 3 * k : 3 * k + width] for k in range(frames)]).astype(np.int16)
    return np.clip(clean + rng.integers(-3, 4, clean.shape), 0, 255).astype(np.uint8)


def sources(folder: Path, shape: tuple[int, int, int], suffix: str) -> list[ClipSource]:
    """Each clip with another one as its step-0 clip, so that drift and watermark are measured too."""
    clips = []
    for number in range(CLIPS + WORKERS):
        for kind in ("now", "before"):
            path, frames = folder / kind / f"{number}.{suffix}", scene(number + 1000 * (kind == "before"), *shape)
            path.parent.mkdir(exist_ok=True)
            write_mp4(path, frames, 8) if suffix == "mp4" else np.save(path, frames)
        before, now = (
            ClipSource(kind, partial(read_clip, folder / kind / f"{number}.{suffix}", 8.0), f"p{number}")
            for kind in ("before", "now")
        )
        clips.append(ClipSource(now.name, now.read, now.prompt_id, original=before))
    return clips


def seconds(function: Callable[..., Any], calls: Sequence[Any]) -> float:
    """Processor time of one call in this process, after a first one that does not count."""
    function(calls[0])
    start = time.process_time()
    for call in calls[1:]:
        function(call)
    return (time.process_time() - start) / (len(calls) - 1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("suffix", ["mp4", "npy"])
@pytest.mark.parametrize("size", SIZES)
def test_clips_per_second(size: str, suffix: str, tmp_path: Path) -> None:
    clips = sources(tmp_path, SIZES[size], suffix)
    metrics = [metric for metric in embedded_metrics() if not metric.batched]  # without weights: numpy and OpenCV
    with Engine(metrics, None, workers=WORKERS) as engine:
        engine.measure(clips[CLIPS:])  # the processes have started
        start = time.perf_counter()
        reference = engine.gather(clip.original for clip in clips[:CLIPS] if clip.original)
        scores = engine.scores(engine.measure(clips[:CLIPS]), reference)
        rate = CLIPS / (time.perf_counter() - start)
    statuses = [value.status for clip in scores.clips for value in clip.values.values()]
    assert statuses.count("ok") > 0.9 * len(statuses)

    few = clips[: 1 + max(2, CLIPS // 8)]
    read = seconds(lambda clip: clip.load(), few) * 2  # a clip and its original
    light = [at_most(clip.load().light, LARGEST) for clip in few]  # as motion sees it
    flow = seconds(optical_flow, light)
    with Engine(metrics, None) as alone:
        whole = seconds(lambda clip: alone.measure([clip]), few)
    shares = {"reading": read / whole, "flow": flow / whole, "the rest": 1 - (read + flow) / whole}
    parts = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    spent = f"{whole * 1000:.0f} ms in one"
    print(f"\n{size} from {suffix}: {rate:.1f} clips/s with {WORKERS} processes ({spent}): {parts}")
    assert size != "320×512×16" or rate >= TARGET
