"""Tiny clips, and metrics that write down what they are asked; a module, so that other processes find it."""

import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from perturb.errors import UserError
from perturb.metrics import Clip, ClipSource, Context, MetricInfo, Sets, Unavailable, Value


def flat(level: int, size: int = 8, frames: int = 2) -> np.ndarray:
    return np.full((frames, size, size, 3), level, np.uint8)


def given(frames: np.ndarray, fps: float) -> tuple[np.ndarray, float]:
    return frames, fps


def unreadable() -> tuple[np.ndarray, float]:
    raise UserError("is torn")


def killed() -> tuple[np.ndarray, float]:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def source(
    name: str, level: int = 0, *, fps: float = 8, size: int = 8, original: ClipSource | None = None
) -> ClipSource:
    return ClipSource(name, partial(given, flat(level, size), fps), name, original=original)


def broken(name: str) -> ClipSource:
    return ClipSource(name, unreadable, name)


def info(name: str, **more: Any) -> MetricInfo:
    return MetricInfo(name, "visual", "level", (0.0, 255.0), "up", (), "mean", "test", **more)


@dataclass
class Level:
    """Mean level of a clip, less that of its original when paired; refuses level 13; writes down what it was asked."""

    log: Path
    name: str = "level"
    paired: bool = False
    batched: bool = False
    version: int = 1
    depends: tuple[Any, ...] = ()
    weights: bool = True

    @property
    def infos(self) -> tuple[MetricInfo, ...]:
        return (info(self.name, depends=self.depends),)

    def identity(self) -> Mapping[str, Any]:
        if not self.weights:
            raise Unavailable("no weights here")
        return {"version": self.version}

    def __call__(self, clips: Sequence[Clip], context: Context) -> Mapping[str, Sequence[Value]]:
        with self.log.open("a") as log:
            log.write(f"{self.name}:{','.join(clip.prompt_id for clip in clips)}\n")
        levels = [int(clip.frames.mean()) for clip in clips]
        if 13 in levels:
            raise RuntimeError("13")
        base = [int(context.original(clip).frames.mean()) if self.paired else 0 for clip in clips]
        return {self.name: [Value.of(level - zero) for level, zero in zip(levels, base, strict=True)]}


@dataclass
class Spread:
    """Range of the levels of a set, of the sets it is compared with, and each clip's place above the lowest."""

    log: Path
    batched: bool = False
    infos = (info("spread", scope="set"), info("reference_spread", scope="set"), info("height"))

    def identity(self) -> Mapping[str, Any]:
        return {"version": 1}

    def features(self, clips: Sequence[Clip]) -> Sequence[np.ndarray | Value]:
        with self.log.open("a") as log:
            log.write(f"spread:{','.join(clip.prompt_id for clip in clips)}\n")
        levels = [clip.frames.mean() for clip in clips]
        return [Value.failed("13") if level == 13 else np.array(level) for level in levels]

    def combine(self, sets: Sets) -> Mapping[str, Value | Sequence[Value]]:
        own = np.array(sets.own.features)
        other = None if sets.reference is None else np.ptp(np.array(sets.reference.features))
        absent = Value.unavailable("no reference")
        return {
            "spread": Value.of(np.ptp(own)),
            "reference_spread": absent if other is None else Value.of(other),
            "height": [Value.of(level) for level in own - own.min()],
        }
