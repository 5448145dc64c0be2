"""Orderings that motion quality must keep, on clips whose true motion is known."""

import numpy as np
import pytest
from metrics_clips import (
    CLEAN,
    SHUFFLES,
    blurred,
    boiling,
    clip,
    contrast,
    desaturated,
    flickering,
    noisy,
    pan,
    shape,
    watermarked,
)

from perturb.errors import UserError
from perturb.metrics import Clip, Context
from perturb.metrics.motion import dynamics, luminance_stability, measure_motion, smoothness


def measures(frames: np.ndarray) -> dict[str, float]:
    return dict(measure_motion(clip(frames), Context()))


def quality(frames: np.ndarray) -> float:
    return measures(frames)["motion_quality"]


@pytest.fixture(scope="module")
def clean_quality() -> dict[str, float]:
    return {name: quality(frames) for name, frames in CLEAN.items()}


SPOILED = {
    "noise .02": (lambda x: noisy(x, 0.02), 1.0),
    "noise .08": (lambda x: noisy(x, 0.08), 0.85),
    "boil .1": (lambda x: boiling(x, 0.1), 0.5),
    "flicker 10 %": (lambda x: flickering(x, 0.1), 0.5),
    **{f"shuffle {i}": (lambda x, order=order: x[order], 0.5) for i, order in enumerate(SHUFFLES)},
}


@pytest.mark.parametrize("name", CLEAN)
@pytest.mark.parametrize("how", SPOILED)
def test_clean_motion_beats_its_spoiled_versions(name: str, how: str, clean_quality: dict[str, float]) -> None:
    spoil, limit = SPOILED[how]
    assert quality(spoil(CLEAN[name])) < limit * clean_quality[name]


UNRELATED = {
    "blur": (lambda x: blurred(x, 1.5), 0.05),
    "contrast": (lambda x: contrast(x, 0.5), 0.05),
    "grey": (lambda x: desaturated(x, 0.0), 0.02),
    "watermark": (lambda x: watermarked(x, 0.2), 0.15),
}


@pytest.mark.parametrize("how", UNRELATED)
def test_changes_of_look_hardly_move_motion_quality(how: str, clean_quality: dict[str, float]) -> None:
    alter, limit = UNRELATED[how]
    changes = [abs(quality(alter(frames)) / clean_quality[name] - 1) for name, frames in CLEAN.items()]
    assert max(changes) < limit
    assert np.median(changes) < 0.1


@pytest.mark.parametrize("name", CLEAN)
def test_static_clip_scores_exactly_zero(name: str) -> None:
    still = measures(np.repeat(CLEAN[name][:1], 8, axis=0))
    assert still["motion_quality"] == 0.0
    assert still["dynamics"] == 0.0
    assert still["consistency"] == still["smoothness"] == still["luminance_stability"] == 1.0
    assert still["collapse"] == 1.0


@pytest.mark.parametrize("sigma", [0.02, 0.08])
def test_noise_on_a_static_clip_is_not_motion(sigma: float) -> None:
    assert quality(noisy(np.repeat(shape((2, 0))[:1], 8, axis=0), sigma)) < 0.02


def test_motion_quality_is_the_product_of_its_parts() -> None:
    got = measures(CLEAN["small disc, 2 px"])
    product = got["dynamics"] * got["consistency"] * got["smoothness"] * got["luminance_stability"]
    assert got["motion_quality"] == pytest.approx(product)
    assert got["motion_quality"] > 0.6
    assert got["collapse"] == 0.0


def test_dynamics_of_a_small_shape_follows_its_speed() -> None:
    speeds = [0.5, 1, 2, 3, 4, 5]
    got = [measures(shape((v, 0)))["dynamics"] for v in speeds]
    expected = [1 - np.exp(-v / 1.5) for v in speeds]  # τ = 6·64/256 = 1.5 px per frame
    assert got == pytest.approx(expected, abs=0.03)


def test_dynamics_by_hand() -> None:
    speed = np.zeros((3, 10, 10))
    speed[0, 0, :5], speed[1, 0, :5], speed[2, 0, :5] = 1, 3, 30  # 5 of 100 pixels; the median pair has 3 px
    assert dynamics(speed) == pytest.approx(1 - np.exp(-3 / (60 / 256)))


def test_smoothness_by_hand() -> None:
    turn = np.zeros((2, 64, 64, 2), np.float32)
    turn[0, ..., 0], turn[1, ..., 0] = 2, -2  # velocity change 4, speed 2, floor 6·64/256/6 = .25
    assert smoothness(turn, np.ones((2, 64, 64))) == pytest.approx(np.exp(-((4 / 2.25 / 0.7) ** 2)))
    assert smoothness(np.abs(turn), np.ones((2, 64, 64))) == 1.0


def test_luminance_stability_by_hand() -> None:
    light = np.ones((4, 2, 2)) * np.array([0.5, 0.6, 0.5, 0.6])[:, None, None]
    assert luminance_stability(light) == pytest.approx(np.exp(-20 * 0.5 * 0.2))
    ramp = np.ones((4, 2, 2)) * np.array([0.2, 0.3, 0.4, 0.5])[:, None, None]
    assert luminance_stability(ramp) == pytest.approx(1.0)


def test_mirrored_and_reversed_clips_score_alike() -> None:
    frames = shape((3, 0), ground=0.06)
    assert quality(frames[:, :, ::-1]) == pytest.approx(quality(frames), rel=0.05)
    assert quality(frames[::-1]) == pytest.approx(quality(frames), rel=0.05)


def test_collapse_needs_stillness_and_likeness_to_the_first_frame() -> None:
    fading = np.repeat(pan((0, 0))[:1], 8, axis=0) * np.linspace(1, 0.5, 8)[:, None, None, None]
    assert measures(fading)["collapse"] == 0.0
    assert measures(noisy(np.repeat(pan((0, 0))[:1], 8, axis=0), 0.005))["collapse"] == 1.0


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_frames_have_no_motion(count: int) -> None:
    with pytest.raises(UserError, match=f"undefined for {count} frame"):
        measure_motion(Clip(np.zeros((count, 64, 64, 3), np.uint8), 8.0, "p", 0, 0), Context())


@pytest.mark.parametrize("size", [(3, 9, 17), (4, 40, 72), (3, 200, 150)])
def test_other_sizes_give_numbers(size: tuple[int, int, int]) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    got = measure_motion(Clip(frames, 8.0, "p", 0, 0), Context())
    assert all(0 <= number <= 1 for number in got.values())
