"""Visual measures: values by hand and what must change them, in which direction."""

import numpy as np
import pytest
import pywt
from skimage.measure import blur_effect

from perturb.errors import UserError
from perturb.metrics import Clip, Context
from perturb.metrics.calibration.clips import clip, pan, shape
from perturb.metrics.calibration.distortions import blurred, desaturated, flattened, noisy
from perturb.metrics.embedded.frames import blur, colourfulness
from perturb.metrics.embedded.visual import blockiness, blur_strength, clipped, measure_visual, noise, sharpness

GREY = np.full((2, 64, 64, 3), 0.5)


def measures(frames: np.ndarray) -> dict[str, float]:
    return dict(measure_visual(clip(frames), Context()))


def test_flat_grey_has_nothing() -> None:
    got = measures(GREY)
    assert got.pop("blur") == 1.0
    assert got == pytest.approx(dict.fromkeys(got, 0.0), abs=1e-6)


def test_colourfulness_by_hand() -> None:
    red = np.zeros((1, 4, 4, 3), np.uint8)
    red[..., 0] = 255
    assert colourfulness(red)[0] == pytest.approx(0.3 * np.hypot(255, 127.5))
    half = red.copy()
    half[:, :2] = 0  # rg and yb are 0 or full, half of the pixels each: mean and deviation are half of full
    assert colourfulness(half)[0] == pytest.approx(1.3 * np.hypot(127.5, 63.75))


def test_clipped_by_hand() -> None:
    frames = np.full((1, 2, 2, 3), 128, np.uint8)
    frames[0, 0, 0] = [0, 255, 7]
    assert clipped(frames)[0] == pytest.approx(2 / 12)


def test_blockiness_by_hand() -> None:
    blocks = np.kron(np.indices((8, 8)).sum(0) % 2, np.ones((8, 8)))[None]
    assert blockiness(blocks)[0] == pytest.approx(1 / (1 + 1 / 255))
    ramp = np.tile(np.linspace(0, 1, 64), (64, 1))[None]
    assert blockiness(ramp)[0] == pytest.approx(0, abs=1e-6)
    shifted = np.roll(blocks, (3, 3), axis=(1, 2))
    assert blockiness(shifted)[0] < 0
    with pytest.raises(UserError, match="larger than 8 px, not 8×8"):
        blockiness(np.zeros((1, 8, 8)))


@pytest.mark.parametrize("sigma", [0.02, 0.05, 0.1])
def test_noise_is_estimated_on_luma(sigma: float) -> None:
    luma_sigma = sigma * np.sqrt(0.299**2 + 0.587**2 + 0.114**2)  # independent noise in the three channels
    assert measures(noisy(GREY, sigma))["noise"] == pytest.approx(luma_sigma, rel=0.06)
    assert measures(noisy(shape((2, 0)), sigma))["noise"] == pytest.approx(luma_sigma, rel=0.2)


@pytest.mark.parametrize("size", [(64, 64), (64, 71), (33, 64), (21, 25), (9, 10)])
def test_noise_equals_the_median_of_pywavelets_coefficients(size: tuple[int, int]) -> None:
    frames = np.random.default_rng(1).random((3, *size), np.float32)
    for frame, level in zip(frames, noise(frames), strict=True):
        _, (_, _, diagonal) = pywt.dwt2(frame, "db2")
        assert level == pytest.approx(np.median(np.abs(diagonal)) / 0.6744898, rel=1e-6)


def test_noise_is_zero_for_smooth_clips() -> None:
    assert measures(pan((1, 0)))["noise"] < 0.002


def test_contrast_is_the_standard_deviation_of_luma() -> None:
    half = np.zeros((1, 16, 16, 3))
    half[:, :8] = 1
    assert measures(half)["contrast"] == pytest.approx(0.5)
    assert measures(flattened(half, 0.5))["contrast"] == pytest.approx(0.25, abs=1 / 255)


def test_sharpness_falls_and_blur_rises_with_blur() -> None:
    got = [measures(blurred(pan((1, 0)), sigma) if sigma else pan((1, 0))) for sigma in (0, 1, 2, 3)]
    sharp, blurry = [m["sharpness"] for m in got], [m["blur"] for m in got]
    assert sharp == sorted(sharp, reverse=True)
    assert blurry == sorted(blurry)
    assert sharp[3] < 0.7 * sharp[0]


@pytest.mark.parametrize("size", [(64, 64), (40, 72), (33, 17)])
def test_blur_equals_scikit_image(size: tuple[int, int]) -> None:
    fine = np.random.default_rng(0).random((3, *size), np.float32)
    frames = np.concatenate([fine, blur(fine, 1.0), blur(fine, 3.0), 0.01 * blur(fine, 1.0)])
    assert blur_strength(frames) == pytest.approx([blur_effect(frame) for frame in frames], abs=1e-6)


def test_sharpness_does_not_count_noise() -> None:
    flat, textured = noisy(GREY, 0.05), pan((1, 0))
    assert measures(flat)["sharpness"] < 0.1 * measures(textured)["sharpness"]
    assert measures(noisy(textured, 0.02))["sharpness"] == pytest.approx(measures(textured)["sharpness"], rel=0.05)


def test_sharpness_by_hand() -> None:
    ramp = np.tile(np.linspace(0, 1, 65, dtype=np.float32), (64, 1))[None]
    inner = sharpness(ramp, np.zeros(1))[0]
    assert inner == pytest.approx(1 / 64, rel=0.05)
    assert sharpness(ramp, np.ones(1))[0] == 0


def test_desaturation_changes_colour_only() -> None:
    before, after = measures(shape((2, 0))), measures(desaturated(shape((2, 0)), 1))
    assert after["colourfulness"] < 0.02 * before["colourfulness"]
    for name in ("sharpness", "contrast", "blur"):
        assert after[name] == pytest.approx(before[name], rel=0.02)


def test_every_frame_counts_alike() -> None:
    frames = np.stack([GREY[0], np.zeros((64, 64, 3))])
    assert measures(frames)["clipped"] == pytest.approx(0.5)
    assert noise(np.zeros((3, 16, 16), np.float32)).tolist() == [0, 0, 0]


def test_a_single_frame_is_enough() -> None:
    got = measure_visual(Clip(np.full((1, 32, 48, 3), 9, np.uint8), 8.0, "p", 0, 0), Context())
    assert all(np.isfinite(number) for number in got.values())
