"""Natural scene statistics of a frame, their shift from step 0, and the distance to the images D_I."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from perturb.metrics import Clip, Context, Value, score_clips
from perturb.metrics.base import Gathered, Sets
from perturb.metrics.calibration.clips import clip, pan
from perturb.metrics.calibration.distortions import blurred, desaturated, noisy, shuffled
from perturb.metrics.embedded.naturalness import (
    SPREAD_FLOOR,
    Naturalness,
    frame_statistics,
    frechet,
    mahalanobis,
    natural_statistics,
)

RNG = np.random.default_rng(0)
PANS = [pan((1, 1), seed) for seed in range(10)]


def test_a_flat_frame_by_hand() -> None:
    flat = np.full((16, 16), 0.4, np.float32)
    assert natural_statistics(flat) == pytest.approx([0, np.sqrt(2 / np.pi), 0, 0, np.log2(0.02)])


def test_white_noise_is_gaussian_and_uncorrelated() -> None:
    spread, shape, straight, diagonal, contrast = natural_statistics(
        RNG.normal(0.5, 0.2, (128, 128)).astype(np.float32)
    )
    assert shape == pytest.approx(np.sqrt(2 / np.pi), abs=0.03)
    assert abs(straight) < 0.17  # taking the local mean off leaves neighbours slightly opposed
    assert abs(diagonal) < 0.17
    assert 0.7 < spread < 1
    assert contrast == pytest.approx(np.log2(0.2), abs=0.2)


def test_a_checkerboard_is_opposed_to_its_neighbours() -> None:
    board = 0.5 + 0.2 * (np.indices((32, 32)).sum(0) % 2 - 0.5).astype(np.float32)
    _, shape, straight, diagonal, _ = natural_statistics(board)
    assert (shape, straight, diagonal) == pytest.approx((1, -1, 1), abs=0.1)


def test_frame_statistics_add_light_contrast_and_colour() -> None:
    half = np.zeros((2, 16, 16, 3))
    half[:, :8, :, 0] = 1
    assert frame_statistics(clip(half))[:, 5:] == pytest.approx(
        np.tile([0.299 / 2, 0.299 / 2, 1.3 * np.hypot(127.5, 63.75)], (2, 1)), abs=1e-3
    )


def test_mahalanobis_by_hand() -> None:
    one = np.array([[-1.0], [1.0], [-1.0], [1.0]])  # sample variance 4/3, floor .01²
    assert mahalanobis(np.array([[2.0], [0.0]]), one) == pytest.approx([2 / np.sqrt(4 / 3 + 0.01**2), 0])
    many = RNG.normal(size=(4000, 3)) @ np.diag([1, 2, 3])
    assert np.sqrt((mahalanobis(many, many) ** 2).mean()) == pytest.approx(1, abs=0.01)


def test_frechet_by_hand_and_against_the_matrix_root() -> None:
    images, clips = RNG.normal(size=(300, 8)) * 3 + 1, RNG.normal(size=(200, 8)) @ RNG.normal(size=(8, 8))
    assert frechet(images, images) == pytest.approx(0, abs=1e-6)
    shifted = images + 2 * np.hypot(images.std(0, ddof=1), SPREAD_FLOOR)
    assert frechet(shifted, images) == pytest.approx(2)
    unit = np.hypot(images.std(0, ddof=1), SPREAD_FLOOR)
    a, b = np.cov(clips / unit, rowvar=False), np.cov(images / unit, rowvar=False)
    apart = (((clips.mean(0) - images.mean(0)) / unit) ** 2).sum() + np.trace(a + b - 2 * np.real(sqrtm(a @ b)))
    assert frechet(clips, images) == pytest.approx(np.sqrt(apart / 8))


def studied(scenes: list[np.ndarray], step: int = 0) -> list[Clip]:
    return [clip(frames, f"p{i}", 0, step) for i, frames in enumerate(scenes)]


def shifts(scenes: list[np.ndarray], originals: list[np.ndarray] | None = None) -> list[Value]:
    reference = {one.sample: one for one in studied(PANS if originals is None else originals)}
    rows = score_clips([Naturalness()], studied(scenes, step=10), Context(reference))
    return [value for _, info, value in rows if info.name == "nss_shift"]


def mean_shift(scenes: list[np.ndarray]) -> float:
    return float(np.mean([value.value for value in shifts(scenes) if value.value is not None]))


def test_the_shift_is_about_1_at_step_0_and_grows_with_damage_of_either_kind() -> None:
    start = mean_shift(PANS)
    assert 0.3 < start < 1.2
    assert mean_shift([shuffled(x, 8) for x in PANS]) == pytest.approx(start)
    for spoil, weak, strong in ((noisy, 0.01, 0.05), (blurred, 0.7, 2)):
        got = [mean_shift([spoil(x, strength) for x in PANS]) for strength in (weak, strong)]
        assert start < got[0] < got[1]


def test_the_shift_says_why_there_is_none() -> None:
    assert {value.status for value in shifts(PANS[:2], PANS[:7])} == {"unavailable"}
    assert "at least 8 of them, given 7" in shifts(PANS[:1], PANS[:7])[0].reason
    rows = score_clips([Naturalness()], studied(PANS), Context())
    assert {value.status for _, _, value in rows} == {"unavailable"}
    tiny = Clip(np.zeros((1, 6, 9, 3), np.uint8), 8.0, "p", 0, 0)
    value = score_clips([Naturalness()], [tiny], Context())[0][2]
    assert (value.status, "at least 7 px" in value.reason) == ("failed", True)


def distance(scenes: list[np.ndarray], images: list[np.ndarray] | None) -> Value:
    def kept(some: list[np.ndarray]) -> Gathered:
        return Gathered([], [frame_statistics(clip(one)) for one in some])

    found = Naturalness().combine(Sets(kept(scenes), None, None if images is None else kept(images)))
    value = found["image_distance"]
    assert isinstance(value, Value)
    return value


def test_the_distance_to_the_images_grows_with_what_sets_the_clips_apart() -> None:
    images = [pan((0, 0), 100 + seed)[:1] for seed in range(16)]
    got = [distance([desaturated(x, loss) for x in PANS], images).value for loss in (0, 0.3, 0.9)]
    assert got[0] is not None
    assert got[0] < 1
    assert got == sorted(got, key=lambda number: number or 0)
    spoiled = distance([blurred(x, 2) for x in PANS], images).value
    assert spoiled is not None
    assert spoiled > 2 * got[0]
    assert (distance(PANS, None).status, distance(PANS, images[:5]).status) == ("unavailable", "unavailable")
    assert "given 10 and 5" in distance(PANS, images[:5]).reason
