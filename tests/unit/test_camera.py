"""Camera, shots and tracks: hand-computed cases; what they say of families of clips is in test_families."""

import numpy as np
import pytest

from perturb.errors import UserError
from perturb.metrics import Clip, Context, Gathered, Sets, Value
from perturb.metrics.calibration.clips import clip, pan, rotation, shape, zoom
from perturb.metrics.embedded.camera import REST, camera_flow, cameras, fit_camera, to_first
from perturb.metrics.embedded.flow import optical_flow, residuals
from perturb.metrics.embedded.frames import blur, luma
from perturb.metrics.embedded.motion import measure_motion
from perturb.metrics.embedded.objects import Shot, object_path, object_smoothness, object_texture
from perturb.metrics.embedded.shots import cuts, shots
from perturb.metrics.embedded.track_distance import TrackDistance, directions
from perturb.metrics.embedded.tracks import measure_tracks, track_jerk, tracks_of

GRID = np.stack(np.meshgrid(np.arange(2, 64, 4.0), np.arange(2, 64, 4.0)), -1).reshape(-1, 2).astype(np.float32)


def seen(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Blurred luma and flow."""
    light = luma(clip(frames).frames)
    return blur(light, 1.0), optical_flow(light)


def test_a_similarity_is_found_under_outliers() -> None:
    true = np.array([[1.02, -0.01, 1.5], [0.01, 1.02, -0.7]])
    after = (GRID @ true[:, :2].T + true[:, 2]).astype(np.float32)
    after[:80] += np.random.default_rng(0).uniform(3, 9, (80, 2)).astype(np.float32)  # 80 of 256
    assert fit_camera(GRID, after, (64, 64)) == pytest.approx(true, abs=1e-3)


def test_a_camera_is_believed_only_around_the_frame_and_with_a_majority() -> None:
    middle = GRID[(np.abs(GRID - 32) < 15).all(1)]
    assert len(middle) > 20
    assert fit_camera(middle, middle + 2, (64, 64)) is None
    assert fit_camera(GRID[:19], GRID[:19] + 2, (64, 64)) is None
    apart = GRID + np.random.default_rng(0).uniform(-9, 9, GRID.shape).astype(np.float32)
    assert fit_camera(GRID, apart, (64, 64)) is None


@pytest.mark.parametrize("velocity", [(1, 0), (-0.5, 2), (3, 3)])
def test_the_camera_of_a_pan_is_the_pan(velocity: tuple[float, float]) -> None:
    for matrix in cameras(*seen(pan(velocity))):
        assert camera_flow(matrix, 64, 64).mean((0, 1)) == pytest.approx(velocity, abs=0.15)


def test_the_camera_of_a_zoom_and_of_a_turn() -> None:
    assert np.mean([matrix[0, 0] for matrix in cameras(*seen(zoom(0.03)))]) == pytest.approx(1.03, abs=0.003)
    angles = [np.degrees(np.arctan2(matrix[0, 1], matrix[0, 0])) for matrix in cameras(*seen(rotation(3)))]
    assert np.abs(np.mean(angles)) == pytest.approx(3, abs=0.2)


def test_an_object_on_a_plain_background_is_no_camera() -> None:
    assert all(matrix is REST for matrix in cameras(*seen(shape((3, 0), radius=14))))


def test_the_way_back_to_the_first_frame_undoes_the_cameras() -> None:
    turn = np.array([[0.0, -1.0, 5.0], [1.0, 0.0, 2.0]])
    shift = np.array([[1.0, 0.0, 3.0], [0.0, 1.0, 0.0]])
    point = np.array([4.0, 7.0])
    later = shift[:, :2] @ (turn[:, :2] @ point + turn[:, 2]) + shift[:, 2]
    assert (to_first([turn, shift])[2] @ [*later, 1])[:2] == pytest.approx(point)


def still_shot(light: np.ndarray, flow: np.ndarray) -> Shot:
    return Shot(light, flow, *residuals(light, flow), 0.0)


def moved_square(places: list[float]) -> Shot:
    """A bright square of 10 px at x in a dark frame, and its true flow."""
    light = np.zeros((len(places), 64, 64), np.float32)
    flow = np.zeros((len(places) - 1, 64, 64, 2), np.float32)
    for k, x in enumerate(places):
        light[k, 27:37, int(x) : int(x) + 10] = 0.8
        if k + 1 < len(places):
            flow[k, 27:37, int(x) : int(x) + 10, 0] = places[k + 1] - x
    return still_shot(light, flow)


def test_the_path_of_a_region_by_hand() -> None:
    assert object_path(moved_square([5, 9, 13, 17, 21, 25])) == pytest.approx(1, abs=1e-3)
    assert object_path(moved_square([5, 9, 13, 17, 21, 17, 13, 9])) > 0.95  # one turn is no teleport: a median
    assert object_path(moved_square([5, 40, 50, 12, 20, 48, 8])) < 0.05
    assert object_path(moved_square([5, 40, 6, 41, 5, 40])) > 0.9  # known: two places by turns are one on the average
    assert object_path(moved_square([5, 5, 5, 5])) == 1.0


def test_smoothness_is_the_change_of_acceleration_by_hand() -> None:
    def of(velocities: list[float]) -> float:
        flow = np.zeros((len(velocities), 64, 64, 2), np.float32)
        flow[..., 0] = np.array(velocities)[:, None, None]
        shot = Shot(np.zeros((len(velocities) + 1, 64, 64), np.float32), flow, flow[..., 0], flow[..., 0] > -99, 0.0)
        shot.__dict__["cameras"] = [REST] * len(velocities)
        shot.__dict__["speed"] = np.ones(flow.shape[:3], np.float32)
        return object_smoothness(shot)

    assert of([1, 1, 1]) == 1.0
    assert of([1, 2, 3]) == pytest.approx(1, abs=1e-6)  # even acceleration
    assert of([2, -2, 2]) == pytest.approx(np.exp(-((8 / 2.25 / 1.75) ** 2)))  # floor τ/6 = .25 px
    assert of([2, -2]) == 1.0  # too short to tell


def test_texture_is_what_the_flow_carries() -> None:
    steady = moved_square([5, 9, 13, 17, 21])
    assert object_texture(steady) == pytest.approx(1, abs=1e-3)  # covered and uncovered ground counts for nothing
    boiling = steady.light * (1 + 0.5 * np.random.default_rng(0).standard_normal(steady.light.shape)).astype(np.float32)
    assert object_texture(still_shot(boiling, steady.flow)) < 0.5


def test_a_cut_is_found_and_named() -> None:
    frames = np.concatenate([pan((1, 0), seed=1)[:4], 0.8 * pan((0, 1), seed=2)[:4] ** 2])
    light, flow = seen(frames)
    assert cuts(clip(frames).frames, light, *residuals(light, flow)) == [3]
    assert shots(8, [3]) == [slice(0, 4), slice(4, 8)]
    got = measure_motion(clip(frames), Context())
    assert got["cuts"] == 1
    assert got["smoothness"] < 0.95 < got["object_smoothness"]


def test_a_flash_is_no_cut_and_unrelated_frames_are_no_shots() -> None:
    flash = pan((1, 0), seed=1).copy()
    flash[4:] = flash[4:] * 0.4
    assert measure_motion(clip(flash), Context())["cuts"] == 0
    unrelated = np.concatenate([pan((1, 0), seed=k)[:1] * (0.3 + 0.1 * k) for k in range(8)])
    assert measure_motion(clip(unrelated), Context())["cuts"] == 0
    foreign = pan((1, 0), seed=1).copy()
    foreign[4] = 0.2 + 0.5 * pan((0, 0), seed=9)[0] ** 2
    assert measure_motion(clip(foreign), Context())["cuts"] == 0


def test_tracks_of_a_disc_over_a_drifting_camera() -> None:
    (still,) = tracks_of(clip(pan((0, 0))))
    assert still.survival == 1.0
    assert np.nanmax(np.abs(np.diff(still.raw, axis=0))) < 1e-3
    (panned,) = tracks_of(clip(pan((2, -1))))
    lasting = panned.raw[:, ~np.isnan(panned.raw[-1, :, 0])]
    assert np.median(lasting[-1] - lasting[0], axis=0) == pytest.approx(np.array([14, -7]) / 64, abs=0.005)
    assert np.nanmedian(np.abs(np.diff(panned.steady, axis=0))) < 0.001
    got = measure_tracks(clip(shape((3, 0))), Context())
    assert got["track_speed"] == pytest.approx(3 / 64, abs=0.002)
    assert got["track_travel"] == pytest.approx(21 / 64, abs=0.01)
    assert got["track_jerk"] < 0.1


def test_jerk_of_a_track_by_hand() -> None:
    x = np.array([0.0, 2.0, 4.0, 4.0, 6.0]) / 64  # v 2 2 0 2, Δv 0 -2 2, Δ²v -2 4; mean |v| 1.5, floor .25
    assert track_jerk(np.column_stack([x, 0 * x])) == pytest.approx(3 / 1.75)
    t = np.arange(6.0)
    assert track_jerk(np.column_stack([t**2, t]) / 64) == pytest.approx(0, abs=1e-9)


def test_what_cannot_be_tracked_says_so() -> None:
    with pytest.raises(UserError, match="at least 4 frames, not 3"):
        measure_tracks(clip(pan((1, 0))[:3]), Context())
    with pytest.raises(UserError, match="no corner"):
        measure_tracks(Clip(np.zeros((5, 64, 64, 3), np.uint8), 8.0, "p", 0, 0), Context())


def test_directions_by_hand() -> None:
    vectors = np.array([[1.0, 0.0], [0.0, -2.0], [-3.0, 0.1], [0.0, 0.0]])
    expected = [1 / 4, 0, 0, 0, np.hypot(3, 0.1) / 4, 0, 2 / 4, 0]
    assert directions(vectors) == pytest.approx(expected)


def test_the_distance_of_motion_grows_with_the_difference_of_motion() -> None:
    metric = TrackDistance()

    def gathered(velocity: tuple[float, float]) -> Gathered:
        clips = [clip(pan(velocity, seed=seed), f"p{seed}") for seed in range(8)]
        return Gathered([one.sample for one in clips], [f for f in metric.features(clips) if not isinstance(f, Value)])

    right, faster, left = gathered((1, 0)), gathered((2, 0)), gathered((-1, 0))
    found = [metric.combine(Sets(own, right))["track_distance"] for own in (right, faster, left)]
    same, fast, back = (value.value or 0.0 for value in found if isinstance(value, Value))
    assert same == pytest.approx(0, abs=1e-3)
    assert same < fast
    assert same < back
    absent = metric.combine(Sets(right, None))["track_distance"]
    assert isinstance(absent, Value)
    assert absent.status == "unavailable"
    few = metric.combine(Sets(Gathered(right.samples[:7], right.features[:7]), right))["track_distance"]
    assert isinstance(few, Value)
    assert "at least 8 clips on both sides, given 7 and 8" in few.reason
