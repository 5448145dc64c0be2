"""Clips of the untouched model, which the runs of a folder share: sampled once, kept by all they are a function of."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from perturb.disks import convenience
from perturb.store.paths import resolve
from perturb.store.rundir import replacing


@dataclass(frozen=True)
class SharedClips:
    """A folder that may be deleted at any time; ``origin`` is what its clips depend on beside their batch, as JSON."""

    folder: Path
    origin: Mapping[str, Any]

    @staticmethod
    def of(runs_dir: str, origin: Mapping[str, Any]) -> "SharedClips | None":
        """Those of the runs in a folder; None, with a warning, where nothing can be written for them."""
        found = SharedClips(resolve(runs_dir) / ".cache" / "clips", origin)
        with convenience("clips that runs share are"), FileLock(found.folder / "first.lock"):
            return found
        return None

    @contextmanager
    def batch(self, clips: Sequence[tuple[str, str, int]]) -> Iterator[Path]:
        """Where a batch of (prompt id, text, noise seed) lies, or is to lie; another process that wants it waits."""
        digest = hashlib.sha256(json.dumps([self.origin, clips], sort_keys=True).encode()).hexdigest()
        folder = self.folder / digest[:2] / digest
        with FileLock(folder.with_suffix(".lock")):
            yield folder


def place(source: Path, target: Path) -> None:
    """Put a file also at ``target``, atomically: by a hard link, or as a copy where there can be none."""
    with replacing(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, temporary)
