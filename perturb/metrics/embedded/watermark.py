"""A mark that stays in one place whatever the prompt. Axes: p prompts, h w pixels, last axis 2 = (down, across).

What different prompts have in common at a pixel is not content: the median over prompts of the signed luma gradient
cancels the scenes and keeps an overlaid mark (Dekel et al. 2017, "On the effectiveness of visible watermarks").
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from perturb.errors import UserError
from perturb.metrics.base import STEP_0, Clip, EmbeddedSet, Gathered, MetricInfo, Sets, Unavailable, Value

MIN_PROMPTS = 4
"""The fewest whose median is not the mean of two: one scene of four can then not pass for a mark. Set by hand."""
MAX_PROMPTS = 64
"""Bounds memory; the standard error of a median of 64 is a sixth of the spread of one scene."""
LEVELS = 65535
"""The largest uint16."""
MARK_PERCENTILE = 99.5
"""Of a frame of 64×64 the 20 pixels of the steepest common gradient: fewer than the outline of a mark has. By hand."""
MARK_FLOOR = 0.02
"""Luma per pixel, five grey levels of 255: a common gradient below this is no mark. Set by hand, not fitted."""
MARK_SUPPORT = 0.5
"""Of the strength: half maximum, the usual extent of a peak."""

_SOURCE = "after Dekel et al. 2017"


def mean_light(clip: Clip) -> np.ndarray:
    """The clip's mean luma over time: uint16 `h w`, 0…65535, half the size of floats and exact to 1e-5 of luma."""
    if min(clip.frames.shape[1:3]) < 2:
        raise UserError(f"a gradient needs frames of at least 2×2 px, not {clip.frames.shape[1:3]}")
    return np.round(clip.light.mean(0) * LEVELS).astype(np.uint16)


def gradient(light: np.ndarray) -> np.ndarray:
    """Signed gradient (central differences) of the mean luma `h w` of `mean_light`: float32 `h w 2`, luma per pixel."""
    luma = light.astype(np.float32) / LEVELS
    return np.stack([np.gradient(luma, axis=axis) for axis in (0, 1)], axis=-1)


def common_mark(gathered: Gathered) -> np.ndarray:
    """Median over prompts of the signed gradient, the seeds of a prompt averaged first: `h w 2`.

    Of more than 64 prompts, 64 in even distances are taken: the median has settled by then, and memory stays small.
    Unavailable for fewer than 4 prompts; UserError for mixed frame sizes.
    """
    by_prompt: dict[str, list[int]] = {}
    for place, (prompt_id, _) in enumerate(gathered.samples):
        by_prompt.setdefault(prompt_id, []).append(place)
    if len(by_prompt) < MIN_PROMPTS:
        raise Unavailable(f"a watermark shows across at least {MIN_PROMPTS} different prompts, given {len(by_prompt)}")
    groups = list(by_prompt.values())
    chosen = np.linspace(0, len(groups) - 1, min(len(groups), MAX_PROMPTS)).round().astype(int)
    marks = [_mean_gradient(gathered.features[place] for place in groups[number]) for number in chosen]
    _check_sizes(mark.shape[:2] for mark in marks)
    return np.median(marks, axis=0)


def _mean_gradient(lights: Iterable[np.ndarray]) -> np.ndarray:
    """Of the clips of one prompt, one after the other. UserError for mixed frame sizes."""
    fields = map(gradient, lights)
    total, count = next(fields), 1
    for field in fields:
        _check_sizes([field.shape[:2], total.shape[:2]])
        total, count = total + field, count + 1
    return total / count


def _check_sizes(sizes: Iterable[tuple[int, ...]]) -> None:
    if len(different := set(sizes)) > 1:
        raise UserError(f"a watermark needs clips of one size, given {sorted(different)} (height, width)")


def reference_mark(reference: Gathered | None) -> np.ndarray:
    """The mark that the step-0 clips share: `h w 2`. Unavailable without them or when they share none."""
    if reference is None:
        raise Unavailable(f"no {STEP_0} to estimate the mark from")
    mark = common_mark(reference)
    if strength(mark) < MARK_FLOOR:
        raise Unavailable(f"the step-0 clips share no mark (strength {strength(mark):.4f} < {MARK_FLOOR})")
    return mark


def strength(mark: np.ndarray) -> float:
    """99.5th percentile of the magnitude of the common gradient `h w 2`, luma per pixel."""
    return float(np.percentile(np.linalg.norm(mark, axis=-1), MARK_PERCENTILE))


def support(mark: np.ndarray) -> np.ndarray:
    """Where the mark `h w 2` is: |m| ≥ ½ its strength, boolean `h w`."""
    return np.linalg.norm(mark, axis=-1) >= MARK_SUPPORT * strength(mark)


def correlation(scene: np.ndarray, mark: np.ndarray, where: np.ndarray) -> float:
    """Σ g·m / √(Σ|g|² Σ|m|²) there: 1 the mark alone, 0 no trace, -1 inverted; both `h w 2`, `where` see `support`."""
    g, m = scene[where], mark[where]
    norm = np.sqrt((g**2).sum() * (m**2).sum())
    return float((g * m).sum() / norm) if norm > 0 else 0.0


class Watermark(EmbeddedSet):
    """The strength of what all prompts share (of the set), and how much of the step-0 mark each clip still shows."""

    version = 2
    infos = (
        MetricInfo.of(
            "watermark",
            "visual",
            "99.5th percentile of |median over prompts (64 of them, where there are more) of the signed luma gradient|",
            _SOURCE,
            unit="luma per px",
            direction="down",
            scope="set",
            depends=("size",),
        ),
        MetricInfo.of(
            "watermark_trace",
            "visual",
            "normalised correlation of the clip's gradient with the step-0 set's common gradient, on the mark",
            _SOURCE,
            range=(-1.0, 1.0),
            direction="down",
            depends=("size",),
        ),
    )

    def keep(self, clip: Clip) -> np.ndarray:
        """The mean luma of the clip, see `mean_light`."""
        return mean_light(clip)

    def combine(self, sets: Sets) -> Mapping[str, Value | Sequence[Value]]:
        """Both measures; each says by itself why it cannot be had."""
        shared = Value.told(lambda: strength(common_mark(sets.own)))
        try:
            mark = reference_mark(sets.reference)
        except UserError as error:
            return {"watermark": shared, "watermark_trace": [Value.because(error)] * len(sets.own.features)}
        where = support(mark)
        return {"watermark": shared, "watermark_trace": [_trace(light, mark, where) for light in sets.own.features]}


def _trace(light: np.ndarray, mark: np.ndarray, where: np.ndarray) -> Value:
    if light.shape != mark.shape[:2]:
        return Value.failed(f"the clip's size {light.shape} is not that of the step-0 clips {mark.shape[:2]}")
    return Value.of(correlation(gradient(light), mark, where))
