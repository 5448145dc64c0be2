"""Which clips stand for a run, read from its directory.

Axis letters: t frames, h w pixels, c colour channels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perturb.analysis.result import Result
from perturb.analysis.statistics.endpoints import PRIMARY
from perturb.analysis.statistics.estimates import changes, typical_and_most_changed
from perturb.errors import UserError

MOST_STEPS = 6
"""More columns of frames than this would be too small to see."""
REASONS = {
    "typical": "typical: median change of motion quality",
    "most changed": "largest loss of motion quality",
}


@dataclass(frozen=True)
class Strip:
    """One trajectory to show: its clips (uint8 t h w c) by step or label, the prompt's text, why it was chosen."""

    clips: Mapping[int | str, np.ndarray]
    prompt: str
    detail: str

    @property
    def frame_size(self) -> tuple[int, int]:
        """(h, w) in pixels."""
        return next(iter(self.clips.values())).shape[1:3]


def load_strips(result: Result) -> list[Strip]:
    """The typical trajectory and the one whose motion quality fell most, among those whose clips are all on disk.

    Raises UserError when a clip is not uint8 t h w 3.
    """
    run, prompts = result.run, result.run.manifest.prompts
    shown = thin(result.points, MOST_STEPS)
    names = {point: point if result.is_curve else result.labels[point] for point in shown}
    change = changes(result.scores, PRIMARY, run.along)
    whole = [all(run.clip(point, *key).is_file() for point in shown) for key in change.index]
    last = change.loc[whole].iloc[:, -1]
    strips = []
    for role, key in typical_and_most_changed(last).items():
        clips = {names[point]: read_clip(run.clip(point, *key)) for point in shown}
        shift = f"{last[key]:+.2f}".replace("-", "−")
        strips.append(Strip(clips, prompts[key[0]], f"{REASONS[role]} ({shift})"))
    return strips


def thin(steps: Sequence[Any], most: int) -> list[Any]:
    """At most so many of them, evenly taken, the first and the last among them.

    >>> thin([0, 1, 2, 3, 4, 5, 6, 7, 8], 3)
    [0, 4, 8]
    """
    return [steps[round(i)] for i in np.linspace(0, len(steps) - 1, min(most, len(steps)))]


def read_clip(path: Path) -> np.ndarray:
    """The frames of a clip, uint8 t h w 3. Raises UserError for a file that is none."""
    try:
        clip = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"{path} is not a clip ({error}). Remove it and run the study again; it resumes.") from None
    if clip.ndim != 4 or clip.shape[-1] != 3 or clip.dtype != np.uint8:
        raise UserError(f"{path} holds {clip.dtype} {clip.shape}; a clip is uint8 t h w 3. Sample the run again.")
    return clip
