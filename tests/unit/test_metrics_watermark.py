"""The mark that different prompts share, and its trace in single clips."""

from typing import ClassVar

import numpy as np
import pytest
from metric_sets import gathered

from perturb.errors import UserError
from perturb.metrics import Clip, Context, Value, score_clips
from perturb.metrics.base import Gathered
from perturb.metrics.calibration.clips import clip, pan, shape
from perturb.metrics.calibration.distortions import watermarked
from perturb.metrics.embedded.watermark import (
    Watermark,
    correlation,
    gradient,
    mean_light,
    reference_mark,
    strength,
    support,
)
from perturb.metrics.embedded.watermark import common_mark as mark_of

SCENES = [pan((i % 3, i % 2), seed=i) if i % 2 else shape((1 + i % 4, i % 3 - 1), seed=i) for i in range(12)]


def study(opacity: float, step: int = 0) -> list[Clip]:
    return [clip(watermarked(frames, opacity), f"p{i:03d}", 0, step) for i, frames in enumerate(SCENES)]


def common_mark(clips: list[Clip]) -> np.ndarray:
    return mark_of(gathered((c, mean_light(c)) for c in clips))


def trace(clips: list[Clip], where: Context) -> list[Value]:
    return [value for _, i, value in score_clips([Watermark()], clips, where) if i.name == "watermark_trace"]


def context(clips: list[Clip]) -> Context:
    return Context({c.sample: c for c in clips})


def test_strength_rises_with_opacity_and_is_small_without_mark() -> None:
    got = [strength(common_mark(study(opacity))) for opacity in (0, 0.1, 0.2, 0.4)]
    assert got == sorted(got)
    assert got[0] < 0.35 * got[2]


def test_gradient_and_strength_by_hand() -> None:
    ramp = np.zeros((2, 8, 8, 3), np.uint8) + (10 * np.arange(8, dtype=np.uint8))[None, None, :, None]
    field = gradient(mean_light(Clip(ramp, 8.0, "p", 0, 0)))
    assert field[..., 0] == pytest.approx(np.zeros((8, 8)), abs=1e-7)
    assert field[..., 1] == pytest.approx(np.full((8, 8), 10 / 255), abs=2 / 65535)
    assert strength(field) == pytest.approx(10 / 255, abs=2 / 65535)


def test_the_median_takes_prompts_not_seeds() -> None:
    flat = [Clip(np.full((1, 8, 8, 3), 99, np.uint8), 8.0, f"p{i}", 0, 0) for i in range(3)]
    ramp = np.zeros((1, 8, 8, 3), np.uint8) + (10 * np.arange(8, dtype=np.uint8))[None, None, :, None]
    seeds = [
        Clip(ramp, 8.0, "p9", seed, 0) for seed in range(5)
    ]  # one prompt with five clips is still one vote of four
    assert strength(common_mark(flat + seeds)) == 0


def test_correlation_by_hand() -> None:
    mark = np.zeros((4, 4, 2))
    mark[1, 1] = [3, 4]
    assert correlation(mark, mark, support(mark)) == pytest.approx(1)
    assert correlation(-2 * mark, mark, support(mark)) == pytest.approx(-1)
    assert correlation(np.zeros((4, 4, 2)), mark, support(mark)) == 0
    across = np.zeros((4, 4, 2))
    across[1, 1] = [4, -3]
    assert correlation(across, mark, support(mark)) == pytest.approx(0)


def test_trace_is_high_with_the_mark_and_low_without() -> None:
    marked = context(study(0.3))

    def traces(clips: list[Clip]) -> list[float]:
        return [v.value for v in trace(clips, marked) if v.value is not None]

    kept, gone = traces(study(0.3, step=10)), traces(study(0.0, step=10))
    assert len(kept) == len(gone) == len(SCENES)
    assert min(kept) > 0.7
    assert np.mean(gone) < 0.3


def test_absent_and_unusable_references() -> None:
    one = study(0.3)[:1]
    value = trace(one, Context())[0]
    assert (value.status, value.value) == ("unavailable", None)
    value = trace(one, context(study(0.3)[:3]))[0]
    assert "at least 4 different prompts, given 3" in value.reason
    flat = context([Clip(np.full((2, 64, 64, 3), 99, np.uint8), 8.0, f"p{i}", 0, 0) for i in range(5)])
    value = trace(one, flat)[0]
    assert (value.status, "share no mark" in value.reason) == ("unavailable", True)
    small = Clip(np.zeros((2, 32, 32, 3), np.uint8), 8.0, "p", 0, 0)
    value = trace([small], context(study(0.3)))[0]
    assert (value.status, "(32, 32)" in value.reason) == ("failed", True)


def test_too_few_prompts_and_mixed_sizes_give_no_number() -> None:
    rows = score_clips([Watermark()], study(0.3)[:3], Context())
    assert [value.status for owner, _, value in rows if owner is None] == ["unavailable"]
    mixed = [*study(0.3), Clip(np.zeros((2, 32, 32, 3), np.uint8), 8.0, "px", 0, 0)]
    rows = score_clips([Watermark()], mixed, Context())
    assert [value.status for owner, _, value in rows if owner is None] == ["unavailable"]
    with pytest.raises(UserError, match="one size"):
        reference_mark(gathered((c, mean_light(c)) for c in mixed))


def test_of_many_prompts_64_in_even_distances_are_read() -> None:
    class Counting(list[np.ndarray]):
        asked: ClassVar[list[int]] = []

        def __getitem__(self, place: int) -> np.ndarray:  # type: ignore[override]
            self.asked.append(place)
            return super().__getitem__(place)

    many = 1000
    lights = Counting([np.tile(np.arange(8, dtype=np.uint16) * i, (8, 1)) for i in range(many)])  # slopes 0 … 999
    mark = mark_of(Gathered([(f"p{i}", 0) for i in range(many)], lights))
    assert lights.asked[0] == 0
    assert lights.asked[-1] == many - 1
    assert np.diff(lights.asked) == pytest.approx(np.full(63, (many - 1) / 63), abs=1)
    assert mark[..., 1] == pytest.approx(np.full((8, 8), 499.5 / 65535), abs=1 / 65535)
