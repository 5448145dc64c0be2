"""Flow against the known displacement and against scikit-image's iterative Lucas-Kanade."""

import cv2
import numpy as np
import pytest
from skimage.registration import optical_flow_ilk

from perturb.metrics.calibration.clips import clip, pan, shape
from perturb.metrics.calibration.distortions import dirty, noisy
from perturb.metrics.embedded.flow import explained, grain, left_of, length, optical_flow, residuals, resting, warp
from perturb.metrics.embedded.frames import at_most, blur, luma


def light(frames: np.ndarray) -> np.ndarray:
    return luma(clip(frames).frames)


@pytest.mark.parametrize("velocity", [(0.5, 0), (2, 1), (0, -4), (-6, 0)])
def test_end_point_error_on_pans(velocity: tuple[float, float]) -> None:
    flow = optical_flow(light(pan(velocity)))
    error = np.linalg.norm(flow - np.array(velocity), axis=-1)
    assert error[:, 8:-8, 8:-8].mean() < 0.1
    assert error.mean() < 0.3


@pytest.mark.parametrize("velocity", [(2, 0), (0, 5)])
def test_small_shapes_move_at_their_speed(velocity: tuple[float, float]) -> None:
    flow = optical_flow(light(shape(velocity, ground=0.06)))
    middle = flow[3, 28:36, 28:36].reshape(-1, 2).mean(0)
    assert middle == pytest.approx(velocity, abs=0.15)
    assert np.abs(flow[3, :6, :6]).max() < 0.2


def test_agrees_with_iterative_lucas_kanade() -> None:
    frames = light(pan((1.5, -0.5)))
    rows, columns = optical_flow_ilk(frames[0], frames[1], radius=7)
    ours = optical_flow(frames[:2])[0]
    inner = slice(12, -12)
    assert np.abs(ours[inner, inner, 0] - columns[inner, inner]).mean() < 0.1
    assert np.abs(ours[inner, inner, 1] - rows[inner, inner]).mean() < 0.1


def test_grain_is_noise_that_is_new_in_every_frame() -> None:
    of_luma = 0.05 * np.sqrt(0.299**2 + 0.587**2 + 0.114**2)  # independent noise in the three channels
    assert grain(light(noisy(pan((1, 0)), 0.05))) == pytest.approx(of_luma, rel=0.05)
    assert grain(light(dirty(np.repeat(pan((1, 0))[:1], 8, axis=0), 0.05))) == 0
    assert grain(light(dirty(pan((1, 0)), 0.05))) < 0.003


def test_a_blur_leaves_of_noise_what_it_should() -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal((1, 256, 256)).astype(np.float32)
    assert blur(noise, 2.0).std() == pytest.approx(left_of(0.1, 2.0), rel=0.03)


def test_identical_frames_have_exactly_no_flow() -> None:
    assert not optical_flow(np.repeat(light(pan((1, 0)))[:1], 3, axis=0)).any()


def test_does_not_depend_on_the_number_of_threads() -> None:
    frames, threads = light(shape((3, 0), ground=0.06)), cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        one = optical_flow(frames)
        cv2.setNumThreads(4)
        four = optical_flow(frames)
        assert cv2.getNumThreads() == 4
    finally:
        cv2.setNumThreads(threads)
    assert np.array_equal(one, four)


def test_warp_by_hand() -> None:
    image = np.arange(12, dtype=np.float32).reshape(3, 4)
    right = np.zeros((3, 4, 2), np.float32)
    right[..., 0] = 1
    warped, inside = warp(image, right)
    assert np.array_equal(warped[:, :3], image[:, 1:])
    assert np.array_equal(inside, np.array([[True, True, True, False]] * 3))
    residual, inside = residuals(np.stack([image, image]), right[None])
    assert np.array_equal(residual[0], np.where(inside[0], 1, 0))
    assert not residuals(np.stack([image, image]), 100 * right[None])[1].any()


def test_length_by_hand() -> None:
    assert np.array_equal(length(np.array([[3.0, 4.0], [0.0, -2.0]])), [5, 2])


def test_real_motion_is_explained_and_noise_is_not() -> None:
    moving = blur(light(pan((2, 0))), 1.0)
    true_flow = np.zeros((7, 64, 64, 2), np.float32)
    true_flow[..., 0] = 2
    assert explained(moving, *residuals(moving, true_flow))[:, 8:-8, 8:-8].mean() > 0.99
    grainy = light(noisy(np.full((2, 64, 64, 3), 0.5), 0.05))
    soft = blur(grainy, 1.0)
    left = residuals(soft, optical_flow(grainy))
    assert explained(soft, *left).mean() < 0.1
    assert not explained(soft, *left, grainy=left_of(grain(grainy), 1.0)).any()


def residual_in_a_corner(values: list[float]) -> np.ndarray:
    """`p 64 64`: one value per pair in the first 16×16 pixels."""
    residual = np.zeros((len(values), 64, 64), np.float32)
    residual[:, :16, :16] = np.array(values)[:, None, None]
    return residual


def test_only_what_returns_with_its_sign_in_every_pair_rests() -> None:
    assert resting(residual_in_a_corner([0.1] * 7))[4:12, 4:12] == pytest.approx(np.ones((8, 8)))
    assert not resting(residual_in_a_corner([0.1, -0.1, 0.1, -0.1, 0.1, -0.1])).any()
    assert not resting(residual_in_a_corner([0.1, 0, 0, 0, 0, 0, 0])).any()
    assert not resting(residual_in_a_corner([0.0] * 7)).any()
    noise = 0.1 * np.random.default_rng(0).standard_normal((7, 64, 64)).astype(np.float32)
    assert resting(noise).mean() < 0.05
    half = resting(residual_in_a_corner([0.1, 0.1, 0.1, 0, 0, 0, 0]))[8, 8]  # ρ = (7·(3/7) - 1)/6 = 1/3
    assert half == pytest.approx((1 / 3 - 0.1) / 0.3, abs=1e-4)


def test_what_rests_everywhere_is_no_mark() -> None:
    assert not resting(np.full((7, 64, 64), 0.1, np.float32)).any()


def test_at_most_averages_whole_blocks() -> None:
    image = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    assert np.array_equal(at_most(image, 2)[0], [[2.5, 4.5], [10.5, 12.5]])
    assert at_most(image, 4) is image
    assert at_most(np.zeros((1, 320, 512), np.float32), 256).shape == (1, 160, 256)
