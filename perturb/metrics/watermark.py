"""A mark that stays in one place whatever the prompt. Axes: p prompts, h w pixels, last axis 2 = (down, across).

What different prompts have in common at a pixel is not content: the median over prompts of the signed luma gradient
cancels the scenes and keeps an overlaid mark (Dekel et al. 2017, "On the effectiveness of visible watermarks").
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from perturb.errors import UserError
from perturb.metrics.base import Clip, Gathered, MetricInfo, Sets, Unavailable, Value
from perturb.metrics.frames import luma

MIN_PROMPTS = 4
MARK_PERCENTILE = 99.5
MARK_FLOOR = 0.02  # luma per px; a common gradient below this is no mark
MARK_SUPPORT = 0.5  # of the strength

_SOURCE = "after Dekel et al. 2017"


def gradient(clip: Clip) -> np.ndarray:
    """Signed gradient (central differences) of the clip's mean luma over time: `h w 2`, luma per pixel."""
    if min(clip.frames.shape[1:3]) < 2:
        raise UserError(f"a gradient needs frames of at least 2×2 px, not {clip.frames.shape[1:3]}")
    return np.stack(np.gradient(luma(clip.frames).mean(0)), axis=-1)


def common_mark(gathered: Gathered) -> np.ndarray:
    """Median over prompts of the signed gradient, the seeds of a prompt averaged first: `h w 2`.

    Unavailable for fewer than 4 prompts; UserError for mixed frame sizes.
    """
    by_prompt: dict[str, list[np.ndarray]] = {}
    for (prompt_id, _), field in zip(gathered.samples, gathered.features, strict=True):
        by_prompt.setdefault(prompt_id, []).append(field)
    if len(by_prompt) < MIN_PROMPTS:
        raise Unavailable(f"a watermark shows across at least {MIN_PROMPTS} different prompts, given {len(by_prompt)}")
    sizes = {one.shape[:2] for fields in by_prompt.values() for one in fields}
    if len(sizes) > 1:
        raise UserError(f"a watermark needs clips of one size, given {sorted(sizes)} (height, width)")
    return np.median([np.mean(fields, axis=0) for fields in by_prompt.values()], axis=0)


def reference_mark(reference: Gathered | None) -> np.ndarray:
    """The mark that the step-0 clips share: `h w 2`. Unavailable without them or when they share none."""
    if reference is None:
        raise Unavailable("no step-0 clips to estimate the mark from; score step 0 first")
    mark = common_mark(reference)
    if strength(mark) < MARK_FLOOR:
        raise Unavailable(f"the step-0 clips share no mark (strength {strength(mark):.4f} < {MARK_FLOOR})")
    return mark


def strength(mark: np.ndarray) -> float:
    """99.5th percentile of the magnitude of the common gradient `h w 2`, luma per pixel."""
    return float(np.percentile(np.linalg.norm(mark, axis=-1), MARK_PERCENTILE))


def correlation(scene: np.ndarray, mark: np.ndarray) -> float:
    """Σ g·m / √(Σ|g|² Σ|m|²) where |m| ≥ ½ its strength: 1 the mark alone, 0 no trace, -1 inverted; both `h w 2`."""
    support = np.linalg.norm(mark, axis=-1) >= MARK_SUPPORT * strength(mark)
    g, m = scene[support], mark[support]
    norm = np.sqrt((g**2).sum() * (m**2).sum())
    return float((g * m).sum() / norm) if norm > 0 else 0.0


class Watermark:
    """The strength of what all prompts share (of the set), and how much of the step-0 mark each clip still shows."""

    batched = False
    infos: tuple[MetricInfo, ...] = (
        MetricInfo(
            "watermark",
            "visual",
            "luma per px",
            (0.0, 1.0),
            "down",
            (),
            "99.5th percentile of |median over prompts of the signed luma gradient|",
            _SOURCE,
            scope="set",
            depends=("size",),
        ),
        MetricInfo(
            "watermark_trace",
            "visual",
            "1",
            (-1.0, 1.0),
            "down",
            (),
            "normalised correlation of the clip's gradient with the step-0 set's common gradient, on the mark",
            _SOURCE,
            depends=("size",),
        ),
    )

    def identity(self) -> Mapping[str, Any]:
        """The version."""
        return {"version": 1}

    def features(self, clips: Sequence[Clip]) -> Sequence[np.ndarray | Value]:
        """The gradient of each clip, float32 `h w 2`."""
        kept: list[np.ndarray | Value] = []
        for clip in clips:
            try:
                kept.append(gradient(clip).astype(np.float32))
            except UserError as error:
                kept.append(Value.because(error))
        return kept

    def combine(self, sets: Sets) -> Mapping[str, Value | Sequence[Value]]:
        """Both measures; each says by itself why it cannot be had."""
        try:
            shared = Value.of(strength(common_mark(sets.own)))
        except UserError as error:
            shared = Value.because(error)
        try:
            mark = reference_mark(sets.reference)
        except UserError as error:
            return {"watermark": shared, "watermark_trace": [Value.because(error)] * len(sets.own.features)}
        return {"watermark": shared, "watermark_trace": [_trace(field, mark) for field in sets.own.features]}


def _trace(field: np.ndarray, mark: np.ndarray) -> Value:
    if field.shape != mark.shape:
        return Value.failed(f"the clip's size {field.shape[:2]} is not that of the step-0 clips {mark.shape[:2]}")
    return Value.of(correlation(field, mark))
