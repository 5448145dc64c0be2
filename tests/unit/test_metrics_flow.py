"""Flow against the known displacement and against scikit-image's iterative Lucas-Kanade."""

import cv2
import numpy as np
import pytest
from metrics_clips import clip, noisy, pan, shape
from skimage.registration import optical_flow_ilk

from perturb.metrics.flow import explained, optical_flow, warp, warp_residual
from perturb.metrics.frames import blur, luma


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
    assert warp_residual(image, image, right) == pytest.approx(1.0)
    assert warp_residual(image, image, right * 100) == 1.0


def test_real_motion_is_explained_and_noise_is_not() -> None:
    moving = blur(light(pan((2, 0))), 1.0)
    true_flow = np.zeros((64, 64, 2), np.float32)
    true_flow[..., 0] = 2
    assert explained(moving[0], moving[1], true_flow)[8:-8, 8:-8].mean() > 0.99
    grainy = light(noisy(np.full((2, 64, 64, 3), 0.5), 0.05))
    soft = blur(grainy, 1.0)
    assert explained(soft[0], soft[1], optical_flow(grainy)[0]).mean() < 0.1
