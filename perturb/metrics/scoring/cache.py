"""Results kept by content: a clip that was measured once is not measured again. Axes: t frames, h w pixels, c channels.

Per clip one JSON file of numbers by metric, and one .npy per measure of sets. Only results are kept: what failed or was
unavailable is tried again. The folder may be deleted at any time, and several processes may write to it; where none
can, scoring goes on without.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from perturb.disks import convenience
from perturb.metrics.base import Clip, Metric, SetMetric, Value
from perturb.store.rundir import replacing

LIBRARIES = ("numpy", "scipy", "scikit-image", "PyWavelets", "opencv-python-headless", "torch", "torchvision")
"""Another version of these may give other numbers."""


def clip_digest(clip: Clip) -> str:
    """SHA-256 of what a metric can see of a clip: frames, their shape, fps and prompt."""
    seen = hashlib.sha256(json.dumps([clip.frames.shape, float(clip.fps), clip.prompt]).encode())
    seen.update(np.ascontiguousarray(clip.frames).data)
    return seen.hexdigest()


def metric_key(metric: Metric | SetMetric) -> str:
    """SHA-256 of what decides a metric's numbers beside the clip. Raises Unavailable where weights are absent."""
    names = [info.name for info in metric.infos]
    return _digest([type(metric).__qualname__, names, metric.identity(), library_versions()])


def paired_key(key: str, original: str | None) -> str:
    """The key of a metric that compares with an original, of which the digest is given."""
    return _digest([key, original])


@dataclass(frozen=True)
class ScoreCache:
    """The folder of kept results."""

    folder: Path

    def numbers(self, digest: str) -> dict[str, dict[str, Value]]:
        """Values of a clip by metric key and name; none where there are none yet, or the file is damaged."""
        try:
            found = json.loads(self._numbers(digest).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return {key: {name: Value.of(number) for name, number in kept.items()} for key, kept in found.items()}

    def keep_numbers(self, digest: str, results: Mapping[str, Mapping[str, Value]]) -> None:
        """Add those results of a clip, by metric key, in which every value is a number."""
        sound = {key: values for key, values in results.items() if all(v.status == "ok" for v in values.values())}
        if not sound:
            return
        kept = self.numbers(digest) | sound
        numbers = {key: {name: value.value for name, value in values.items()} for key, values in kept.items()}
        with convenience("kept scores are"), replacing(self._numbers(digest)) as temporary:
            temporary.write_text(json.dumps(numbers), encoding="utf-8")

    def feature(self, digest: str, key: str) -> Path | None:
        """The file of what a measure of sets keeps of a clip, None where there is none or it is damaged."""
        path = self._feature(digest, key)
        try:
            np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError):
            return None
        return path

    def keep_feature(self, digest: str, key: str, feature: np.ndarray) -> Path | np.ndarray:
        """Write it; returns the file, or the feature itself where it cannot be written."""
        path = self._feature(digest, key)
        with convenience("kept scores are"):
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.save(file, feature)
            return path
        return feature

    def _numbers(self, digest: str) -> Path:
        return self.folder / digest[:2] / f"{digest}.json"

    def _feature(self, digest: str, key: str) -> Path:
        return self.folder / digest[:2] / f"{digest}-{key[:16]}.npy"


def library_versions() -> dict[str, str]:
    """Of `LIBRARIES`, as installed."""
    return {name: _version(name) for name in LIBRARIES}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
